from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssvae.core.types import Posterior, StepContext
from ssvae.models.vae import VideoVAE
from ssvae.regularizers.se import SE, Axes
from step_context import l1, step_context

SPATIAL, TEMPORAL = 4, 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def context(
    latent: Tensor, video: Tensor, decode: Callable[[Tensor], Tensor], seed: int = 0, unit: float = 1.0
) -> StepContext:
    """Everything that SE has no business with is NaN."""
    nothing = torch.full_like(latent.detach(), float("nan"))
    return step_context(
        Posterior(nothing, nothing),
        video,
        latent=latent,
        decoded_latent=nothing,
        reconstruction=torch.full_like(video, float("nan")),
        target=torch.full_like(video, float("nan")),
        decode=decode,
        generator=generator(seed),
        unit=unit,
    )


def ramp(frames: int, h: int, w: int) -> Tensor:
    """(1,1,frames,h,w): linear in height, width and, over the later frames, in time; the first frame has its own."""
    rows, columns = (torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w
    later = (torch.arange(frames - 1) + 0.5) / max(frames - 1, 1)
    time = torch.cat([torch.tensor([40.0]), 5 * later])
    return (time[:, None, None] + 2 * rows[:, None] - 3 * columns)[None, None]


class RampDecoder:
    """Decodes a ramp latent to the ramp clip of its size, and remembers what it got."""

    def __call__(self, latent: Tensor) -> Tensor:
        self.latent = latent
        _, _, frames, h, w = latent.shape
        return ramp(1 + (frames - 1) * TEMPORAL, h * SPATIAL, w * SPATIAL).expand(latent.shape[0], 3, -1, -1, -1)


@pytest.mark.parametrize("axes", ["space", "space_time"])
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("grid", [(5, 8, 8), (1, 8, 8), (3, 5, 7), (9, 12, 4), (2, 4, 4)])
def test_a_linear_field_is_equivariant_without_any_offset(axes: Axes, factor: int, grid: tuple[int, int, int]) -> None:
    """Latent and clip stay aligned in height, width and time, divisible or not, image or video."""
    frames, h, w = grid
    video = ramp(1 + (frames - 1) * TEMPORAL, h * SPATIAL, w * SPATIAL).expand(2, 3, -1, -1, -1)
    decode = RampDecoder()
    term = SE((factor,), axes).terms(context(ramp(*grid).expand(2, 4, -1, -1, -1), video, decode))["se"]
    assert term.item() == pytest.approx(0, abs=1e-5)
    later = max(1, (frames - 1) // factor) if axes == "space_time" and frames > 1 else frames - 1
    expected = (1 + later, max(1, h // factor), max(1, w // factor))
    assert decode.latent.shape == (2, 4, *expected)
    torch.testing.assert_close(decode.latent, ramp(*expected).expand(2, 4, -1, -1, -1), rtol=1e-5, atol=1e-5)


def test_value_against_block_means_and_unit() -> None:
    """Factor 2 on even sides is the mean of 2x2 blocks (and of 2x2x2 over later frames)."""
    latent = torch.randn(2, 3, 5, 4, 4, generator=generator(1))
    video = torch.randn(2, 3, 9, 8, 8, generator=generator(2))

    def decode(small: Tensor) -> Tensor:  # nearest repeat, first frame alone
        wide = small.repeat_interleave(2, 3).repeat_interleave(2, 4)
        return torch.cat([wide[:, :, :1], wide[:, :, 1:].repeat_interleave(2, 2)], dim=2)

    def blocks(x: Tensor, time: bool) -> Tensor:
        x = x.unfold(3, 2, 2).unfold(4, 2, 2).mean((5, 6))
        if not time:
            return x
        return torch.cat([x[:, :, :1], x[:, :, 1:].unfold(2, 2, 2).mean(5)], dim=2)

    axes: Axes
    for axes in ("space", "space_time"):
        time = axes == "space_time"
        expected = (decode(blocks(latent, time)) - blocks(video, time)).abs().mean().item()
        se = SE((2,), axes)
        ctx = context(latent, video, decode, unit=11.0)
        assert se.terms(ctx)["se"].item() == pytest.approx(11 * expected, rel=1e-5)
        stats = se.stats(ctx)
        assert stats["factor"].item() == 2 and stats["distance"].item() == pytest.approx(expected, rel=1e-5)


def test_the_likelihoods_own_distance_is_used() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def distance(reconstruction: Tensor, target: Tensor) -> Tensor:
        seen.append((reconstruction, target))
        return l1(reconstruction, target) * 0 + 3

    latent, video = ramp(3, 4, 4), ramp(5, 16, 16)
    ctx = step_context(
        Posterior(latent, latent), video.expand(1, 3, -1, -1, -1), decode=RampDecoder(), distance=distance, unit=2.0
    )
    assert SE((2,)).terms(ctx)["se"].item() == 6.0
    ((reconstruction, target),) = seen
    assert reconstruction.shape == target.shape == (1, 3, 5, 8, 8)


def tiny_vae() -> VideoVAE:
    torch.manual_seed(0)
    return VideoVAE(
        channels=4, base_channels=4, multipliers=(1, 2, 2), encoder_blocks=1, decoder_blocks=1,
        temporal_levels=(True, True), encoder_mid_attention=(False,), decoder_mid_attention=(False,),
    )  # fmt: skip


@pytest.mark.parametrize("axes", ["space", "space_time"])
@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_gradient_reaches_the_encoder_through_the_sample_and_the_decoder_and_nothing_else(
    axes: Axes, frames: int
) -> None:
    vae = tiny_vae()
    video = torch.randn(1, 3, frames, 16, 20, generator=generator(3))
    leaf = vae.encode_moments(video).detach().requires_grad_()
    sample = Posterior.from_moments(leaf).sample(generator(4))
    SE(axes=axes).terms(context(sample, video, vae.decode, unit=5.0))["se"].backward()
    assert leaf.grad is not None
    mean, logvar = leaf.grad.chunk(2, dim=1)
    assert mean.abs().sum() > 0 and logvar.abs().sum() > 0
    with_gradient = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in vae.decoder.parameters()]
    assert sum(with_gradient) > 0.9 * len(with_gradient)


def test_a_frozen_encoder_leaves_the_decoder_its_gradient() -> None:
    vae = tiny_vae()
    latent = torch.randn(1, 4, 3, 4, 4, generator=generator(5))
    term = SE().terms(context(latent, torch.zeros(1, 3, 9, 16, 16), vae.decode))["se"]
    term.backward()
    assert vae.decoder.conv_out.weight.grad is not None and vae.decoder.conv_out.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("axes", ["space", "space_time"])
def test_a_shortened_clip_is_compared_with_its_own_beginning(axes: Axes) -> None:
    """Another regulariser dropped the end before encoding: what it dropped must not matter."""
    vae = tiny_vae()
    latent = torch.randn(1, 4, 3, 4, 4, generator=generator(6))
    video = torch.randn(1, 3, 17, 16, 16, generator=generator(7))
    changed = torch.cat([video[:, :, :9], torch.full((1, 3, 8, 16, 16), float("nan"))], dim=2)
    clips = (video[:, :, :9], changed)
    terms = [SE((2,), axes).terms(context(latent, clip, vae.decode))["se"].item() for clip in clips]
    assert terms[0] == terms[1] > 0


def test_the_first_frame_never_mixes_with_later_ones() -> None:
    latent = torch.zeros(1, 4, 5, 4, 4)
    latent[:, :, 0] = 1e6
    decode = RampDecoder()
    SE((2,), "space_time").terms(context(latent, torch.zeros(1, 3, 9, 16, 16), decode))
    assert decode.latent.shape[2] == 3
    assert torch.equal(decode.latent[:, :, 1:], torch.zeros(1, 4, 2, 2, 2)) and decode.latent[:, :, 0].min() > 9e5


def test_factors_are_drawn_equally_often_from_the_steps_stream() -> None:
    se, drawn, count = SE((2, 3, 4)), generator(8), 9000
    counts = Counter(se.draw_factor(drawn) for _ in range(count))
    assert set(counts) == {2, 3, 4}
    for number in counts.values():
        assert number / count == pytest.approx(1 / 3, abs=4 * (2 / 9 / count) ** 0.5)


def test_one_seed_one_factor_and_the_statistic_names_it() -> None:
    se, latent, video = SE((2, 3, 4)), ramp(3, 12, 12), ramp(5, 48, 48)
    factors = set()
    for seed in range(12):
        decode = RampDecoder()
        ctx = context(latent, video.expand(1, 3, -1, -1, -1), decode, seed)
        se.terms(ctx)
        factor = se.stats(ctx)["factor"].item()
        assert factor == se.draw_factor(generator(seed))
        assert decode.latent.shape[3] == 12 // factor
        factors.add(factor)
    assert factors == {2, 3, 4}


def test_clip_and_latent_are_left_to_the_likelihood() -> None:
    se, latent, video = SE(), torch.zeros(1, 4, 2, 4, 4), torch.zeros(1, 3, 3, 16, 16)
    drawn = generator()
    state = drawn.get_state()
    assert se.prepare(video, drawn) is video and se.transform(latent, video, drawn) == (latent, video)
    assert torch.equal(drawn.get_state(), state) and not list(se.parameters())


def test_evaluation_measures_the_same_term_without_gradient() -> None:
    vae = tiny_vae()
    latent, video = torch.randn(1, 4, 3, 4, 4, generator=generator(9)), torch.zeros(1, 3, 9, 16, 16)
    trained = SE().terms(context(latent, video, vae.decode))["se"]
    with torch.no_grad():
        evaluated = SE().eval().terms(context(latent, video, vae.decode))["se"]
    assert evaluated.item() == trained.item() and not evaluated.requires_grad


def test_grids_that_leave_nothing_are_refused() -> None:
    SE((2, 3, 4)).check_grid((1, 2, 2))
    SE((2, 3, 4), "space_time").check_grid((3, 2, 8))
    with pytest.raises(ValueError, match="2 positions a side"):
        SE((2, 3, 4)).check_grid((5, 1, 8))
    with pytest.raises(ValueError, match="3 positions a side"):
        SE((3, 4)).check_grid((5, 8, 2))
    with pytest.raises(ValueError, match="axes=space"):
        SE((2, 3, 4), "space_time").check_grid((2, 8, 8))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"factors": ()}, "factors"),
        ({"factors": (1, 2)}, "factors"),
        ({"factors": (2.5,)}, "factors"),
        ({"axes": "time"}, "space, space_time"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SE(**arguments)
