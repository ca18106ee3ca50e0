"""What is made of Slurm's answers (captured from Slurm 22.05), of none, and of commands that fail or hang."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from ssvae.core.queue import GONE, UNKNOWN, QueueState, SlurmQueue, parse_sacct, parse_scontrol, parse_squeue

SQUEUE = """\
1366|CANCELLED|Priority|(null)|2026-11-21T11:06:14|
1361|FAILED|NonZeroExitCode|(null)|2026-11-21T11:06:11|n1
1374|PENDING|BeginTime|(null)|2026-11-21T11:24:40|
1359_2|PENDING|JobArrayTaskLimit|(null)|N/A|
1360|PENDING|Dependency|afterok:1359_*(unfulfilled)|N/A|
1364|PENDING|Resources|(null)|2026-11-21T12:06:11|
1368|PENDING|DependencyNeverSatisfied|afterok:1359_1(unfulfilled),afterok:1366(failed)|N/A|
1359_0|RUNNING|None|(null)|2026-11-21T11:06:11|n1
1375|RUNNING|None|(null)|2026-11-21T11:24:37|n[1-2]
"""
SACCT = """\
JobID|State|ExitCode|Reason
1361|FAILED|3:0|None
1362|FAILED|0:9|None
1363|PENDING|0:0|DependencyNeverSatisfied
1366|CANCELLED by 0|0:0|None
1359_0|RUNNING|0:0|None
1359_[2-3%2]|PENDING|0:0|JobArrayTaskLimit
"""
SCONTROL = (
    "JobId=1371 ArrayJobId=1359 ArrayTaskId=1 ArrayTaskThrottle=2 JobName=wrap UserId=root(0) JobState=RUNNING "
    "Reason=None Dependency=(null) Requeue=1 Restarts=0 ExitCode=0:0 StartTime=2026-11-21T11:06:11 Partition=main "
    "ReqNodeList=(null) ExcNodeList=(null) NodeList=n1 BatchHost=n1 CPUs/Task=1 \n"
    "JobId=1359 ArrayJobId=1359 ArrayTaskId=2-3%2 ArrayTaskThrottle=2 JobName=a=b JobState=PENDING "
    "Reason=JobArrayTaskLimit Dependency=(null) ExitCode=0:0 StartTime=Unknown NodeList= \n"
    "JobId=1363 JobName=wrap JobState=PENDING Reason=DependencyNeverSatisfied Dependency=afterok:1361(failed) "
    "ExitCode=0:0 StartTime=Unknown NodeList= NumNodes=1\n"
)


def test_squeue_is_read() -> None:
    found = parse_squeue(SQUEUE)
    assert len(found) == 9
    assert found["1359_0"] == QueueState("RUNNING", start="2026-11-21T11:06:11", nodes="n1")
    assert found["1360"] == QueueState("PENDING", "Dependency", ("1359",))
    assert found["1368"].needs == ("1359_1", "1366")
    assert found["1364"] == QueueState("PENDING", "Resources", start="2026-11-21T12:06:11")
    assert [job for job, state in found.items() if state.ended] == ["1366", "1361"]
    assert parse_squeue("a warning\n12|RUNNING\n") == {}


def test_sacct_is_read_by_its_heading() -> None:
    found = parse_sacct(SACCT)
    assert found["1366"].state == "CANCELLED" and found["1362"].exit == "0:9"
    assert found["1359_2"] == found["1359_3"] == QueueState("PENDING", "JobArrayTaskLimit", exit="0:0")
    few = parse_sacct("JobID|State|NodeList\n12_1|COMPLETED|n1\n13|OUT_OF_ME+|n1\n")
    assert few["12_1"] == QueueState("COMPLETED") and few["13"].state == "OUT_OF_ME"


def test_scontrol_is_read() -> None:
    found = parse_scontrol(SCONTROL)
    assert sorted(found) == ["1359_1", "1359_2", "1359_3", "1363"]
    assert found["1359_1"].nodes == "n1" and found["1359_1"].start == "2026-11-21T11:06:11"
    assert found["1363"] == QueueState("PENDING", "DependencyNeverSatisfied", ("1361",), exit="0:0")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("7_[1-3]", ["7_1", "7_2", "7_3"]),
        ("7_[1,5-6,9%2]", ["7_1", "7_5", "7_6", "7_9"]),
        ("7_[0-8:4]", ["7_0", "7_4", "7_8"]),
        ("7+1", []),
    ],
)
def test_elements_of_arrays(written: str, expected: list[str]) -> None:
    assert list(parse_squeue(f"{written}|PENDING|Priority|(null)|N/A|")) == expected


class Commands:
    """Stand-ins on the PATH; each notes how it was called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name in ("cat", "sleep"):
            (folder / "bin" / name).symlink_to(str(shutil.which(name)))
        monkeypatch.setenv("PATH", str(folder / "bin"))  # and not where a real Slurm may be
        self.make("squeue", "exec /no/such/command")
        for name in ("sacct", "scontrol"):
            self.make(name, "echo 'not set up here' >&2; exit 1")

    def make(self, name: str, body: str, output: str = "") -> None:
        path = self.folder / "bin" / name
        (self.folder / f"{name}.txt").write_text(output)
        show = f"cat '{self.folder / name}.txt'" if output else ""
        path.write_text(
            f"#!/bin/sh\necho \"$@ [$SQUEUE_USERS$LC_ALL]\" >> '{self.folder / name}.calls'\n{show}\n{body}\n"
        )
        path.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path, monkeypatch)


