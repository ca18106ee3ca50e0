"""The VAE's promises: causality, images as one-frame clips, shapes, errors, initial variance, latent statistics."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssvae.models.vae import VideoVAE


def tiny(**changes: object) -> VideoVAE:
    settings: dict[str, object] = {
        "channels": 6,
        "base_channels": 4,
        "multipliers": (2, 4, 4),
        "encoder_blocks": 1,
        "decoder_blocks": 1,
        "temporal_levels": (True, True),
    }
    torch.manual_seed(0)
    vae = VideoVAE(**{**settings, **changes})  # type: ignore[arg-type]
    _wake_attention(vae)
    return vae


def _wake_attention(vae: VideoVAE) -> None:
    """Attention starts as the identity; give it weights so that tests see it."""
    for name, parameter in vae.named_parameters():
        if ".proj." in name:
            torch.nn.init.normal_(parameter, std=0.3)


def clip(batch: int, frames: int, size: int = 16) -> Tensor:
    return torch.rand(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def weighted_sum(x: Tensor) -> Tensor:
    return (x * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))).sum()


@pytest.mark.parametrize("batch", [1, 2])
def test_latent_frames_do_not_see_later_frames(batch: int) -> None:
    vae, video = tiny(), clip(batch, 9).requires_grad_()
    moments = vae.encode_moments(video)
    for frame in range(moments.shape[2]):
        (gradient,) = torch.autograd.grad(weighted_sum(moments[:, :, frame]), video, retain_graph=True)
        last = 4 * frame  # latent frame f covers video frames up to 4f
        assert not gradient[:, :, last + 1 :].any()
        assert gradient[:, :, last].abs().amax() > 0


@pytest.mark.parametrize("batch", [1, 2])
def test_decoded_frames_do_not_see_later_latents(batch: int) -> None:
    vae = tiny()
    latent = torch.randn(batch, 6, 3, 4, 4, generator=torch.Generator().manual_seed(3)).requires_grad_()
    video = vae.decode(latent)
    for frame in range(video.shape[2]):
        (gradient,) = torch.autograd.grad(weighted_sum(video[:, :, frame]), latent, retain_graph=True)
        last = -(-frame // 4)
        assert not gradient[:, :, last + 1 :].any()
        assert gradient[:, :, last].abs().amax() > 0


@pytest.mark.parametrize("temporal", [(True, True), (False, True), (False, False)])
def test_image_is_the_first_frame_of_a_clip(temporal: tuple[bool, bool]) -> None:
    vae, video = tiny(temporal_levels=temporal), clip(2, 9)
    with torch.no_grad():
        moments = vae.encode_moments(video)
        torch.testing.assert_close(vae.encode_moments(video[:, :, :1]), moments[:, :, :1], atol=2e-5, rtol=1e-4)
        latent = moments.chunk(2, 1)[0]
        first = vae.decode(latent)[:, :, :1]
        torch.testing.assert_close(vae.decode(latent[:, :, :1]), first, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("temporal", "frames", "latents"), [((True, True), 9, 3), ((False, True), 5, 3)])
def test_shapes_follow_the_grid(temporal: tuple[bool, bool], frames: int, latents: int) -> None:
    vae = tiny(temporal_levels=temporal)
    video = torch.rand(2, 3, frames, 16, 24)
    posterior = vae.encode(video)
    assert posterior.mean.shape == (2, 6, *vae.latent_grid(frames, 16, 24)) == (2, 6, latents, 4, 6)
    assert vae.decode(posterior.mean).shape == video.shape
    assert (vae.spatial_ratio, vae.temporal_ratio) == (4, 2 ** sum(temporal))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 8, 16, 16), "nearest that fit are 5 and 9"),
        ((1, 3, 9, 18, 16), "height 18 .* nearest that fit are 16 and 20"),
        ((1, 3, 9, 16, 30), "width 30 .* nearest that fit are 28 and 32"),
        ((1, 1, 9, 16, 16), "3 colours"),
        ((3, 9, 16, 16), "axes"),
    ],
)
def test_clips_that_do_not_fit_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny().encode(torch.zeros(shape))


def test_latents_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="6 channels"):
        tiny().decode(torch.zeros(1, 5, 1, 4, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temporal_levels": (True,)}, "temporal_levels"),
        ({"multipliers": (2, 3, 4)}, "multipliers"),
        ({"multipliers": (1, 16, 16)}, "multipliers"),
        ({"multipliers": ()}, "multipliers"),
        ({"encoder_blocks": 0}, "encoder_blocks"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**change)


def test_initial_logvar_holds_everywhere_and_can_be_learnt() -> None:
    vae = tiny(initial_logvar=-6.0)
    posterior = vae.encode(clip(1, 5))
    assert torch.equal(posterior.logvar, torch.full_like(posterior.logvar, -6.0))
    assert posterior.mean.std() > 0
    posterior.logvar.square().sum().backward()
    assert vae.encoder.conv_out.weight.grad is not None
    assert vae.encoder.conv_out.weight.grad[6:].abs().amax() > 0


def test_logvar_is_clamped() -> None:
    posterior = tiny(initial_logvar=-60.0).encode(clip(1, 1))
    assert torch.equal(posterior.logvar, torch.full_like(posterior.logvar, -30.0))


def test_normalise_standardises_and_denormalise_inverts() -> None:
    vae = tiny()
    latent = 3.0 * torch.randn(4, 6, 3, 4, 4) + torch.arange(6.0).view(-1, 1, 1, 1)
    vae.set_latent_statistics(latent.mean((0, 2, 3, 4)), latent.std((0, 2, 3, 4)))
    normal = vae.normalize(latent)
    torch.testing.assert_close(normal.mean((0, 2, 3, 4)), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std((0, 2, 3, 4)), torch.ones(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.denormalize(normal), latent)


def test_latent_statistics_stay_float32_in_a_half_precision_model() -> None:
    vae = tiny()
    mean, std = torch.linspace(-1.2345678, 1, 6), torch.linspace(0.1234567, 2, 6)
    vae.set_latent_statistics(mean, std)
    vae.to(torch.bfloat16)
    assert torch.equal(vae.latent_mean, mean)
    assert torch.equal(vae.latent_std, std)
    assert vae.normalize(torch.zeros(1, 6, 1, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (torch.zeros(6), torch.tensor([1.0, 1, 0, 1, -1, 1]), r"channels \[2, 4\]"),
        (torch.zeros(5), torch.ones(6), "shape"),
        (torch.tensor([0.0, float("nan"), 0, 0, 0, 0]), torch.ones(6), "non-finite"),
    ],
)
def test_bad_latent_statistics_are_refused(mean: Tensor, std: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny().set_latent_statistics(mean, std)
