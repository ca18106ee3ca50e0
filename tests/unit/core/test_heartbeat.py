"""The sign of life: whole, rare, with the rate of this process, and never in the way of the work."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from ssvae.core.files import read_json, remove_leftovers
from ssvae.core.heartbeat import FILE, Heartbeat


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Noted:
    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def start(self, what: str, total: int, done: int = 0) -> None:
        self.told.append((what, total, done))

    def advance(self, done: int, note: str = "") -> None:
        self.told.append((done, note))


class Beaten:
    """A heartbeat with a clock to turn."""

    def __init__(self, folder: Path, every_s: float = 5.0) -> None:
        self.path, self.clock, self.below = folder / FILE, Clock(), Noted()
        self.beat = Heartbeat(self.below, self.path, every_s, self.clock)

    def advance(self, seconds: float, done: int) -> None:
        self.clock.now += seconds
        self.beat.advance(done)

    @property
    def said(self) -> dict[str, Any]:
        said = read_json(self.path)
        assert isinstance(said, dict)
        return said


def test_it_is_written_at_the_start_and_passes_everything_on(tmp_path: Path) -> None:
    it = Beaten(tmp_path)
    it.beat.start("train VAE", 100, 40)
    assert {key: it.said[key] for key in ("what", "done", "total", "rate")} == {
        "what": "train VAE", "done": 40, "total": 100, "rate": None,
    }  # fmt: skip
    assert it.said["time_ms"] > 1.6e12
    it.beat.advance(41, "L1 0.1")
    assert it.below.told == [("train VAE", 100, 40), (41, "L1 0.1")]
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_it_is_written_every_few_seconds_only(tmp_path: Path) -> None:
    it = Beaten(tmp_path)
    it.beat.start("measure", 100)
    seen = []
    for done in range(1, 21):
        it.advance(1.0, done)
        seen.append(it.said["done"])
    assert seen == [0] * 4 + [5] * 5 + [10] * 5 + [15] * 5 + [20]


def test_the_rate_is_this_process_s_and_of_late(tmp_path: Path) -> None:
    it = Beaten(tmp_path, every_s=0)
    it.beat.start("train VAE", 10_000, 500)
    it.advance(2.0, 501)
    assert it.said["rate"] == pytest.approx(0.5), "the 500 steps before the resume do not count"
    for step in range(502, 702):
        it.advance(0.5, step)
    assert it.said["rate"] == pytest.approx(2.0, rel=0.05)
    for step in range(702, 722):
        it.advance(10.0, step)
    assert it.said["rate"] == pytest.approx(0.1, rel=0.05), "what was faster is more than a minute ago"
    it.advance(400.0, 722)
    assert it.said["rate"] == pytest.approx(1 / 400), "one slow unit is seen"
    it.beat.start("latent statistics", 256)
    assert it.said["rate"] is None, "another piece of work, another rate"


def test_fast_work_is_remembered_in_little_memory(tmp_path: Path) -> None:
    it = Beaten(tmp_path)
    it.beat.start("train DiT", 10**6)
    for step in range(1, 20_001):
        it.advance(0.01, step)
    assert len(it.beat._points) < 70
    assert it.said["rate"] == pytest.approx(100, rel=0.01)


def test_a_file_that_cannot_be_written_is_named_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    it = Beaten(tmp_path / "gone", every_s=0)
    with caplog.at_level(logging.WARNING):
        it.beat.start("measure", 10)
        for done in range(1, 4):
            it.advance(1.0, done)
    assert it.beat.failures == 4
    assert len(caplog.records) == 1 and "gone" in caplog.text
    it.path.parent.mkdir()
    it.advance(1.0, 4)
    assert it.said["done"] == 4, "a disk that has room again is used"


def test_what_a_killed_process_leaves_is_a_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = Beaten(tmp_path)

    def die(path: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", die)
        it.beat.start("measure", 10)
    assert not it.path.exists(), "nobody reads half a file"
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []
