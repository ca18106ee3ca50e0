from __future__ import annotations

from collections import Counter

import pytest
import torch

from ssvae.core.types import Posterior
from ssvae.models.vae import VideoVAE
from ssvae.regularizers.predictive import Padding, Predictive
from step_context import step_context


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clip(frames: int, batch: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, frames, 4, 4, generator=generator(seed))


def frames_left(regularizer: Predictive, video: torch.Tensor, draws: torch.Generator) -> int:
    encoded = regularizer.prepare(video, draws)
    assert torch.equal(encoded, video[:, :, : encoded.shape[2]]), "the beginning of the clip, as it was"
    return encoded.shape[2]


@pytest.mark.parametrize(
    "frames, ratio, max_drop, left",
    [
        (17, 4, 1.0, {17, 13, 9, 5, 1}),  # the first frame always stays
        (17, 4, 0.75, {17, 13, 9, 5}),
        (17, 4, 0.5, {17, 13, 9}),
        (17, 4, 0.49, {17, 13}),
        (9, 2, 1.0, {9, 7, 5, 3, 1}),
        (17, 4, 0.0, {17}),
        (1, 4, 1.0, {1}),
    ],
)
def test_every_allowed_number_of_latent_frames_is_dropped_equally_often(
    frames: int, ratio: int, max_drop: float, left: set[int]
) -> None:
    regularizer, draws = Predictive(4, ratio, max_drop), generator(2)
    video, count = clip(frames, batch=1), 2000
    counts = Counter(frames_left(regularizer, video, draws) for _ in range(count))
    assert set(counts) == left
    share = 1 / len(left)
    for number in counts.values():
        assert number / count == pytest.approx(share, abs=4 * (share * (1 - share) / count) ** 0.5)


def test_most_is_free_of_float_rounding() -> None:
    assert Predictive(1, 4, 0.29).most(101) == 29  # 100 · 0.29 is 28.999999999999996
    assert Predictive(1, 4, 0.28).most(101) == 28


def test_learned_token_fills_the_end_and_takes_its_gradient_alone() -> None:
    regularizer = Predictive(3, 4)
    latent = torch.randn(2, 3, 2, 2, 2, generator=generator(3)).requires_grad_()
    target = clip(17)
    out, same = regularizer.transform(latent, target, generator())
    assert same is target and out.shape == (2, 3, 5, 2, 2)
    assert torch.equal(out[:, :, :2], latent)
    assert regularizer.token is not None and regularizer.token.shape == (1, 3, 1, 1, 1)
    assert torch.equal(out[:, :, 2:], regularizer.token.expand(2, 3, 3, 2, 2))
    pull = torch.randn(out.shape, generator=generator(4))
    (out * pull).sum().backward()
    torch.testing.assert_close(latent.grad, pull[:, :, :2])
    torch.testing.assert_close(regularizer.token.grad, pull[:, :, 2:].sum((0, 2, 3, 4), keepdim=True))


def test_gaussian_padding_is_standard_normal_has_no_parameter_and_is_shared_out_over_ranks() -> None:
    regularizer = Predictive(8, 4, padding="gaussian")
    assert not list(regularizer.parameters())
    latent, target = torch.zeros(6, 8, 1, 8, 8), clip(17, batch=6)
    out, _ = regularizer.transform(latent, target, generator(5))
    noise = out[:, :, 1:]
    assert noise.numel() == 12288 and torch.equal(out[:, :, :1], latent)
    assert noise.mean().item() == pytest.approx(0, abs=4 / 12288**0.5)
    assert noise.var().item() == pytest.approx(1, abs=4 * (2 / 12288) ** 0.5)
    parts = []
    for rank in range(2):
        regularizer.part = (rank, 2)
        part = slice(3 * rank, 3 * rank + 3)
        parts.append(regularizer.transform(latent[part], target[part], generator(5))[0])
    assert torch.equal(torch.cat(parts), out)


@pytest.mark.parametrize("padding", ["learned", "gaussian"])
def test_evaluation_and_images_drop_and_draw_nothing(padding: Padding) -> None:
    training, evaluating = Predictive(3, 4, padding=padding), Predictive(3, 4, padding=padding).eval()
    for regularizer, video, latent_frames in ((training, clip(1), 1), (evaluating, clip(17), 5)):
        draws = generator()
        state = draws.get_state()
        latent = torch.zeros(2, 3, latent_frames, 2, 2)
        assert regularizer.prepare(video, draws) is video
        assert regularizer.transform(latent, video, draws)[0] is latent
        assert torch.equal(draws.get_state(), state)
        assert regularizer.stats(step_context(Posterior(latent, latent)))["dropped_fraction"].item() == 0


def test_one_seed_one_draw() -> None:
    one, two = Predictive(3, 4), Predictive(3, 4)
    draws, same = generator(6), generator(6)
    first = [frames_left(one, clip(17), draws) for _ in range(20)]
    assert first == [frames_left(two, clip(17), same) for _ in range(20)]
    assert len(set(first)) > 1


def test_dropped_fraction_is_of_the_latest_step() -> None:
    regularizer, draws, latent = Predictive(3, 4), generator(7), torch.zeros(2, 3, 5, 2, 2)
    seen = set()
    for _ in range(20):
        left = frames_left(regularizer, clip(17), draws)
        fraction = regularizer.stats(step_context(Posterior(latent, latent)))["dropped_fraction"].item()
        assert fraction == pytest.approx((5 - (left + 3) // 4) / 5)
        seen.add(left)
    assert len(seen) == 5


def test_motion_is_the_squared_error_of_frame_differences_in_the_likelihoods_unit() -> None:
    reconstruction = clip(5, seed=8).double().requires_grad_()
    target = clip(5, seed=9).double()
    posterior = Posterior(torch.zeros(2, 3, 2, 2, 2), torch.zeros(2, 3, 2, 2, 2))
    ctx = step_context(posterior, target, reconstruction=reconstruction, target=target, unit=7.0)
    term = Predictive(3, 4).terms(ctx)["motion"]
    ours, theirs = reconstruction.detach().numpy(), target.numpy()
    errors = [((ours[:, :, t] - ours[:, :, t - 1]) - (theirs[:, :, t] - theirs[:, :, t - 1])) ** 2 for t in range(1, 5)]
    assert term.item() == pytest.approx(7 * sum(error.mean() for error in errors) / 4, rel=1e-5)
    term.backward()
    assert reconstruction.grad is not None
    # Only differences count: the gradient sums to nothing over time, and a constant offset changes nothing.
    assert reconstruction.grad.abs().sum() > 0
    torch.testing.assert_close(reconstruction.grad.sum(2), torch.zeros(2, 3, 4, 4).double(), rtol=0, atol=1e-7)
    moved = step_context(posterior, target, reconstruction=reconstruction.detach() + 0.5, target=target, unit=7.0)
    assert Predictive(3, 4).terms(moved)["motion"].item() == pytest.approx(term.item(), rel=1e-5)


def test_motion_of_an_image_is_zero_without_gradient() -> None:
    image = clip(1).requires_grad_()
    ctx = step_context(Posterior(torch.zeros(2, 3, 1, 2, 2), torch.zeros(2, 3, 1, 2, 2)), image.detach(), target=image)
    term = Predictive(3, 4).terms(ctx)["motion"]
    assert term.item() == 0 and not term.requires_grad


def test_a_real_vae_reconstructs_the_whole_clip_from_its_beginning() -> None:
    torch.manual_seed(0)
    vae = VideoVAE(
        channels=4, base_channels=4, multipliers=(1, 2, 2), encoder_blocks=1, decoder_blocks=1,
        temporal_levels=(True, True), encoder_mid_attention=(False,), decoder_mid_attention=(False,),
    )  # fmt: skip
    regularizer, draws = Predictive(vae.channels, vae.temporal_ratio), generator(10)
    video = torch.randn(1, 3, 9, 8, 8, generator=generator(11))
    seen = set()
    for _ in range(12):
        encoded = regularizer.prepare(video, draws)
        latent = vae.encode(encoded).mean
        padded, target = regularizer.transform(latent, video, draws)
        out = vae.decode(padded)
        assert out.shape == target.shape == video.shape
        seen.add(latent.shape[2])
        if latent.shape[2] < 3:
            # The decoder is causal: what was kept decodes as it does alone, so only the end is a prediction.
            kept = encoded.shape[2]
            torch.testing.assert_close(out[:, :, :kept], vae.decode(latent), rtol=1e-4, atol=1e-5)
    assert seen == {1, 2, 3}


def test_token_is_standard_normal_at_first() -> None:
    torch.manual_seed(0)
    token = Predictive(4096, 4).token
    assert token is not None
    values = token.detach()
    assert float(values.mean()) == pytest.approx(0, abs=0.06) and float(values.std()) == pytest.approx(1, abs=0.04)


def test_too_short_clips_and_bad_arguments_are_refused() -> None:
    Predictive(3, 4).check_grid((2, 4, 4))
    Predictive(3, 4, max_drop=0).check_grid((1, 4, 4))
    with pytest.raises(ValueError, match="drops nothing"):
        Predictive(3, 4, max_drop=0.3).check_grid((3, 4, 4))
    with pytest.raises(ValueError, match="drops nothing"):
        Predictive(3, 4).check_grid((1, 4, 4))
    with pytest.raises(ValueError, match="max_drop"):
        Predictive(3, 4, max_drop=1.5)
    with pytest.raises(ValueError, match="learned, gaussian"):
        Predictive(3, 4, padding="zeros")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="channels"):
        Predictive(0, 4)
    with pytest.raises(ValueError, match="temporal_ratio"):
        Predictive(3, 0)
