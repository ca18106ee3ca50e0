"""Two ranks under torchrun train the DiT that one trains with the same global batch, and measure the same losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dit_training
from ssvae.metrics.diffusion_loss import DiffusionLosses, merge_losses
from tiny_runs import environment

pytestmark = pytest.mark.system
LOSSES = ("rows", "losses", "times")


def run(folder: Path, ranks: int, *more: str) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, Any]]]:
    """What every rank ended with, and the log."""
    script = [str(Path(dit_training.__file__)), str(folder), *more]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, *script],
        env={**environment(folder), "TORCHELASTIC_ERROR_FILE": os.devnull},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return [load_file(folder / f"rank_{rank}.safetensors") for rank in range(ranks)], lines


def weights(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in found.items() if name not in LOSSES}


@pytest.mark.parametrize("more", [(), ("spoiled",)], ids=["plain", "with updates that are no number"])
def test_two_equal_one(more: tuple[str, ...], tmp_path: Path) -> None:
    (one,), log = run(tmp_path / "one", 1, *more)
    two, log_of_two = run(tmp_path / "two", 2, *more)
    for name, value in weights(one).items():
        assert torch.allclose(value, two[0][name], rtol=1e-5, atol=1e-5), name
        assert torch.equal(two[0][name], two[1][name]), "the ranks end with the same weights"
    assert [line["step"] for line in log] == [line["step"] for line in log_of_two], "one log, no step twice"
    assert [line["skipped"] for line in log] == [line["skipped"] for line in log_of_two], "all ranks skip the same"
    assert (log[-1]["skipped"] > 0) == bool(more)
    for a, b in zip(log, log_of_two, strict=True):
        for name in ("loss", "grad_norm"):
            assert b[name] == (None if a[name] is None else pytest.approx(a[name], rel=1e-4)), name
    kept = [sorted(path.name for path in (tmp_path / name / "weights").iterdir()) for name in ("one", "two")]
    assert kept[0] == kept[1] == ["step_0000002.safetensors", "step_0000005.safetensors"]
    for name in kept[0]:
        pair = [load_file(tmp_path / run_name / "weights" / name) for run_name in ("one", "two")]
        assert all(torch.allclose(value, pair[1][key], rtol=1e-5, atol=1e-5) for key, value in pair[0].items())
    parts = [DiffusionLosses(part["rows"], part["losses"], part["times"]) for part in two]
    merged = merge_losses(parts)
    assert torch.equal(merged.times, one["times"])
    assert torch.allclose(merged.losses, one["losses"], rtol=1e-3)
