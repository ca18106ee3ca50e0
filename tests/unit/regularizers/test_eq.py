from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from ssvae.core.types import Posterior
from ssvae.models.vae import VideoVAE
from ssvae.regularizers.eq import EQ, PLAIN
from step_context import step_context

RATIO = 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(h: int = 8, w: int = 8, frames: int = 3, latent_frames: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = generator(1)
    latent = torch.randn(2, 5, latent_frames, h, w, generator=drawn)
    return latent, torch.randn(2, 3, frames, RATIO * h, RATIO * w, generator=drawn)


def always(scale: int, *rotations: int) -> EQ:
    return EQ(RATIO, 1.0, (scale, scale), rotations)


def step(eq: EQ, latent: torch.Tensor, target: torch.Tensor, seed: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = generator(seed)
    eq.prepare(target, drawn)
    return eq.transform(latent, target, drawn)


def values(eq: EQ) -> dict[str, float]:
    latent = torch.zeros(1, 4, 1, 2, 2)
    return {name: value.item() for name, value in eq.stats(step_context(Posterior(latent, latent))).items()}


def half(x: torch.Tensor) -> torch.Tensor:
    """Bilinear scaling by 1/2 of even sides takes the midpoint of four pixels: their mean."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_half_scale_and_rotation_against_numpy(turns: int) -> None:
    latent, target = pair(8, 6)
    small, small_target = step(always(16, turns), latent, target)
    for ours, given in ((small, latent), (small_target, target)):
        expected = np.rot90(half(given).numpy(), turns, axes=(3, 4))
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", range(8, 33))
@pytest.mark.parametrize("h, w", [(8, 8), (5, 7), (1, 3)])
def test_sizes_are_chosen_on_the_latent_grid_and_the_target_follows(scale: int, h: int, w: int) -> None:
    latent, target = pair(h, w)
    small, small_target = step(always(scale, 0), latent, target)
    expected = [max(1, (2 * side * scale + 32) // 64) for side in (h, w)]  # rounded half up
    assert list(small.shape) == [2, 5, 2, *expected]
    assert list(small_target.shape) == [2, 3, 3, *(RATIO * side for side in expected)]


def test_rotation_alone_is_exact_and_swaps_the_sides_of_both() -> None:
    latent, target = pair(8, 6)
    out, out_target = step(always(32, 1), latent, target)
    assert out.shape[3:] == (6, 8) and out_target.shape[3:] == (24, 32)
    # Counter-clockwise: the right end of the top row becomes its left end.
    assert torch.equal(out[..., 0, 0], latent[..., 0, -1])
    assert torch.equal(out_target, torch.rot90(target, 1, (3, 4)))


def test_an_equivariant_decoder_has_nothing_to_learn() -> None:
    """A linear ramp over the picture decodes to the same ramp at every scale and turn: latent and target stay aligned
    to a fraction of a pixel, whatever the rounding."""

    def ramp(h: int, w: int) -> torch.Tensor:
        rows, columns = (torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w
        return (2 * rows[:, None] - 3 * columns).expand(1, 1, 2, h, w)

    latent, target = ramp(7, 5), ramp(28, 20)
    for seed in range(30):
        eq = EQ(RATIO, 1.0)
        small, small_target = step(eq, latent, target, seed)
        turns = int(values(eq)["rotation"])
        straight, straight_target = (torch.rot90(x, -turns, (3, 4)) for x in (small, small_target))
        torch.testing.assert_close(straight, ramp(*straight.shape[3:]))
        torch.testing.assert_close(straight_target, ramp(*straight_target.shape[3:]))


def test_frames_never_mix() -> None:
    latent, target = pair(frames=5, latent_frames=3)
    latent[:, :, 1] = 1e6
    target[:, :, 1:3] = 1e6
    out, out_target = step(always(20, 3), latent, target)
    assert out[:, :, [0, 2]].abs().max() < 10 and out_target[:, :, [0, 3, 4]].abs().max() < 10
    assert out[:, :, 1].min() > 9e5


def test_gradient_reaches_the_latent_linearly_and_the_target_has_none() -> None:
    latent, target = pair(4, 4)
    latent.requires_grad_()
    eq = always(16, 1)
    out, out_target = step(eq, latent, target)
    assert not out_target.requires_grad and not list(eq.parameters())
    out.sum().backward()
    # every position has a quarter share in one output position
    torch.testing.assert_close(latent.grad, torch.full_like(latent, 0.25))


def test_draws_are_as_often_as_stated() -> None:
    eq, drawn, count = EQ(RATIO), generator(3), 20000
    draws = [eq.draw(drawn) for _ in range(count)]
    pairs = [draw for draw in draws if draw.rotation]
    scaled_down = [draw for draw in draws if draw.input_scale < 32]
    assert all((draw.rotation > 0) == (draw.scale < 32) and draw.input_scale == 32 for draw in pairs)
    assert all(draw.scale == 32 and draw.rotation == 0 for draw in scaled_down)
    assert len(pairs) / count == pytest.approx(0.5, abs=0.015)
    assert len(scaled_down) / (count - len(pairs)) == pytest.approx(0.25, abs=0.018)
    assert len(pairs) + len(scaled_down) + draws.count(PLAIN) == count
    for found, expected in (
        (Counter(draw.scale for draw in pairs), range(8, 32)),
        (Counter(draw.rotation for draw in pairs), range(1, 4)),
        (Counter(draw.input_scale for draw in scaled_down), range(8, 32)),
    ):
        assert set(found) == set(expected)
        total, share = sum(found.values()), 1 / len(expected)
        for number in found.values():
            assert number / total == pytest.approx(share, abs=4.5 * (share * (1 - share) / total) ** 0.5)
    # scale and rotation are independent
    turned = [draw.scale for draw in pairs if draw.rotation == 1]
    assert sum(turned) / len(turned) == pytest.approx(19.5, abs=0.5)


def test_probabilities_zero_and_one_are_certain() -> None:
    drawn = generator(4)
    assert all(EQ(RATIO, 0.0, downscaled=0.0).draw(drawn) == PLAIN for _ in range(200))
    assert all(EQ(RATIO, 1.0).draw(drawn).rotation for _ in range(200))
    assert all(EQ(RATIO, 0.0, downscaled=1.0).draw(drawn).input_scale < 32 for _ in range(200))


def test_one_seed_one_draw() -> None:
    eq, one, two = EQ(RATIO), generator(5), generator(5)
    first = [eq.draw(one) for _ in range(20)]
    assert first == [eq.draw(two) for _ in range(20)] and len(set(first)) > 3


def test_a_scaled_down_clip_is_its_own_target() -> None:
    _, video = pair(8, 6)
    eq, drawn = EQ(RATIO, 0.0, (16, 16), downscaled=1.0), generator(6)
    encoded = eq.prepare(video, drawn)
    torch.testing.assert_close(encoded, half(video))
    latent = torch.randn(2, 5, 2, 4, 3, generator=generator(7))
    state = drawn.get_state()
    same, target = eq.transform(latent, video, drawn)
    assert same is latent and torch.equal(target, encoded)
    assert torch.equal(drawn.get_state(), state)
    assert values(eq) == {"scale": 1.0, "rotation": 0.0, "input_scale": 0.5}


@pytest.mark.parametrize("scale", [8, 13, 27, 31])
def test_scaled_down_clips_fit_the_encoder(scale: int) -> None:
    video = torch.zeros(1, 3, 1, RATIO * 5, RATIO * 3)
    encoded = EQ(RATIO, 0.0, (scale, scale), downscaled=1.0).prepare(video, generator())
    assert all(side % RATIO == 0 and side >= RATIO for side in encoded.shape[3:])


def test_every_step_starts_anew() -> None:
    latent, target = pair()
    eq = EQ(RATIO)
    kinds = set()
    for seed in range(30):
        drawn = generator(seed)
        expected = eq.draw(generator(seed))
        encoded = eq.prepare(target, drawn)
        assert values(eq) == {
            "scale": expected.scale / 32,
            "rotation": expected.rotation,
            "input_scale": expected.input_scale / 32,
        }
        if expected.input_scale == 32:
            assert encoded is target
        out, out_target = eq.transform(latent, target, drawn)
        if expected == PLAIN:
            assert out is latent and out_target is target
        kinds.add((expected.rotation > 0, expected.input_scale < 32))
    assert len(kinds) == 3


def test_evaluation_does_and_draws_nothing_even_after_a_training_step() -> None:
    latent, target = pair()
    eq = EQ(RATIO, 1.0)
    step(eq, latent, target)
    eq.eval()
    drawn = generator()
    state = drawn.get_state()
    assert eq.transform(latent, target, drawn) == (latent, target)
    assert eq.prepare(target, drawn) is target
    assert eq.transform(latent, target, drawn) == (latent, target)
    assert torch.equal(drawn.get_state(), state)
    assert values(eq) == {"scale": 1.0, "rotation": 0.0, "input_scale": 1.0}


@pytest.mark.parametrize("frames", [1, 9])
def test_a_real_vae_meets_its_target_at_every_draw(frames: int) -> None:
    torch.manual_seed(0)
    vae = VideoVAE(
        channels=4, base_channels=4, multipliers=(1, 2, 2), encoder_blocks=1, decoder_blocks=1,
        temporal_levels=(True, True), encoder_mid_attention=(False,), decoder_mid_attention=(False,),
    )  # fmt: skip
    eq, video = EQ(vae.spatial_ratio), torch.zeros(1, 3, frames, 20, 12)
    kinds = set()
    with torch.no_grad():
        for seed in range(12):
            drawn = generator(seed)
            latent = vae.encode(eq.prepare(video, drawn)).mean
            decoded_latent, target = eq.transform(latent, video, drawn)
            assert vae.decode(decoded_latent).shape == target.shape
            kinds.add((values(eq)["rotation"] > 0, values(eq)["input_scale"] < 1))
    assert len(kinds) == 3


def test_a_wrong_ratio_is_noticed() -> None:
    latent, target = pair()
    eq = EQ(2 * RATIO, 1.0)
    with pytest.raises(AssertionError, match="spatial_ratio"):
        step(eq, latent, target)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"spatial_ratio": 0}, "spatial_ratio"),
        ({"probability": 1.1}, "probability"),
        ({"downscaled": -0.1}, "downscaled"),
        ({"scales": (0, 31)}, "scales"),
        ({"scales": (31, 8)}, "scales"),
        ({"scales": (8, 33)}, "scales"),
        ({"scales": (8, 16, 31)}, "scales"),
        ({"scales": (8.5, 31)}, "scales"),
        ({"rotations": ()}, "rotations"),
        ({"rotations": (1, 4)}, "rotations"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EQ(**{"spatial_ratio": RATIO, **arguments})