def test_what_squeue_has_forgotten_is_asked_of_sacct(slurm: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_USERS", "somebody else")
    slurm.make("squeue", "", SQUEUE)
    slurm.make("sacct", "", SACCT)
    queue = SlurmQueue(interval_s=0.0)
    found = queue.states(["1359_0", "1359_2", "1362", "1363", "99"])
    assert {job: state.state for job, state in found.items()} == {
        "1359_0": "RUNNING", "1359_2": "PENDING", "1362": "FAILED",
        "1363": GONE,  # accounts call it pending, the controller does not know it
        "99": GONE,
    }  # fmt: skip
    assert slurm.calls("squeue") == ["-h -r -t all -j 1359,1362,1363,99 -o %i|%T|%r|%E|%S|%N [C]"], "the users' filter"
    assert "-j 1362,1363,99 " in slurm.calls("sacct")[0]
    queue.states(["1359_0", "1362", "99"])
    assert len(slurm.calls("squeue")) == 2 and len(slurm.calls("sacct")) == 1, "what is over is not asked again"
    assert slurm.calls("scontrol") == []


def test_a_single_forgotten_job_is_no_failure_of_squeue(slurm: Commands) -> None:
    slurm.make("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert SlurmQueue().states(["1362"])["1362"].state == GONE, "without accounting"
    slurm.make("sacct", "", SACCT)
    assert SlurmQueue().states(["1362"])["1362"] == QueueState("FAILED", exit="0:9")


def test_without_squeue_scontrol_answers(slurm: Commands) -> None:
    (slurm.folder / "bin" / "squeue").unlink()
    slurm.make("scontrol", "", SCONTROL)
    found = SlurmQueue().states(["1359_1", "1363", "5"])
    assert [found[job].state for job in ("1359_1", "1363", "5")] == ["RUNNING", "PENDING", GONE]


def test_without_a_controller_accounts_are_all_there_is(slurm: Commands) -> None:
    slurm.make("sacct", "", SACCT)
    found = SlurmQueue().states(["1359_0", "1366", "5"])
    assert [found[job].state for job in ("1359_0", "1366", "5")] == ["RUNNING", "CANCELLED", UNKNOWN]


def test_a_machine_without_slurm_gives_its_reason(slurm: Commands) -> None:
    for name in ("squeue", "sacct", "scontrol"):
        (slurm.folder / "bin" / name).unlink()
    found = SlurmQueue().states(["1", "local-5"])
    assert found["1"].state == found["local-5"].state == UNKNOWN
    assert "squeue cannot be run here (No such file or directory)" in str(found["1"].reason)
    assert "no Slurm job id" in str(found["local-5"].reason)
    assert not found["1"].ended


def test_a_hanging_controller_is_waited_for_once(slurm: Commands) -> None:
    slurm.make("squeue", "exec sleep 30")
    slurm.make("scontrol", "exec sleep 30")
    begun = time.monotonic()
    state = SlurmQueue(timeout_s=0.5).states(["1"])["1"]
    assert time.monotonic() - begun < 15
    assert state.state == UNKNOWN and "squeue did not answer within 0.5 s" in str(state.reason)
    assert "sacct failed: not set up here" in str(state.reason)
    assert slurm.calls("scontrol") == [], "the same controller"


def test_the_controller_is_not_asked_at_every_look(slurm: Commands) -> None:
    slurm.make("squeue", "", SQUEUE)
    queue = SlurmQueue(interval_s=60.0)
    assert queue.states([]) == {} and slurm.calls("squeue") == []
    for _ in range(3):
        assert queue.states(["1359_0", "1361"])["1361"].state == "FAILED"
    assert queue.states(["1361"])["1361"].state == "FAILED"
    assert len(slurm.calls("squeue")) == 1
    queue.states(["1361", "1364"])
    assert len(slurm.calls("squeue")) == 2, "a job that is new to it"


def test_a_requeued_job_is_not_taken_for_ended(slurm: Commands) -> None:
    slurm.make("squeue", "", "1361|FAILED|NonZeroExitCode|(null)|N/A|n1\n")
    queue = SlurmQueue(interval_s=0.0)
    assert queue.states(["1361"])["1361"].ended
    slurm.make("squeue", "", "1361|PENDING|BeginTime|(null)|N/A|\n")
    assert queue.states(["1361"])["1361"].state == "PENDING"


def test_elements_that_were_cancelled_while_they_waited_are_known_by_their_array(slurm: Commands) -> None:
    """Slurm 22.05 keeps one record of them, under the bare number of the array."""
    slurm.make("squeue", "", "7925|CANCELLED|Dependency|(null)|N/A|\n7925_1|RUNNING|None|(null)|N/A|n1\n")
    found = SlurmQueue().states(["7925_0", "7925_1"])
    assert found["7925_0"].state == "CANCELLED" and found["7925_1"].state == "RUNNING"
    slurm.make("squeue", "", "7925|PENDING|Dependency|(null)|N/A|\n")
    slurm.make("sacct", "", "JobID|State\n")
    assert SlurmQueue().states(["7925_0"])["7925_0"].state == GONE, "only an end is an end of all"
