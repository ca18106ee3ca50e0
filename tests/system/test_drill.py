"""The drill proves a cell that goes on as it should, and finds out one that does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ssvae.cli.main import main
from ssvae.config.compose import PROJECT
from ssvae.core.files import read_json
from ssvae.drill import run as drill_run

pytestmark = pytest.mark.system

SMALL = ("stages.base=null", "stages.decoder_finetune=null", "stages.probe_base=null", "score.trained=pretrain")
"""Fewer stages: a second or two each."""
# run.py, but what a checkpoint holds of the optimiser is lost when it is read.
FORGETFUL = """
import sys
from ssvae.train import dit_loop, state, vae_loop
def load(folder):
    saved = state.load_checkpoint(folder)
    if saved is not None:
        saved["optimizer"]["state"] = {}
    return saved
vae_loop.load_checkpoint = dit_loop.load_checkpoint = load
from ssvae.cli.run import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def proofs(folder: Path) -> dict[str, bool]:
    return {proof["name"]: proof["passed"] for proof in read_json(folder / "drill.json")["proofs"]}


def test_a_cell_survives_every_signal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["drill", "--seed", "4", "--kills", "3", "--out", str(out), "--keep", *SMALL]) == 0, capfd.readouterr()
    record = read_json(out / "drill.json")
    assert record["passed"] is True
    assert proofs(out) == dict.fromkeys(
        ["kills", "attempts", "kill", "polite", "losses", "samples", "weights", "latents", "metrics", "mlflow"], True
    )
    hits = record["hits"]
    assert sorted(hit["signal"] for hit in hits) == ["KILL", "TERM", "USR2"]
    assert {"pretrain", "dit"} <= {hit["stage"] for hit in hits}
    assert sum(proof["numbers"]["points"] for proof in record["proofs"] if proof["name"] == "mlflow") > 1000
    printed = capfd.readouterr().out
    assert printed.count("PASS ") == 10
    assert str(out / "drill.json") in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_cell_that_forgets_its_optimiser_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def command(overrides: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", FORGETFUL, *overrides]

    monkeypatch.setattr(drill_run, "command", command)
    assert main(["drill", "--kills", "1", "--signals", "TERM", "--out", str(tmp_path), *SMALL]) == 1
    wrong = {name for name, passed in proofs(tmp_path).items() if not passed}
    assert wrong == {"losses", "weights", "metrics", "mlflow"}, "the right samples were seen, from the right step on"
    (saved,) = [hit["saved"] for hit in read_json(tmp_path / "drill.json")["hits"]]
    # The first update from scratch has the loss of the one that was to come, and leads elsewhere.
    assert f"steps.jsonl: line {saved + 2} (step {saved + 2}): loss is " in capfd.readouterr().out
    assert (tmp_path / "disturbed" / "runs").exists(), "what has failed is kept"


def test_a_stopped_drill_leaves_no_process_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ssvae", "drill", "--out", str(tmp_path), *SMALL]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("undisturbed/runs/stages/pretrain-*/steps.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert at_work(tmp_path)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "drill: interrupted" in errors
    assert at_work(tmp_path) == []


def at_work(folder: Path) -> list[int]:
    """Processes whose results go below ``folder``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            known = (process / "environ").read_bytes()
        except OSError:  # gone, or another user's
            continue
        if f"SSVAE_ROOT={folder}/".encode() in known:
            found.append(int(process.name))
    return [one for one in found if one != os.getpid()]
