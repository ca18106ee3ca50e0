"""A polite kill: the cell is marked as killed, the exit code says so, and the same command goes on."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tiny_runs import command, environment, records, run_here

pytestmark = pytest.mark.system


def _default_interrupt() -> None:
    """A test run that was itself started in the background hands an ignored SIGINT down to its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_terminated_in_the_middle(number: signal.Signals, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    long = ("stage=pretrain", "train.steps=10")
    process = subprocess.Popen(
        command(*long),
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_default_interrupt,
    )
    deadline = time.monotonic() + 120
    while not list(root.glob("runs/stages/pretrain-*/checkpoint.pt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, output + errors
    assert "Traceback" not in output + errors
    assert "the same command goes on from there" in output
    (record,) = records(root)
    assert (record["status"], record["reason"]) == ("killed", "stopped by the user")
    assert run_here(*long) == 0
    assert "1 resume" in capfd.readouterr().out
    (record,) = records(root)
    assert record["status"] == "finished"
