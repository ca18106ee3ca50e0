"""The diffusion loss by time: known losses land in their bins, and neither batch nor ranks move a number."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssvae.core.seeds import seed_everything
from ssvae.flow.path import RectifiedFlow
from ssvae.flow.vp import VPrediction
from ssvae.metrics.diffusion_loss import (
    BINS,
    DiffusionLosses,
    diffusion_loss_curve,
    diffusion_loss_metrics,
    diffusion_losses,
    merge_losses,
)
from ssvae.models.dit import VideoDiT

LATENTS = torch.randn((7, 2, 1, 4, 4), generator=torch.Generator().manual_seed(1))
CAPTIONS = ["red", "blue", None, "a circle", "a square", "on", "a"]
Path = RectifiedFlow | VPrediction
both_paths = pytest.mark.parametrize("path", [RectifiedFlow(), VPrediction()], ids=["flow", "v"])


class Known(torch.nn.Module):
    """A model without conditions that answers by a formula."""

    def __init__(self, answer: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.answer = torch.nn.Parameter(torch.zeros(1)), answer

    def encode_conditions(self, conditions: object) -> None:
        return None

    def forward(self, noisy: Tensor, times: Tensor, condition: object) -> Tensor:
        return self.answer(noisy, times)


def awake() -> VideoDiT:
    seed_everything(0, "dit")
    dit = VideoDiT(channels=2, grid=(1, 4, 4), width=24, depth=1, heads=2).eval()
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return dit


def losses(path: Path, model: torch.nn.Module, latents: Tensor = LATENTS, **changes: object) -> DiffusionLosses:
    conditions = changes.pop("conditions", [None] * len(latents))
    named: dict = {"draws": 4, "batch": 3, "seed": 0} | changes
    return diffusion_losses(dit=model, latents=latents, conditions=conditions, path=path, **named)  # type: ignore[arg-type]  # what a DiT's caller sees


@both_paths
def test_neither_batch_nor_ranks_change_a_number(path: Path) -> None:
    model = awake()
    whole = losses(path, model, batch=7, conditions=CAPTIONS)
    single = losses(path, model, batch=1, conditions=CAPTIONS)
    parts = [losses(path, model, rank=rank, world=3, conditions=CAPTIONS) for rank in (2, 0, 1)]
    assert parts[0].rows.tolist() == [2, 5]
    merged = merge_losses(parts)
    for other in (single, merged):
        assert torch.equal(whole.times, other.times) and torch.equal(whole.rows, other.rows)
        torch.testing.assert_close(whole.losses, other.losses, rtol=1e-5, atol=0)
    assert whole.losses.dtype == torch.float64
    assert float(whole.losses.std()) > 0
    with pytest.raises(ValueError, match="do not cover"):
        merge_losses(parts[:2])
    with pytest.raises(ValueError, match="do not cover"):
        merge_losses([*parts, parts[0]])


def test_conditions_stay_with_their_latents_on_every_rank() -> None:
    model = awake()
    told = losses(RectifiedFlow(), model, conditions=CAPTIONS)
    untold = losses(RectifiedFlow(), model)
    same = (told.losses == untold.losses).all(1)
    assert same.tolist() == [caption is None for caption in CAPTIONS]


def test_times_are_stratified_so_that_every_latent_is_in_every_bin() -> None:
    found = losses(RectifiedFlow(), awake())
    assert torch.equal((found.times * 4).long(), torch.arange(4).expand(7, 4))
    assert len(found.times[:, 0].unique()) == 7, "within its share every latent has a time of its own"


@both_paths
def test_the_perfect_model_has_no_loss_and_the_silent_one_the_known_one(path: Path) -> None:
    """Data are 3 everywhere: noise - 3 has the mean square 10; cos φ·noise - sin φ·3 has cos²φ + 9·sin²φ."""
    clean = torch.full((64, 2, 1, 4, 4), 3.0)

    def perfect(noisy: Tensor, times: Tensor) -> Tensor:
        t = times.view(-1, 1, 1, 1, 1)
        if isinstance(path, RectifiedFlow):
            return (noisy - 3.0) / t
        angle = t * math.pi / 2
        return angle.cos() * (noisy - angle.cos() * 3.0) / angle.sin() - angle.sin() * 3.0

    assert float(losses(path, Known(perfect), clean).losses.max()) < 1e-3
    silent = losses(path, Known(lambda noisy, times: torch.zeros_like(noisy)), clean)
    angle = silent.times * math.pi / 2
    expected = angle.cos() ** 2 + 9 * angle.sin() ** 2 if isinstance(path, VPrediction) else torch.tensor(10.0)
    # 32 values a draw, of variance below 2 + 4·9: five standard errors over 256 draws.
    assert abs(float((silent.losses - expected).mean())) < 5 * (38 / 8192) ** 0.5


def step_losses(keys: list[str]) -> DiffusionLosses:
    """Losses that are ten times the number of their bin plus the number of their latent."""
    n = len(keys)
    times = (torch.arange(8) + 0.5).expand(n, 8).double() / 8
    values = 10.0 * (times * 4).floor() + torch.arange(n).double()[:, None]
    return DiffusionLosses(torch.arange(n), values, times)


def test_metrics_have_the_means_of_their_bins_and_clips_as_samples() -> None:
    keys = ["a", "b", "b", "c"]
    metrics = diffusion_loss_metrics(step_losses(keys), RectifiedFlow(), keys)
    names = ["diffusion_loss", *(f"diffusion_loss_t{k}of{BINS}" for k in (1, 2, 3, 4))]
    assert [metric.name for metric in metrics] == names
    clips = (0 + 1.5 + 3) / 3  # two windows of b count once
    assert [metric.value for metric in metrics] == pytest.approx([15 + clips, *(10 * k + clips for k in range(4))])
    assert {metric.n for metric in metrics} == {3}
    low, high = metrics[1].ci95 or (0.0, 0.0)
    assert low < clips < high
    assert metrics[0].protocol == (
        "diffusion_loss/1;rectified flow, times stratified, normalised latents, held-out;draws=8"
    ), "the published tables carry it"
    assert len({metric.protocol for metric in metrics[1:]}) == 1 and "bins=4" in metrics[1].protocol
    assert "v-prediction" in diffusion_loss_metrics(step_losses(keys), VPrediction(), keys)[0].protocol


def test_a_bin_without_a_draw_has_no_metric_and_a_rare_one_its_own_clips() -> None:
    times = torch.tensor([[0.1], [0.9], [0.95]], dtype=torch.float64)
    found = DiffusionLosses(torch.arange(3), torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64), times)
    metrics = diffusion_loss_metrics(found, RectifiedFlow(), ["a", "b", "c"])
    assert {metric.name: (metric.value, metric.n) for metric in metrics[1:]} == {
        "diffusion_loss_t1of4": (1.0, 1),
        "diffusion_loss_t4of4": (3.0, 2),
    }
    curve = diffusion_loss_curve(found, RectifiedFlow(), ["a", "b", "c"], bins=4)
    assert (curve["x"], curve["y"]) == ([0.125, 0.875], [1.0, 3.0])
    assert curve["low"][0] is None and curve["low"][1] < 3.0 < curve["high"][1]
    with pytest.raises(ValueError, match="2 clips"):
        diffusion_loss_metrics(found, RectifiedFlow(), ["a", "b"])


def test_the_curve_has_a_point_a_draw() -> None:
    keys = ["a", "b"]
    curve = diffusion_loss_curve(step_losses(keys), VPrediction(), keys)
    assert curve["x"] == [(k + 0.5) / 8 for k in range(8)]
    assert curve["y"] == [10 * (k // 2) + 0.5 for k in range(8)]
    assert "bins=8" in curve["protocol"] and curve["x_label"].startswith("t ")
