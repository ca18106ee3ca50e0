"""Sampling for scores: the precision of training, a sample in float32, nothing of the batch in it."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ssvae.build import build_dit, build_vae
from ssvae.config.compose import resolve
from ssvae.config.probe import Condition
from ssvae.config.train import Precision
from ssvae.core.progress import Silent
from ssvae.core.ranks import ALONE
from ssvae.core.seeds import torch_generator
from ssvae.models.dit import VideoDiT
from ssvae.stages.scoring import Scoring
from tiny_runs import TINY

CAPTIONS = ["a red circle", "a blue square", None]


@pytest.fixture(scope="module")
def dit() -> VideoDiT:
    (cell,) = resolve(TINY)
    torch.manual_seed(0)
    made = build_dit(cell.cfg.stages.probe.probe, channels=4, grid=(3, 4, 4), condition=Condition.caption, classes=0)
    for parameter in made.parameters():  # gates start at zero, where every precision agrees
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return made.eval()


def samples(dit: VideoDiT, precision: Precision, rows: slice = slice(None)) -> Tensor:
    (cell,) = resolve(TINY)
    stage = copy.deepcopy(cell.cfg.stages.probe)
    stage.probe.train.precision = precision
    noise = torch.randn(3, 4, 3, 4, 4, generator=torch_generator(0, "noise"))
    return Scoring.generate(SimpleNamespace(stage=stage), dit, noise[rows], CAPTIONS[rows])  # type: ignore[arg-type]


def test_the_transformer_samples_in_the_precision_that_it_was_trained_in(dit: VideoDiT) -> None:
    exact, half = samples(dit, Precision.fp32), samples(dit, Precision.bf16)
    assert exact.dtype == half.dtype == torch.float32
    assert not torch.equal(exact, half)
    assert torch.allclose(exact, half, atol=0.3) and (exact - half).std() < 0.05 * exact.std()


def test_a_sample_is_its_own(dit: VideoDiT) -> None:
    together = samples(dit, Precision.fp32)
    for row in range(3):
        assert torch.allclose(samples(dit, Precision.fp32, slice(row, row + 1))[0], together[row], atol=1e-5)


def test_decoding_keeps_no_graph() -> None:
    """At full size one clip's graph is tens of gigabytes."""
    (cell,) = resolve(TINY)
    cfg = cell.cfg
    seen: list[Tensor] = []
    scored = SimpleNamespace(update=lambda videos, rows: seen.append(videos), join=lambda ranks: None)
    scoring = SimpleNamespace(stage=cfg.stages.probe, vae=build_vae(cfg.vae), ranks=ALONE, progress=Silent())
    latents = torch.zeros(2, cfg.vae.channels, 3, 4, 4)
    Scoring._decoded(scoring, scored, "decode", 2, lambda rows: latents[rows], raw=True)  # type: ignore[arg-type]
    assert seen and not any(videos.requires_grad for videos in seen)
