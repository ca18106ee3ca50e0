"""Every proof fails for the fault that it is there for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ssvae.drill.compare import (
    Proof,
    prove_attempts,
    prove_files,
    prove_kills,
    prove_loss_bounded,
    prove_polite,
    prove_tracking,
)
from ssvae.drill.ledger import UNPLANNED, Hit, Ledger
from ssvae.drill.plan import Kill

STAGE = "runs/stages/base-0123"


def write_lines(path: Path, rows: Sequence[object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def root(folder: Path) -> Path:
    """A run of one training stage, one latent cache and a table."""
    stage, latents = folder / STAGE, folder / "runs/latents/abcd/train"
    for one in (stage / "vae", latents, folder / "results/sweep"):
        one.mkdir(parents=True)
    write_lines(stage / "steps.jsonl", [{"step": step, "loss": 1 / step, "skipped": None} for step in range(1, 6)])
    write_lines(stage / "samples.jsonl", [{"step": step, "keys": f"{step:04x}"} for step in range(1, 6)])
    save_file({"weight": np.arange(8.0)}, stage / "vae" / "model.safetensors")
    for name in ("metrics.json", "run.json", "done.json"):
        (stage / name).write_text('{"attempts": 1}\n')
    np.save(latents / "latents.npy", np.ones((2, 3)))
    (folder / "results/sweep/table.csv").write_text("a,b\n1,2\n")
    return folder


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    calm = root(tmp_path / "calm")
    shutil.copytree(calm, tmp_path / "rough")
    return calm, tmp_path / "rough"


def failed(proofs: Sequence[Proof]) -> dict[str, str]:
    return {proof.name: proof.text for proof in proofs if not proof.passed}


def test_equal_runs_pass_whatever_their_times(roots: tuple[Path, Path]) -> None:
    for name in ("run.json", "spent.json", "done.json", "progress.json"):
        (roots[1] / STAGE / name).write_text('{"attempts": 7}\n')
    (roots[1] / "runs/latents/abcd/system").mkdir()
    (roots[1] / "runs/latents/abcd/system/rank_000.jsonl").write_text('{"step": 1795263249}\n')
    proofs = prove_files(*roots)
    assert failed(proofs) == {}
    assert [proof.name for proof in proofs] == ["losses", "samples", "weights", "latents", "metrics"]
    assert proofs[0].numbers["lines"] == 5


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def other_digest(path: Path) -> None:
    path.write_text(path.read_text().replace("0003", "0004"))


def cut(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    ("proof", "file", "fault", "said"),
    [
        ("losses", f"{STAGE}/steps.jsonl", cut, "line 5 (step 5) is only in the undisturbed run"),
        ("samples", f"{STAGE}/samples.jsonl", other_digest, 'line 3 (step 3): keys is "0003"'),
        ("samples", f"{STAGE}/samples.jsonl", Path.unlink, "is missing in the disturbed run"),
        ("weights", f"{STAGE}/vae/model.safetensors", flip, "tensor weight: 1 of 8 values differ, first [7]"),
        ("latents", "runs/latents/abcd/train/latents.npy", flip, "1 of 6 values differ, first [1, 2]"),
        ("metrics", f"{STAGE}/metrics.json", Path.unlink, "is missing in the disturbed run"),
        ("metrics", "results/sweep/table.csv", flip, "byte 7 of 8"),
    ],
)
def test_a_fault_fails_its_proof_and_no_other(
    roots: tuple[Path, Path], proof: str, file: str, fault: Callable[[Path], None], said: str
) -> None:
    fault(roots[1] / file)
    found = failed(prove_files(*roots))
    assert found.keys() == {proof}
    assert f"1 of {1 if proof != 'metrics' else 2} files differ; {file}: " in found[proof]
    assert said in found[proof]


def test_nothing_to_compare_is_no_proof(roots: tuple[Path, Path]) -> None:
    for one in roots:
        (one / STAGE / "samples.jsonl").unlink()
    assert failed(prove_files(*roots)) == {"samples": "nothing to compare: there is no runs/stages/*/samples.jsonl"}


# -------- the tracker


@dataclass
class Run:
    points: dict[str, list[tuple[int, float]]]
    status: str = "FINISHED"


def tracked() -> Run:
    return Run({"base/loss": [(step, 1 / step) for step in range(1, 6)], "psnr": [(0, 20.0)]})


def test_a_whole_run_passes(roots: tuple[Path, Path]) -> None:
    proof = prove_tracking({"base": roots[0] / STAGE, "measure": roots[0]}, [tracked()])
    assert proof.passed, proof.text
    assert proof.numbers == {"runs": 1, "metrics": 1, "points": 5}


def missing(points: list[tuple[int, float]]) -> None:
    del points[2]


def twice(points: list[tuple[int, float]]) -> None:
    points.append((4, 0.25))


def beyond(points: list[tuple[int, float]]) -> None:
    points.append((6, 0.1))


def another(points: list[tuple[int, float]]) -> None:
    points[1] = (2, 0.75)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (missing, "base/loss lacks step 3"),
        (twice, "base/loss has step 4 2 times"),
        (beyond, "base/loss has step 6, which the undisturbed run has not"),
        (another, "base/loss at step 2 is 0.75, undisturbed 0.5"),
    ],
)
def test_a_curve_that_is_not_contiguous_fails(
    roots: tuple[Path, Path], fault: Callable[[list[tuple[int, float]]], None], said: str
) -> None:
    run = tracked()
    fault(run.points["base/loss"])
    proof = prove_tracking({"base": roots[0] / STAGE}, [run])
    assert (proof.passed, proof.text) == (False, said)


def test_two_runs_a_wrong_status_or_no_metric_fail(roots: tuple[Path, Path]) -> None:
    stages = {"base": roots[0] / STAGE}
    assert prove_tracking(stages, [tracked(), tracked()]).text == "the cell has 2 runs, not one"
    assert prove_tracking(stages, []).text == "the cell has 0 runs, not one"
    running = tracked()
    running.status = "RUNNING"
    assert prove_tracking(stages, [running]).text == "its status is RUNNING, not FINISHED"
    assert not prove_tracking(stages, [Run({})]).passed
    assert not prove_tracking({"measure": roots[0]}, [tracked()]).passed


# -------- the kills


def hit(signal: str = "TERM", **more: object) -> Hit:
    values = {"how": "exit code 130", "itself": True, "stage": "dit", "logged": 12, "saved": 12, "resumed": 12}
    return Hit(signal, "dit 11", **{**values, **more})  # type: ignore[arg-type]  # values differ in type


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (hit(itself=False, how="SIGTERM"), "ended (SIGTERM) in dit"),
        (hit(saved=10, resumed=10), "saved 10, lost 2"),
        (hit("USR2", resumed=3), "yet resumed behind step 3"),
        (hit(resumed=None), "not seen to go on"),
    ],
)
def test_a_polite_signal_may_cost_nothing(wrong: Hit, said: str) -> None:
    assert prove_polite([hit(), hit("USR2"), hit(stage="measure", logged=None, saved=None, resumed=None)]).passed
    proof = prove_polite([hit(), wrong])
    assert not proof.passed
    assert said in proof.text


def test_sigkill_may_cost_what_lies_between_two_checkpoints() -> None:
    hard = hit("KILL", itself=False, how="SIGKILL", saved=2, resumed=2)
    assert prove_loss_bounded([hard, hit(saved=0)], every=10).passed, "only SIGKILL is judged"
    assert "lost 10" in prove_loss_bounded([hard], every=9).text
    assert not prove_loss_bounded([hard], every=9).passed
    assert not prove_loss_bounded([hit("KILL", resumed=11)], every=10).passed


def test_attempts_are_one_and_one_more_a_hit(tmp_path: Path) -> None:
    def stages(name: str, **counts: int) -> dict[str, Path]:
        for stage, count in counts.items():
            (tmp_path / name / stage).mkdir(parents=True)
            (tmp_path / name / stage / "run.json").write_text(json.dumps({"attempts": count}))
        return {stage: tmp_path / name / stage for stage in counts}

    calm = stages("calm", base=1, dit=1)
    rough = stages("rough", base=1, dit=3)
    between = hit("KILL", stage=None, logged=None, saved=None)
    assert prove_attempts(calm, rough, [hit(), hit(UNPLANNED), between]).passed
    assert prove_attempts(calm, rough, [hit()]).text == "dit has 3 attempts, not 2"
    assert prove_attempts(rough, rough, [hit(), hit()]).text == "dit has 3 attempts undisturbed"


def test_fewer_hits_than_asked_for_fail() -> None:
    ledger = Ledger([Kill("KILL", "dit", 3), Kill("TERM", "dit", 5)], {"base": 4, "dit": 8, "probe": None}, 0, print)
    ledger.hits = [hit(), hit(UNPLANNED)]
    assert not prove_kills(ledger).passed
    ledger.hits.append(hit("KILL"))
    assert prove_kills(ledger).passed
    assert prove_kills(ledger).text == "2 of 2 (1 TERM, 1 KILL)"
