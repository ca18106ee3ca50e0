"""Jobs on disk: events that survive kills and company, and what they add up to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ssvae.core.alive import Process, start_of, this_process
from ssvae.core.jobs import (
    History,
    JobFile,
    append_event,
    history,
    job_folder,
    jobs_folder,
    read_events,
    read_job,
    summed_up,
    sweep_jobs,
    write_job,
    write_sweep_jobs,
)

JOB = JobFile(
    job_id="pretrain-ab12", kind="pretrain", stages={"base": "runs/stages/b-1", "pretrain": "runs/stages/p-2"},
    cell="c1", cells=["c1", "c2"], config="runs/jobs/pretrain-ab12/config.yaml", sweeps=["grid"], label="reg=lcr",
    root="/project", code="/project/runs/code/1", launcher="slurm", world=32, needs=["base-1"], retries=1,
    max_requeues=3, timeout_min=60, preflight=True, scheduler_id="12_3",
)  # fmt: skip


def test_a_job_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folder = job_folder(tmp_path, JOB.job_id)
    assert folder.parent == jobs_folder(tmp_path) == tmp_path / "runs" / "jobs"
    with pytest.raises(FileNotFoundError):
        read_job(folder)
    write_job(folder, JOB)
    assert read_job(folder) == JOB
    assert list(read_job(folder).stages) == ["base", "pretrain"], "the order of the stages counts"
    values = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({**values, "of_a_later_version": 1}))
    assert read_job(folder) == JOB
    (folder / "job.json").write_text(json.dumps({name: values[name] for name in values if name != "stages"}))
    with pytest.raises(ValueError, match=r"job\.json lacks stages"):
        read_job(folder)
    (folder / "job.json").write_text('{"job_id":')
    with pytest.raises(ValueError, match="not valid JSON"):
        read_job(folder)


def test_the_jobs_of_a_sweep(tmp_path: Path) -> None:
    assert sweep_jobs(tmp_path, "grid") == []
    write_sweep_jobs(tmp_path, "grid", ["b", "a"])
    assert sweep_jobs(tmp_path, "grid") == ["b", "a"]


def test_events_keep_their_order_and_what_they_say(tmp_path: Path) -> None:
    assert read_events(tmp_path) == [] and history(tmp_path) == History()
    before = time.time() * 1000
    append_event(tmp_path / "new", "submitted", scheduler_id="7")
    append_event(tmp_path / "new", "ended", reason="ValueError: a\nb ü")
    first, second = read_events(tmp_path / "new")
    assert (first["event"], first["scheduler_id"], second["reason"]) == ("submitted", "7", "ValueError: a\nb ü")
    assert before - 1 <= first["time_ms"] <= second["time_ms"] <= time.time() * 1000 + 1


@pytest.mark.parametrize("torn", [b'{"event": "started", "atte', b"\xff\xfe", b"[1, 2]\n", b'{"no": "event"}\n', b"\n"])
def test_a_torn_line_costs_nothing_but_itself(torn: bytes, tmp_path: Path) -> None:
    append_event(tmp_path, "submitted")
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(torn)
    assert [one["event"] for one in read_events(tmp_path)] == ["submitted"]
    append_event(tmp_path, "started")
    assert [one["event"] for one in read_events(tmp_path)] == ["submitted", "started"]


WRITER = (
    "import sys\nfrom pathlib import Path\nfrom ssvae.core.jobs import append_event\n"
    "for n in range(int(sys.argv[3])):\n append_event(Path(sys.argv[1]), 'x', who=sys.argv[2], n=n, pad='.' * 3000)\n"
)


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    words = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*words, str(who), "40"]) for who in range(4)]
    assert [one.wait() for one in writers] == [0] * 4
    events = read_events(tmp_path)
    assert len((tmp_path / "events.jsonl").read_bytes().splitlines()) == len(events) == 160
    for who in range(4):
        assert [one["n"] for one in events if one["who"] == str(who)] == list(range(40)), "each in its own order"


def test_a_killed_writer_stops_nobody(tmp_path: Path) -> None:
    """It held the lock, sooner or later; what it wrote before stays."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), "a", "100000"])
    while len(read_events(tmp_path)) < 5:
        assert writer.poll() is None
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    written = len(read_events(tmp_path))
    append_event(tmp_path, "ended")
    events = read_events(tmp_path)
    assert len(events) == written + 1 and events[-1]["event"] == "ended"
    assert [one["n"] for one in events[:-1]] == list(range(written))


