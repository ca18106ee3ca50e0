"""The alignment loss against loops over positions, and which frames and weights it touches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssvae.core.types import Posterior, StepContext
from ssvae.regularizers.vf import VisionFoundation
from step_context import step_context


class Patches(nn.Module):
    """A stand-in for the vision network: one fixed linear map of 4 x 4 patches."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.dim = dim
        self.conv = nn.Conv2d(3, dim, 4, stride=4)
        with torch.no_grad():
            for parameter in self.conv.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(11))
        self.requires_grad_(False)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, frames: Tensor) -> Tensor:
        self.seen.append(tuple(frames.shape))
        assert not torch.is_grad_enabled()
        return self.conv(frames)


class Colour:
    """Features that are the frame itself: what was pooled can be read off."""

    dim = 3

    def __call__(self, frames: Tensor) -> Tensor:
        return frames


def context(latent: Tensor, video: Tensor) -> StepContext:
    elsewhere = torch.full_like(latent, float("nan"))  # VF reads the sample, never the posterior's mean
    return step_context(Posterior(elsewhere, elsewhere), video, latent=latent)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def double(**arguments: Any) -> VisionFoundation:
    given = {"channels": 5, "features": Patches().double(), "temporal_ratio": 2, **arguments}
    return VisionFoundation(**given).double()


def by_loops(vf: VisionFoundation, latent: Tensor, targets: Tensor) -> tuple[float, float, float]:
    """(cosine, mcos, mdms) of latent (B,C,F,h,w) and features on its grid (B,D,F,h,w), pair by pair."""
    weight = vf.projection.weight.detach()[:, :, 0, 0]

    def cosine(one: Tensor, other: Tensor) -> float:
        return float(one @ other / (one.norm() * other.norm()))

    cosines, first, second = [], [], []
    for b in range(latent.shape[0]):
        for f in range(latent.shape[2]):
            ours = [weight @ column for column in latent[b, :, f].flatten(1).T]
            theirs = list(targets[b, :, f].flatten(1).T)
            for z, feature in zip(ours, theirs, strict=True):
                cosines.append(cosine(z, feature))
                first.append(max(0.0, 1 - vf.cos_margin - cosines[-1]))
            for i in range(len(ours)):
                for j in range(len(ours)):
                    gap = abs(cosine(ours[i], ours[j]) - cosine(theirs[i], theirs[j]))
                    second.append(max(0.0, gap - vf.distance_margin))
    return (*(math.fsum(values) / len(values) for values in (cosines, first, second)),)  # type: ignore[return-value]


@pytest.mark.parametrize("frames, margins", [(1, (0.5, 0.25)), (3, (0.5, 0.25)), (3, (0.0, 0.0))])
def test_equals_the_formula_pair_by_pair(frames: int, margins: tuple[float, float]) -> None:
    vf = double(cos_margin=margins[0], distance_margin=margins[1])
    latent, video = random(2, 5, frames, 2, 3), random(2, 3, 1 + 2 * (frames - 1), 8, 12, seed=1)
    maps = Patches().double().conv(video.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, -1)).transpose(1, 2)
    pooled = [maps[:, :, 0]] + [(maps[:, :, 2 * k - 1] + maps[:, :, 2 * k]) / 2 for k in range(1, frames)]
    cosine, mcos, mdms = by_loops(vf, latent, torch.stack(pooled, dim=2))
    assert mcos > 0.01 and mdms > 0.01
    ctx = context(latent, video)
    assert vf.terms(ctx)["vf"].item() == pytest.approx(mcos + mdms, abs=1e-12)
    stats = vf.stats(ctx)
    assert [stats[key].item() for key in ("cosine", "mcos", "mdms")] == pytest.approx([cosine, mcos, mdms], abs=1e-12)


def test_first_frame_stands_alone_and_later_ones_are_averaged() -> None:
    vf = VisionFoundation(4, Colour(), temporal_ratio=4)
    video = torch.arange(9.0).view(1, 1, 9, 1, 1).expand(2, 3, 9, 2, 2) * torch.tensor([1.0, 10.0]).view(2, 1, 1, 1, 1)
    targets = vf._targets(video, 3, (2, 2))
    assert targets.shape == (6, 3, 2, 2)
    assert targets[:, 0, 0, 0].tolist() == [0.0, 2.5, 6.5, 0.0, 25.0, 65.0]


def test_features_are_interpolated_bilinearly_to_the_latent_grid() -> None:
    vf = VisionFoundation(4, Colour(), temporal_ratio=1)
    video = torch.tensor([[0.0, 4.0], [8.0, 12.0]]).expand(1, 3, 1, 2, 2)
    (target,) = vf._targets(video, 1, (1, 4))[:, 0]
    assert target.tolist() == [[4.0, 5.0, 7.0, 8.0]]  # corners of pixels, not their centres, are aligned


def test_a_latent_of_the_clips_beginning_is_compared_over_that_beginning() -> None:
    vf, latent, video = double(), random(1, 5, 2, 2, 2), random(1, 3, 5, 8, 8, seed=2)
    value = vf.terms(context(latent, video))["vf"]
    changed = video.clone()
    changed[:, :, 3:] = 0.3
    assert torch.equal(vf.terms(context(latent, changed))["vf"], value)
    changed[:, :, 2] = 0.3
    assert not torch.equal(vf.terms(context(latent, changed))["vf"], value)


