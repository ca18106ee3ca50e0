"""The preflight over two real ranks: it passes, and whatever is wrong with one of them is named, never waited for."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiny_runs import TINY, environment, link_data

pytestmark = pytest.mark.system
MEMBER = Path(__file__).with_name("preflight_member.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture
def home(tmp_path: Path, tiny_data: Path) -> Path:
    return link_data(tiny_data, tmp_path)


def started(home: Path, command: list[str], **more: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(MEMBER.parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command,
        env={**environment(home), "PYTHONPATH": paths, "TORCHELASTIC_ERROR_FILE": os.devnull, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def with_fault(home: Path, fault: str) -> dict[str, str]:
    """What two ranks of torchrun said: lines of checks by name, and the ends of ranks by number."""
    process = started(home, [*TORCHRUN, str(MEMBER), fault])
    try:
        out, err = process.communicate(timeout=90)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    found = {line.split()[1]: line.split(maxsplit=2)[2] for line in out.splitlines() if line.startswith("preflight:")}
    found.update({line[0]: line[2:] for line in out.splitlines() if line[:2] in ("0 ", "1 ")})
    assert "world" in found, err[-2000:]
    return found


def test_two_good_ranks_pass(home: Path) -> None:
    process = started(home, [*TORCHRUN, "-m", "ssvae", "preflight", "--ranks", "2", *TINY])
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    lines = out.splitlines()
    assert len(lines) == 13 and "none failed" in lines[-1], "one rank speaks"
    assert re.search(r"all_reduce ok +4 KiB [\d.]+ ms \(.* GB/s\), 1 MiB", out)
    assert "seen by all ranks" in out and "2 ranks on 1 host" in out


def test_a_failure_is_every_ranks_failure(home: Path) -> None:
    process = started(home, [*TORCHRUN, "-m", "ssvae", "preflight", "--ranks", "4", *TINY])
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the job asked for 4 ranks, but 2 ranks found each other" in out
    assert "exitcode  : 1" in err and err.count("preflight:") == 0, "said once, and by no traceback of ours"


@pytest.mark.parametrize(
    ("fault", "check", "said"),
    [
        ("content", "data", r"ffffffffffff on rank 1 \("),
        ("folder", "shared", r"rank 1 \(.*\): a file that the first rank wrote in .*/another/runs is not seen"),
        ("sum", "all_reduce", r"the sum over the ranks of 4 KiB is wrong"),
        ("told", "world", r"rank 1 \(.*\): WORLD_SIZE = 3, but 2 ranks found each other"),
    ],
)
def test_a_fault_of_one_rank_is_named_and_stops_both(home: Path, fault: str, check: str, said: str) -> None:
    found = with_fault(home, fault)
    assert re.search(said, found[check]), found
    assert found[check].startswith("FAILED"), found
    assert found["0"] == found["1"] and found["0"].startswith(f"failed: {check}: preflight failed: {check}: ")


@pytest.mark.parametrize("fault", ["hang", "die"])
def test_a_rank_that_hangs_or_dies_in_a_check_is_named(home: Path, fault: str) -> None:
    """By single processes: torchrun ends all ranks as soon as one dies."""
    first, second = alone(home, 0, fault), alone(home, 1, fault)
    try:
        out, err = first.communicate(timeout=60)
        assert re.search(r"data +FAILED +no answer from rank 1 \(.*\) within 3 s; it hangs or has died", out), out + err
        assert re.search(r"all_reduce skipped not with ranks that are missing: 1", out), out
        assert out.splitlines()[-1].startswith("0 failed: data")
    finally:
        for process in (first, second):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_rank_that_never_sums_holds_nobody(home: Path) -> None:
    first, second = alone(home, 0, "late"), alone(home, 1, "late")
    try:
        out, err = first.communicate(timeout=60)
        line = next(line for line in out.splitlines() if " all_reduce " in line)
        assert "no answer from rank 1 (" in line and "the sum of 4 KiB did not come" in line, out + err
    finally:
        for process in (first, second):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_rank_that_never_comes_is_named(home: Path) -> None:
    begun = time.monotonic()
    ranks = [verb(home, rank, world=3) for rank in (0, 1)]
    for process in ranks:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1 and out == ""
        assert "ranks: rank 2 of 3 did not sign in within 4 s (signed in: " in err
    assert time.monotonic() - begun < 45


def test_a_first_rank_that_never_comes_is_named(home: Path) -> None:
    process = verb(home, 1, world=2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the first rank does not answer within 4 s at 127.0.0.1:" in err


PORTS: dict[Path, str] = {}
"""Of the ranks of one test."""


def alone(home: Path, rank: int, fault: str) -> subprocess.Popen[str]:
    """One of two ranks, without torchrun."""
    return started(home, [sys.executable, str(MEMBER), fault], **meeting(home, rank, 2))


def verb(home: Path, rank: int, world: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ssvae", "preflight", "--wait", "4", *TINY]
    return started(home, command, **meeting(home, rank, world))


def meeting(home: Path, rank: int, world: int) -> dict[str, str]:
    if home not in PORTS:
        with socket.create_server(("127.0.0.1", 0)) as server:
            PORTS[home] = str(server.getsockname()[1])
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": PORTS[home]}
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), **where}