def event(what: str, **values: Any) -> dict[str, Any]:
    return {"event": what, "time_ms": 0, **values}


SUBMITTED, STARTED = event("submitted", scheduler_id="7"), event("started", attempt=1)
REQUEUED = event("ended", how="interrupted", reason="SIGTERM", next="requeue")
RETRIED = event("ended", how="failed", reason="x", next="retry", rank=1)
DEAD = event("ended", how="killed", reason="signal 9", next="none")


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([SUBMITTED], {"scheduler_id": "7", "running": False, "attempts": 0}),
        ([SUBMITTED, STARTED], {"running": True, "attempts": 1, "how": None}),
        ([SUBMITTED, STARTED, REQUEUED], {"running": False, "requeues": 1, "next": "requeue", "reason": "SIGTERM"}),
        ([SUBMITTED, STARTED, REQUEUED, STARTED], {"running": True, "attempts": 2, "requeues": 1}),
        ([SUBMITTED, STARTED, RETRIED, STARTED, DEAD], {"retries": 1, "how": "killed", "next": "none", "rank": None}),
        # A node failed: nobody noted an end, Slurm has started the job again.
        ([SUBMITTED, STARTED, STARTED], {"running": True, "attempts": 2, "requeues": 1}),
        # A retry by the supervisor is no new submission; one by the user is, whatever was decided before.
        ([SUBMITTED, STARTED, RETRIED, event("submitted", again=True, scheduler_id="8")], {"retries": 1}),
        ([SUBMITTED, STARTED, RETRIED, event("submitted", scheduler_id="8")], {"retries": 0, "next": None}),
        (
            [SUBMITTED, STARTED, REQUEUED, STARTED, DEAD, event("submitted", scheduler_id="8")],
            {"requeues": 0, "how": None, "next": None, "running": False, "attempts": 2, "scheduler_id": "8"},
        ),
        ([SUBMITTED, event("cancelled", reason="fail_fast")], {"cancelled": "fail_fast"}),
        ([SUBMITTED, event("cancelled", reason="fail_fast"), SUBMITTED], {"cancelled": None}),
        (
            [SUBMITTED, STARTED, event("stage", stage="base", outcome="reused"), event("stage", stage="pretrain",
             outcome="resumed"), event("rank", rank=0, how="finished")],
            {"stage": "pretrain", "outcomes": {"base": "reused", "pretrain": "resumed"}, "running": True},
        ),
    ],
)  # fmt: skip
def test_what_events_add_up_to(events: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    found = summed_up(events)
    assert {name: getattr(found, name) for name in expected} == expected


def test_the_keeper_and_the_process_are_told_apart() -> None:
    keeper = event("submitted", host="a", pid=1, pid_start="10")
    found = summed_up([keeper, event("started", host="b", pid=2, pid_start="20")])
    assert (found.keeper, found.process, found.host) == (Process("a", 1, "10"), Process("b", 2, "20"), "b")
    assert summed_up([keeper, event("started", host="b", pid=2)]).process is None, "half of it names nobody"


def test_a_process_is_known_by_its_start() -> None:
    me = this_process()
    process = Process(str(me["host"]), os.getpid(), str(me["pid_start"]))
    assert process.alive() is True
    assert Process(process.host, process.pid, process.start + "1").alive() is False, "the number was used again"
    assert Process("another machine", process.pid, process.start).alive() is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert start_of(child.pid) is not None
    child.kill()
    deadline = time.monotonic() + 10
    while start_of(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert start_of(child.pid) is None, "a zombie is not alive"
    child.wait()
    assert start_of(child.pid) is None