def test_aligned_latents_cost_nothing_and_opposite_ones_only_the_cosine() -> None:
    vf = VisionFoundation(3, Colour(), temporal_ratio=1, distance_margin=0.0)
    with torch.no_grad():
        vf.projection.weight.copy_(torch.eye(3)[:, :, None, None])
    video = random(2, 3, 2, 3, 3, seed=3).float()
    for scale, mcos, cosine in ((7.0, 0.0, 1.0), (-1.0, 1.5, -1.0)):
        stats = vf.stats(context(scale * video, video))
        assert stats["cosine"].item() == pytest.approx(cosine, abs=1e-6)
        assert stats["mcos"].item() == pytest.approx(mcos, abs=1e-6)
        assert stats["mdms"].item() == pytest.approx(0.0, abs=1e-6)  # cosines of pairs do not see the sign


def test_gradient_reaches_encoder_and_projection_and_nothing_else() -> None:
    features = Patches().double()
    vf = double(features=features, cos_margin=0.0, distance_margin=0.0)
    latent, video = random(1, 5, 2, 2, 2).requires_grad_(), random(1, 3, 3, 8, 8, seed=4).requires_grad_()
    vf.terms(context(latent, video))["vf"].backward()
    assert latent.grad is not None and vf.projection.weight.grad is not None and video.grad is None
    assert bool((latent.grad.abs().sum((0, 1)) > 0).all()) and bool(vf.projection.weight.grad.abs().sum() > 0)
    assert all(parameter.grad is None for parameter in features.parameters())

    def value(z: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(_Term(vf), {"vf.projection.weight": weight}, (z, video.detach()))

    weight = vf.projection.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(value, (latent.detach().requires_grad_(), weight), eps=1e-7, atol=1e-5)


class _Term(nn.Module):
    def __init__(self, vf: VisionFoundation) -> None:
        super().__init__()
        self.vf = vf

    def forward(self, latent: Tensor, video: Tensor) -> Tensor:
        return self.vf.terms(context(latent, video))["vf"]


def test_descending_the_term_aligns_free_latents() -> None:
    torch.manual_seed(0)
    vf = VisionFoundation(5, Patches(), temporal_ratio=2)
    latent, video = random(2, 5, 2, 2, 2).float().requires_grad_(), random(2, 3, 3, 8, 8, seed=5).float()
    optimizer = torch.optim.Adam([latent, *vf.parameters()], lr=0.05)
    before = vf.stats(context(latent, video))["cosine"].item()
    for _ in range(40):
        optimizer.zero_grad()
        vf.terms(context(latent, video))["vf"].backward()
        optimizer.step()
    assert vf.stats(context(latent, video))["cosine"].item() > before + 0.3


def test_the_frozen_network_is_not_part_of_the_module() -> None:
    features = Patches().eval()
    vf = VisionFoundation(5, features, temporal_ratio=2)
    assert list(vf.state_dict()) == ["projection.weight"] and len(list(vf.parameters())) == 1
    assert vf.projection.weight.shape == (6, 5, 1, 1)
    vf.train()
    assert not features.training


def test_ranks_that_average_equal_one_process_with_both_samples() -> None:
    vf, latent, video = double(), random(2, 5, 2, 2, 2), random(2, 3, 3, 8, 8, seed=6)
    whole = vf.terms(context(latent, video))["vf"].item()
    parts = [vf.terms(context(latent[i : i + 1], video[i : i + 1]))["vf"].item() for i in range(2)]
    assert whole == pytest.approx(sum(parts) / 2, abs=1e-12)


def test_half_precision_around_it_does_not_reach_the_comparison() -> None:
    vf = VisionFoundation(3, Colour(), temporal_ratio=2)
    latent, video = random(1, 3, 2, 2, 2).float(), random(1, 3, 3, 4, 4, seed=7).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = vf.terms(context(latent, video))["vf"]
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(vf.terms(context(latent, video))["vf"].item(), rel=1e-6)


def test_an_image_is_one_frame_for_the_network() -> None:
    features = Patches()
    vf = VisionFoundation(5, features, temporal_ratio=4)
    vf.terms(context(random(2, 5, 1, 2, 2).float(), random(2, 3, 1, 8, 8).float()))
    assert features.seen == [(2, 3, 8, 8)]


def test_bad_values_and_clips_are_refused() -> None:
    for arguments, words in (
        ({"channels": 0}, "channels"),
        ({"temporal_ratio": 0}, "temporal_ratio"),
        ({"cos_margin": -0.1}, "cos_margin"),
        ({"distance_margin": 2.0}, "distance_margin"),
    ):
        with pytest.raises(ValueError, match=words):
            double(**arguments)
    with pytest.raises(ValueError, match="stand for 5 frames, but the clip has 3"):
        double().terms(context(random(1, 5, 3, 2, 2), random(1, 3, 3, 8, 8)))
