"""Jobs are followed by what they write down; stand-ins for Slurm's programs note what they are asked."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ssvae.core.alive import start_of
from ssvae.core.jobs import JobFile, LaunchedBy, append_event, history, write_job
from ssvae.drill.jobs import JobLane, cancel_jobs, disturb_jobs, send
from ssvae.drill.ledger import UNPLANNED, DrillError, Ledger
from ssvae.drill.plan import Kill

STEPS = {"base": 20, "pretrain": 20}


def job(root: Path, launcher: LaunchedBy = "slurm") -> Path:
    """The folder of a submitted job of two stages that was started once."""
    folder = root / "runs" / "jobs" / "pretrain-1"
    one = JobFile(
        job_id="pretrain-1",
        kind="pretrain",
        stages={name: f"runs/stages/{name}-1" for name in STEPS},
        cell="c",
        cells=["c"],
        config="c.yaml",
        sweeps=["s"],
        label="c",
        root=str(root),
        code="",
        launcher=launcher,
        scheduler_id="7_0",
    )
    write_job(folder, one)
    append_event(folder, "submitted", scheduler_id="7_0")
    append_event(folder, "started", attempt=1)
    return folder


def log(root: Path, stage: str, attempt: int, lines: int) -> None:
    folder = root / "runs" / "stages" / f"{stage}-1"
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / ".new"
    new.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, lines + 1)))
    (folder / "run.json").write_text(json.dumps({"attempts": attempt}))
    new.replace(folder / "steps.jsonl")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that write their words to the returned file."""
    place, said = tmp_path / "bin", tmp_path / "said"
    place.mkdir()
    for name, answer in (("scancel", ""), ("squeue", "7_0.batch\n7_0.0\n7_0.extern")):
        program = place / name
        program.write_text(f"#!/bin/sh\necho {name} \"$@\" >> {said}\nprintf '{answer}'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(place), prepend=":")
    return said


def test_signals_reach_the_ranks_and_never_end_the_job_itself(tmp_path: Path, slurm: Path) -> None:
    lane = JobLane(job(tmp_path), tmp_path, {})
    for name in ("TERM", "USR2", "KILL"):
        assert send(history(lane.folder), lane.job, name)
    assert slurm.read_text().splitlines() == [
        "scancel --signal=TERM 7_0",
        "scancel --signal=USR2 7_0",
        "squeue -h -s -j 7_0 -o %i",
        "scancel --signal=KILL 7_0.0",
    ]


def test_a_job_is_killed_where_planned_and_its_own_word_counts(tmp_path: Path, slurm: Path) -> None:
    folder = job(tmp_path)
    lane = JobLane(folder, tmp_path, {})
    ledger = Ledger([Kill("TERM", "base", 5), Kill("KILL", "pretrain", 3)], STEPS, 0, print)
    log(tmp_path, "base", 1, 4)
    lane.advance(ledger, [])
    assert not slurm.exists()
    log(tmp_path, "base", 1, 6)
    lane.advance(ledger, [])
    lane.advance(ledger, [])
    assert slurm.read_text().count("TERM") == 1, "once"
    assert ledger.hits == []
    append_event(folder, "ended", attempt=1, how="interrupted", reason="signal SIGTERM", next="requeue")
    lane.advance(ledger, [])
    assert [(hit.signal, hit.itself, hit.logged) for hit in ledger.hits] == [("TERM", True, 6)]
    append_event(folder, "ended", attempt=2, how="interrupted", reason="pre-empted", next="requeue")
    lane.advance(ledger, [])
    assert ledger.hits[1].signal == UNPLANNED
    assert [kill.stage for kill in ledger.pending] == ["pretrain"]


def test_a_job_that_finishes_before_its_kill_arrives_was_not_hit(tmp_path: Path, slurm: Path) -> None:
    folder = job(tmp_path)
    lane = JobLane(folder, tmp_path, {})
    ledger = Ledger([Kill("USR2", "pretrain", 2)], STEPS, 0, print)
    log(tmp_path, "pretrain", 1, 2)
    lane.advance(ledger, [])
    append_event(folder, "ended", attempt=1, how="finished", reason=None, next="none")
    lane.advance(ledger, [])
    assert (ledger.hits, ledger.pending) == ([], [])
    assert [kill.signal for kill in ledger.late] == ["USR2"]


def test_a_job_that_does_not_come_back_ends_the_drill(tmp_path: Path) -> None:
    folder = job(tmp_path)
    append_event(folder, "ended", attempt=1, how="failed", reason="ValueError: no disk", next="none")
    ledger = Ledger([Kill("USR2", "pretrain", 2)], STEPS, 0, print)
    with pytest.raises(DrillError, match="pretrain-1 does not come back: ValueError: no disk"):
        JobLane(folder, tmp_path, {}).advance(ledger, [])
    folders = {name: tmp_path / "runs" / "stages" / f"{name}-1" for name in (*STEPS, "dit")}
    with pytest.raises(DrillError, match=r"no job .* makes dit"):
        disturb_jobs(tmp_path, folders, {}, ledger)


def test_a_local_job_is_signalled_by_its_process_and_ended_with_its_keeper(tmp_path: Path) -> None:
    folder = job(tmp_path, "local")
    keeper, worker = (subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2))
    for event, process in (("submitted", keeper), ("started", worker)):
        told = {"host": socket.gethostname(), "pid": process.pid, "pid_start": start_of(process.pid)}
        append_event(folder, event, attempt=1, **told)
    lane = JobLane(folder, tmp_path, {})
    assert cancel_jobs(tmp_path) == 1
    assert (keeper.wait(10), worker.wait(10)) == (-9, -9)
    assert not send(history(folder), lane.job, "TERM"), "nobody is there"
    append_event(folder, "ended", attempt=1, how="failed", reason="killed", next="none")
    assert cancel_jobs(tmp_path) == 0
