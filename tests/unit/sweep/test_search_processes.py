"""Trials as processes: their share of the machine, how they end, and that none is left."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from ssvae.sweep.planned import PlannedCell
from ssvae.sweep.record import CellRecord
from ssvae.sweep.search import processes
from ssvae.sweep.search.processes import Processes, share_of_machine
from ssvae.sweep.search.runner import Order, Outcome

FAKE = """#!{python}
import json, os, signal, sys, time
record = json.load(open(sys.argv[3]))
how = record["label"]
print("says", how, flush=True)
if how == "fails":
    json.dump({{**record, "status": "failed", "reason": "pretrain: NonFiniteLoss: step 3"}}, open(sys.argv[3], "w"))
    sys.exit(1)
if how == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "crashes":
    sys.exit("could not even begin")
if how == "stops":
    sys.exit(130)
if how in ("hangs", "ignores"):
    if how == "ignores":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Processes:
    """A runner whose processes do what the label of their record says."""
    script = tmp_path / "fake"
    script.write_text(FAKE.format(python=sys.executable))
    script.chmod(0o755)
    monkeypatch.setattr(processes.sys, "executable", str(script))
    monkeypatch.setattr(processes, "PATIENCE_S", 0.5)
    return Processes(tmp_path, 2, tmp_path / "logs")


def order(folder: Path, key: str, how: str) -> Order:
    record = CellRecord(folder / f"{key}.json", key, how, {}, [], {})
    record.save()
    planned: PlannedCell = None  # type: ignore[assignment]  # a process reads the record
    return Order(key, planned, record.path)


def until(runner: Processes, count: int) -> list[Outcome]:
    found: list[Outcome] = []
    deadline = time.monotonic() + 30
    while len(found) < count:
        assert time.monotonic() < deadline
        found += runner.poll()
        time.sleep(0.01)
    return found


def end_of(runner: Processes, folder: Path, how: str) -> Outcome:
    runner.start(order(folder, "7", how))
    (outcome,) = until(runner, 1)
    assert outcome.key == "7"
    return outcome


def test_how_a_process_ended(runner: Processes, tmp_path: Path) -> None:
    assert end_of(runner, tmp_path, "works") == Outcome("7", "finished")
    assert end_of(runner, tmp_path, "fails") == Outcome("7", "failed", "pretrain: NonFiniteLoss: step 3")
    assert end_of(runner, tmp_path, "stops").status == "interrupted"
    died = end_of(runner, tmp_path, "dies")
    assert died.status == "failed" and "killed by SIGKILL" in str(died.reason)
    crashed = end_of(runner, tmp_path, "crashes")
    assert "ended with code 1" in str(crashed.reason) and "could not even begin" in str(crashed.reason)
    log = (tmp_path / "logs" / "7.log").read_text()
    assert [line for line in log.splitlines() if line.startswith("says")] == [
        f"says {how}" for how in ("works", "fails", "stops", "dies", "crashes")
    ], "every attempt is in the log"


def test_both_places_are_used_and_come_free_one_by_one(runner: Processes, tmp_path: Path) -> None:
    assert runner.capacity == 2
    runner.start(order(tmp_path, "1", "hangs"))
    runner.start(order(tmp_path, "2", "works"))
    (first,) = until(runner, 1)
    assert first.key == "2"
    runner.start(order(tmp_path, "3", "works"))
    (second,) = until(runner, 1)
    assert second.key == "3"
    runner.stop()


@pytest.mark.parametrize("how", ["hangs", "ignores"])
def test_stopping_leaves_no_process(how: str, runner: Processes, tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    runner.start(order(tmp_path, "1", how))
    log = tmp_path / "logs" / "1.log"
    deadline = time.monotonic() + 30
    while "ready" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    mine = set(psutil.Process().children(recursive=True)) - before
    assert mine, "it runs"
    assert os.getsid(next(iter(mine)).pid) != os.getsid(0), "Ctrl-C in the terminal does not reach it"
    runner.stop()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in mine)
    assert runner.poll() == []
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN


def cores(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.os, "cpu_count", lambda: count)


def test_cores_are_shared_and_a_users_setting_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cores(8, monkeypatch)
    assert share_of_machine({}, 0, 3, tmp_path)["OMP_NUM_THREADS"] == "2"
    assert share_of_machine({}, 0, 20, tmp_path)["OMP_NUM_THREADS"] == "1"
    assert share_of_machine({"OMP_NUM_THREADS": "5"}, 0, 3, tmp_path)["OMP_NUM_THREADS"] == "5"
    assert share_of_machine({"A": "b"}, 0, 1, tmp_path)["SSVAE_ROOT"] == str(tmp_path)


@pytest.mark.parametrize(
    ("visible", "workers", "shares"),
    [
        ("0,1,2,3", 4, ["0", "1", "2", "3"]),
        ("0,1,2,3", 2, ["0,1", "2,3"]),
        ("4,6", 3, ["4", "6", "4"]),
        ("GPU-a,GPU-b", 2, ["GPU-a", "GPU-b"]),
        ("", 2, ["", ""]),
    ],
)
def test_every_worker_has_its_gpus(visible: str, workers: int, shares: Sequence[str], tmp_path: Path) -> None:
    given = {"CUDA_VISIBLE_DEVICES": visible}
    found = [share_of_machine(given, slot, workers, tmp_path)["CUDA_VISIBLE_DEVICES"] for slot in range(workers)]
    assert found == shares
