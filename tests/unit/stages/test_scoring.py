"""Sampling for scores: the precision of training, a sample in float32, nothing of the batch in it."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ssvae.build import build_dit
from ssvae.config.compose import resolve
from ssvae.config.probe import Condition
from ssvae.config.train import Precision
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
