"""Whole or absent: atomic writes, torn logs, locks that die with their holder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssvae.core import files
from ssvae.core.files import (
    Busy,
    StepsLog,
    exclusive,
    read_json,
    remove_leftovers,
    write_atomic,
    write_json,
    write_text,
)

HOLD = """
import sys, time
from pathlib import Path
from ssvae.core.files import exclusive
with exclusive(Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    time.sleep(600)
"""


def test_json_comes_back_and_is_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "new" / "value.json"
    write_json(path, {"a": [1, 2.5, None], "é": "ü"})
    assert read_json(path) == {"a": [1, 2.5, None], "é": "ü"}
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["value.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_json_cannot_say_and_keeps_the_old_file(value: float, tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"x": value})
    assert read_json(path) == 1


def test_a_write_that_dies_halfway_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    write_text(path, "old")

    def die(temporary: Path) -> None:
        temporary.write_text("half of the ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, die)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_never_see_a_part(tmp_path: Path) -> None:
    """While the new content is being written the path still has the old one."""
    path = tmp_path / "file"
    write_text(path, "old")

    def write(temporary: Path) -> None:
        assert temporary.parent == path.parent, "rename is atomic on one file system only"
        temporary.write_text("new")
        assert path.read_text() == "old"

    write_atomic(path, write)
    assert path.read_text() == "new"


def test_content_reaches_the_disk_before_its_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda handle: (events.append("sync"), sync(handle)))
    monkeypatch.setattr(files.os, "replace", lambda old, new: (events.append("rename"), replace(old, new)))
    write_text(tmp_path / "file", "text")
    assert events == ["sync", "rename"]


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    for name in (".checkpoint.pt.ab12.tmp", "vae/.model.safetensors.77.tmp", "steps.jsonl", "vae/model.safetensors"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".train-x1").mkdir()
    (tmp_path / ".train-x1" / "latents.npy").write_text("x")
    remove_leftovers(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["steps.jsonl", "vae/model.safetensors"]


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_log_appends_and_a_reader_sees_every_line_at_once(tmp_path: Path) -> None:
    log = StepsLog(tmp_path / "steps.jsonl", 0)
    log.write(1, {"loss": 0.1})
    assert lines(tmp_path / "steps.jsonl") == [{"step": 1, "loss": 0.1}]
    log.write(2, {"loss": 0.05})
    log.sync()
    log.close()
    assert (tmp_path / "steps.jsonl").read_text() == '{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 0.05}\n'


@pytest.mark.parametrize(
    "torn", ["", '{"step": 3', '{"step": 3, "loss": 0.3}', '{"step": 3, "loss": 0.3}\n{"step": 4, "lo']
)
def test_log_resumes_at_the_checkpoint_whatever_was_torn(torn: str, tmp_path: Path) -> None:
    """Lines past the checkpoint are computed again; so is one that looks whole but has no end of line."""
    path = tmp_path / "steps.jsonl"
    path.write_text('{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 0.2}\n' + torn)
    log = StepsLog(path, 2)
    log.write(3, {"loss": 0.3})
    log.close()
    assert lines(path) == [{"step": step, "loss": step / 10} for step in (1, 2, 3)]


def test_log_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    StepsLog(path, 0).close()
    assert path.read_text() == ""


def test_log_stays_json_when_a_loss_is_not_finite(tmp_path: Path) -> None:
    log = StepsLog(tmp_path / "steps.jsonl", 0)
    log.write(1, {"loss": float("nan"), "norm": float("inf"), "lr": 0.5})
    log.close()
    assert (tmp_path / "steps.jsonl").read_text() == '{"step": 1, "loss": null, "norm": null, "lr": 0.5}\n'


def test_log_writes_floats_that_come_back_exactly(tmp_path: Path) -> None:
    log = StepsLog(tmp_path / "steps.jsonl", 0)
    log.write(1, {"x": 0.1 + 0.2})
    log.close()
    assert lines(tmp_path / "steps.jsonl")[0]["x"] == 0.1 + 0.2


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds ``tmp_path/lock``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_lock_of_another_process_is_busy_and_dies_with_sigkill(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(Busy), exclusive(tmp_path / "lock", wait=False):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    entered = False
    with exclusive(tmp_path / "lock", wait=False):
        entered = True
    assert entered


def test_a_lock_excludes_within_one_process_too_and_is_freed_by_an_error(tmp_path: Path) -> None:
    with exclusive(tmp_path / "lock", wait=False), pytest.raises(Busy), exclusive(tmp_path / "lock", wait=False):
        pass
    with pytest.raises(RuntimeError, match="inside"), exclusive(tmp_path / "lock", wait=False):
        raise RuntimeError("inside")
    with exclusive(tmp_path / "lock", wait=False):
        pass
