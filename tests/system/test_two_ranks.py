"""Two ranks under torchrun make the weights that one makes with the same global batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tiny_runs import run_cell

pytestmark = pytest.mark.system
EVERYTHING = (
    "reg=lcr_lmr",
    "+reg/term@reg.terms.cov=cov",
    "+reg/term@reg.terms.noise=noise",
    "reg.terms.noise.stages=[pretrain]",
    "objective=l1_gan",
    "objective.critic.start_step=2",
    "objective.critic.width=4",
    "train.batch=4",
    "train.steps=5",
    "reg.terms.lmr.ratios=[0,0.5]",
    "reg.terms.lmr.probabilities=[0.5,0.5]",  # in some steps the mask token has no gradient: Adam must leave it alone
    "stage=pretrain",
    "stages.base=null",
)
"""Whatever a rank could do for itself alone: statistics, norms, draws, and a second player."""


def train(root: Path, ranks: int, *overrides: str) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Weights (of the VAE and of what is trained beside it) and log of one training run on ``ranks`` processes."""
    run_cell(root, ranks, *overrides)
    (stage,) = (root / "runs" / "stages").glob("pretrain-*")
    lines = [json.loads(line) for line in (stage / "steps.jsonl").read_text().splitlines()]
    return {**load_file(stage / "vae" / "model.safetensors"), **load_file(stage / "parts.safetensors")}, lines


def test_two_equal_one(tmp_path: Path) -> None:
    one, log = train(tmp_path / "one", 1, *EVERYTHING)
    two, log_of_two = train(tmp_path / "two", 2, *EVERYTHING)
    names = [{path.name for path in (tmp_path / run / "runs" / "stages").iterdir()} for run in ("one", "two")]
    assert names[0] == names[1], "the same stage, so whoever asks for it next finds it"
    assert {0.0, 0.5} == {line["lmr/masked_fraction"] for line in log}
    for name, value in one.items():
        # The vectors of spectral norms see each rank's own rounding many times over.
        assert torch.allclose(value, two[name], rtol=1e-5, atol=1e-4 if name.endswith(("_u", "_v")) else 1e-5), name
    assert [line["step"] for line in log] == [line["step"] for line in log_of_two], "one log, no step twice"
    for a, b in zip(log, log_of_two, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            if name == "noise/latent_std":
                continue  # a diagnostic of each rank's own latents, averaged: a mean of deviations is none of the whole
            assert b[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_the_official_way_gives_each_rank_its_own_statistics(tmp_path: Path) -> None:
    shared, _ = train(tmp_path / "shared", 2, *EVERYTHING)
    apart, _ = train(tmp_path / "apart", 2, *EVERYTHING, "train.rank_statistics=per_rank")
    assert not all(torch.allclose(value, apart[name], rtol=1e-5, atol=1e-5) for name, value in shared.items())


def test_a_batch_that_the_ranks_cannot_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"train\.batch = 3: is not divisible by the 2 ranks"):
        train(tmp_path, 2, *EVERYTHING, "train.batch=3")
