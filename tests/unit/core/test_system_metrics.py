"""Samples of a rank's machine: contiguous over restarts, bounded, and never a stage's problem."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from ssvae.core import system_metrics
from ssvae.core.progress import Silent
from ssvae.core.system_metrics import Machine, Pace, SystemSampler


def lines(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    path = folder / "system" / f"rank_{rank:03d}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


class Clock:
    """Goes on by ``step`` seconds with every look."""

    def __init__(self, now: float = 1_700_000_000.0, step: float = 2.0) -> None:
        self.now, self.step = now, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_a_sample_says_what_mlflows_own_monitor_would(tmp_path: Path) -> None:
    with SystemSampler(tmp_path, 0, 3600):
        pass
    (row,) = lines(tmp_path)
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(tmp_path))
    assert row["step"] == row["time_ms"] // 1000
    assert row["system_memory_usage_megabytes"] == pytest.approx(memory.used / 1e6, rel=0.5)
    assert row["disk_available_megabytes"] == pytest.approx(disk.free / 1e6, rel=0.5)
    assert row["process_memory_usage_megabytes"] == pytest.approx(psutil.Process().memory_info().rss / 1e6, rel=0.5)
    for name in ("cpu_utilization_percentage", "disk_usage_percentage", "network_receive_megabytes"):
        assert row[name] >= 0
    from mlflow.system_metrics.metrics import cpu_monitor, disk_monitor, network_monitor

    for monitor in (cpu_monitor.CPUMonitor(), disk_monitor.DiskMonitor(), network_monitor.NetworkMonitor()):
        monitor.collect_metrics()
        assert set(monitor.metrics) <= set(row)


@pytest.mark.parametrize("every_s", [None, 0, 0.0])
def test_switched_off_it_leaves_no_trace(tmp_path: Path, every_s: float | None) -> None:
    before = threading.active_count()
    progress = Silent()
    with SystemSampler(tmp_path, 0, every_s) as sampler:
        assert threading.active_count() == before
        assert sampler.watched(progress) is progress
    assert list(tmp_path.iterdir()) == []


def test_the_thread_samples_and_ends_with_the_context(tmp_path: Path) -> None:
    clock = Clock()
    with SystemSampler(tmp_path, 3, 0.001, clock) as sampler:
        for _ in range(2000):
            if len(lines(tmp_path, 3)) >= 3:
                break
            sampler._stop.wait(0.01)
    assert not any(thread.name == "system-metrics" for thread in threading.enumerate())
    rows = lines(tmp_path, 3)
    assert len(rows) >= 4
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})


def test_a_stage_that_fails_still_leaves_its_last_sample(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), SystemSampler(tmp_path, 0, 3600):
        raise ZeroDivisionError
    assert len(lines(tmp_path)) == 1


def test_a_restart_goes_on_behind_what_is_there(tmp_path: Path) -> None:
    with SystemSampler(tmp_path, 0, 3600, Clock(1000.0)) as sampler:
        sampler.sample()
    path = tmp_path / "system" / "rank_000.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 2000, "cpu')  # torn by a kill
    with SystemSampler(tmp_path, 0, 3600, Clock(2000.0)):
        pass
    with SystemSampler(tmp_path, 0, 3600, Clock(500.0)):  # a clock that went back
        pass
    assert path.read_text().startswith(whole)
    assert [row["step"] for row in lines(tmp_path)] == [1002, 1004, 2002]


def test_a_second_has_one_sample(tmp_path: Path) -> None:
    with SystemSampler(tmp_path, 0, 3600, Clock(step=0.25)) as sampler:
        for _ in range(16):
            sampler.sample()
    steps = [row["step"] for row in lines(tmp_path)]
    assert len(steps) == len(set(steps)) <= 6


def test_a_file_that_gets_long_is_thinned_and_sampled_more_rarely(tmp_path: Path) -> None:
    with SystemSampler(tmp_path, 0, 3600, Clock(), most_lines=8) as sampler:
        for _ in range(50):
            sampler.sample()
        assert len(lines(tmp_path)) < 8
        assert sampler._every_s >= 2 * 3600
    steps = [row["step"] for row in lines(tmp_path)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 1_700_000_000 + 2 * 51


def test_a_file_that_cannot_be_written_ends_the_sampling_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "system").write_text("a file where the folder would be")
    with SystemSampler(tmp_path, 0, 0.001) as sampler:
        assert sampler._thread is None
    assert "no system metrics" in caplog.text
    (tmp_path / "system").unlink()
    caplog.clear()
    with SystemSampler(tmp_path, 0, 3600) as sampler:
        sampler._path.unlink()
        sampler._path.mkdir()
    assert caplog.text.count("no system metrics") == 1


def test_a_rank_that_shares_its_machine_samples_itself_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with SystemSampler(tmp_path, 1, 3600):
        pass
    (row,) = lines(tmp_path, 1)
    assert set(row) == {"step", "time_ms", "process_cpu_utilization_percentage", "process_memory_usage_megabytes"}


def test_what_the_machine_does_not_tell_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "virtual_memory", fails)
    monkeypatch.setattr(psutil, "net_io_counters", lambda: None)
    found = Machine(tmp_path / "not" / "there", whole=True).values()
    assert "disk_usage_percentage" in found
    assert not [name for name in found if name.startswith(("cpu", "system", "network"))]


def test_the_pace_is_that_of_the_steps_between_two_samples() -> None:
    pace = Pace()
    pace.start(100)
    assert pace.values(10.0) == {}
    pace.note(120)
    assert pace.values(20.0) == {"seconds_per_step": 0.5}
    assert pace.values(30.0) == {}
    pace.start(0)  # another piece of work: its count is not the other's
    pace.note(5)
    assert pace.values(40.0) == {}
    pace.note(15)
    assert pace.values(50.0) == {"seconds_per_step": 1.0}


def test_a_watched_progress_passes_everything_on(tmp_path: Path) -> None:
    told: list[object] = []

    class Noting:
        def start(self, what: str, total: int, done: int = 0) -> None:
            told.append((what, total, done))

        def advance(self, done: int, note: str = "") -> None:
            told.append((done, note))

    with SystemSampler(tmp_path, 0, 3600, Clock(1000.0, 2.0)) as sampler:
        progress = sampler.watched(Noting())
        progress.start("train", 10, 4)
        progress.advance(5, "loss 1")
        sampler.sample()
        progress.advance(9)
        sampler.sample()
    assert told == [("train", 10, 4), (5, "loss 1"), (9, "")]
    assert [row.get("seconds_per_step") for row in lines(tmp_path)] == [None, 0.5, None]


class NVMLError(Exception):
    """As pynvml's: of no kind that one would think of."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A machine with four GPUs, on which this is local rank 2."""
    known = SimpleNamespace(initialized=True, error=None)

    def told(value: float) -> float:
        if known.error is not None:
            raise known.error
        return value

    monkeypatch.setenv("LOCAL_RANK", "2")
    for name, answer in {
        "is_available": lambda: True,
        "is_initialized": lambda: known.initialized,
        "device_count": lambda: 4,
        "mem_get_info": lambda index: (20_000_000 * index, 80_000_000),
        "memory_allocated": lambda index: 30_000_000,
        "utilization": lambda index: told(90 + index),
        "power_draw": lambda index: told(350_000 + index * 1000),
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=NVMLError))
    yield known


def test_a_rank_samples_the_gpu_that_it_computes_on(gpu: SimpleNamespace) -> None:
    assert system_metrics._gpu() == {
        "gpu_2_memory_usage_percentage": 50.0,
        "gpu_2_memory_usage_megabytes": 40.0,
        "gpu_2_memory_allocated_megabytes": 30.0,
        "gpu_2_utilization_percentage": 92.0,
        "gpu_2_power_usage_watts": 352.0,
    }
    gpu.initialized = False
    assert system_metrics._gpu() == {}, "looking must not make a context on the GPU"


@pytest.mark.parametrize("error", [ModuleNotFoundError("pynvml"), RuntimeError("driver"), NVMLError("not supported")])
def test_without_nvidias_library_memory_is_left(gpu: SimpleNamespace, error: Exception, tmp_path: Path) -> None:
    gpu.error = error
    found = Machine(tmp_path, whole=False).values()
    assert {name for name in found if name.startswith("gpu")} == {
        "gpu_2_memory_usage_percentage", "gpu_2_memory_usage_megabytes", "gpu_2_memory_allocated_megabytes",
    }  # fmt: skip
