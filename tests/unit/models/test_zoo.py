"""VAEs of others behind our encode and decode: against diffusers called by hand, class by class."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from published_vaes import FACTS, VIDEO, clip, make
from ssvae.models.autoencoder import Autoencoder
from ssvae.models.vae import VideoVAE
from ssvae.models.zoo import IMAGE_PIXELS, PublishedVAE
from ssvae.models.zoo_rules import layout


@lru_cache
def published(name: str) -> PublishedVAE:
    network = make(name)
    return PublishedVAE(network, layout({"_class_name": type(network).__name__, **network.config}))


def size(name: str) -> int:
    return FACTS[name][1] * 2


def test_both_kinds_are_autoencoders() -> None:
    ours = VideoVAE(
        channels=3,
        base_channels=4,
        multipliers=(1, 2),
        encoder_blocks=1,
        decoder_blocks=1,
        temporal_levels=(True,),
    )
    for vae in (ours, published("flux")):
        assert isinstance(vae, Autoencoder)
    assert not isinstance(torch.nn.Identity(), Autoencoder)


@pytest.mark.parametrize("name", FACTS)
@torch.no_grad()
def test_latents_and_videos_are_those_of_diffusers(name: str) -> None:
    channels, space, time, (frames, latent_frames) = FACTS[name]
    vae, network = published(name), make(name)
    assert (vae.channels, vae.spatial_ratio, vae.temporal_ratio) == (channels, space, time)
    video = clip(frames, size=size(name))
    grid = vae.latent_grid(frames, *video.shape[3:])
    assert grid == (latent_frames, 2, 2)
    posterior = vae.encode(video)
    assert posterior.mean.shape == (1, channels, *grid)
    if name == "flux":
        each = [network.encode(video[:, :, index]).latent_dist for index in range(frames)]
        mean, std = (torch.stack(parts, 2) for parts in ([one.mean for one in each], [one.std for one in each]))
        expected = torch.stack([network.decode(mean[:, :, index]).sample for index in range(frames)], 2)
    else:
        told = network.encode(video).latent_dist
        mean, std = told.mean, told.std
        # What LTX's noise is here, the test below says.
        options = (torch.zeros(1),) if network.config.get("timestep_conditioning") else ()
        expected = network.decode(mean, *options).sample
    torch.testing.assert_close(posterior.mean, mean, atol=1e-5, rtol=0)
    torch.testing.assert_close((0.5 * posterior.logvar).exp(), std, atol=1e-5, rtol=0)
    decoded = vae.decode(posterior.mode())
    assert decoded.shape == video.shape
    if name != "ltx_noise":
        torch.testing.assert_close(decoded, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", FACTS)
@torch.no_grad()
def test_calls_repeat_and_do_not_depend_on_the_batch(name: str) -> None:
    """Wan remembers frames inside and LTX draws noise: neither may show."""
    vae, frames = published(name), FACTS[name][3][0]
    videos = clip(frames, batch=3, size=size(name))
    posterior = vae.encode(videos)
    decoded = vae.decode(posterior.mean)
    state = torch.get_rng_state()
    for index in (2, 0):
        alone = vae.encode(videos[index : index + 1])
        assert torch.equal(alone.mean[0], posterior.mean[index])
        assert torch.equal(alone.logvar[0], posterior.logvar[index])
        assert torch.equal(vae.decode(alone.mean)[0], decoded[index])
    assert torch.equal(state, torch.get_rng_state()), "the global generator was used"
    assert not torch.equal(decoded[0], decoded[1])


@torch.no_grad()
def test_the_noise_of_ltx_decoders_is_there_and_is_a_stream_of_its_own() -> None:
    vae = published("ltx_noise")
    quiet = copy.deepcopy(vae)
    for key, parameter in quiet.named_parameters():
        if "per_channel_scale" in key:
            parameter.zero_()
    latent = vae.encode(clip(9, size=64)).mean
    with_noise = vae.decode(latent)
    assert not torch.allclose(with_noise, quiet.decode(latent), atol=1e-3)
    torch.manual_seed(5)
    assert torch.equal(vae.decode(latent), with_noise)


@torch.no_grad()
def test_ltx_with_timestep_conditioning_is_decoded_at_time_zero() -> None:
    vae, network = published("ltx_apart"), make("ltx_apart")
    latent = vae.encode(clip(9, size=64)).mean
    torch.testing.assert_close(vae.decode(latent), network.decode(latent, torch.zeros(1)).sample, atol=1e-6, rtol=0)
    assert not torch.allclose(vae.decode(latent), network.decode(latent, torch.ones(1)).sample, atol=1e-4)


PIPELINES: dict[str, Any] = {  # what the classes' own pipelines do to raw latents before they diffuse them
    "wan21": lambda z, c: (
        (z - torch.tensor(c.latents_mean).view(1, -1, 1, 1, 1))
        * (1.0 / torch.tensor(c.latents_std)).view(1, -1, 1, 1, 1)
    ),
    "cogvideox": lambda z, c: z * 0.7,
    "hunyuan": lambda z, c: z * 0.476986,
    "ltx": lambda z, c: (
        (z - torch.linspace(-1, 1, 6).view(1, -1, 1, 1, 1)) * 0.5 / torch.linspace(0.5, 3, 6).view(1, -1, 1, 1, 1)
    ),
    "flux": lambda z, c: (z - 0.11) * 0.36,
}


@pytest.mark.parametrize("name", PIPELINES)
def test_normalisation_is_that_of_the_published_pipeline(name: str) -> None:
    vae, latent = published(name), torch.randn(2, FACTS[name][0], 3, 2, 2, generator=torch.Generator().manual_seed(0))
    normal = vae.normalize(latent)
    torch.testing.assert_close(normal, PIPELINES[name](latent, make(name).config), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(vae.denormalize(normal), latent, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["wan21", "wan22", "ltx", "ltx_apart"])
@torch.no_grad()
def test_encoders_that_normalise_each_position_alone_are_causal(name: str) -> None:
    """No latent frame depends on later frames. (CogVideoX and HunyuanVideo normalise over the clip: theirs do.)"""
    vae, (frames, _) = published(name), FACTS[name][3]
    video = clip(2 * frames - 1, size=size(name))
    whole = vae.encode(video).mean
    for fewer, latent_frames in ((frames, 2), (1, 1)):
        part = vae.encode(video[:, :, :fewer]).mean
        torch.testing.assert_close(part, whole[:, :, :latent_frames], atol=1e-5, rtol=0)
    changed = video.clone()
    changed[:, :, -1] = -changed[:, :, -1]
    assert not torch.allclose(vae.encode(changed).mean, whole, atol=1e-4)


@torch.no_grad()
def test_an_image_vae_sees_each_frame_alone_in_bounded_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, video = published("flux"), clip(5, size=16)
    whole = vae.encode(video).mean
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(vae.encode(video[:, :, order]).mean, whole[:, :, order], atol=1e-5, rtol=0)
    seen: list[int] = []
    network: Any = vae.network
    encode, decode = network.encode, network.decode

    def watched(call: Any) -> Any:
        def watch(frames: Tensor) -> Any:
            seen.append(len(frames))
            return call(frames)

        return watch

    monkeypatch.setattr(network, "encode", watched(encode))
    monkeypatch.setattr(network, "decode", watched(decode))
    monkeypatch.setattr("ssvae.models.zoo.IMAGE_PIXELS", 2 * 16 * 16)
    torch.testing.assert_close(vae.encode(video).mean, whole, atol=1e-5, rtol=0)
    vae.decode(whole)
    assert seen == [2, 2, 1, 2, 2, 1]
    assert IMAGE_PIXELS >= 256 * 256


@pytest.mark.parametrize("name", VIDEO)
@torch.no_grad()
def test_long_clips_come_back_with_all_frames(name: str) -> None:
    """Classes cut long clips in parts of their own: 8 frames, 16 frames, one latent frame."""
    vae, frames = published(name), 25
    video = clip(frames, size=FACTS[name][1])
    assert vae.decode(vae.encode(video).mean).shape == video.shape


@pytest.mark.parametrize("name", FACTS)
@torch.no_grad()
def test_half_precision_keeps_the_statistics(name: str) -> None:
    vae = copy.deepcopy(published(name)).to(torch.bfloat16)
    assert vae.latent_mean.dtype == vae.latent_std.dtype == torch.float32
    assert torch.equal(vae.latent_std, published(name).latent_std)
    video = clip(FACTS[name][3][0], size=size(name)).bfloat16()
    decoded = vae.decode(vae.encode(video).mean)
    assert decoded.dtype == torch.bfloat16 and bool(torch.isfinite(decoded).all())


def test_frozen_and_in_eval_mode() -> None:
    vae = published("wan21")
    assert not vae.training and not any(parameter.requires_grad for parameter in vae.parameters())


def test_gradients_reach_latents() -> None:
    latent = torch.zeros(1, 4, 1, 2, 2, requires_grad=True)
    published("hunyuan").decode(latent).square().mean().backward()
    assert latent.grad is not None and bool((latent.grad != 0).any())


SHAPES: dict[str, tuple[Tensor, str]] = {
    "axes": (torch.zeros(3, 5, 32, 32), "must have axes"),
    "colours": (torch.zeros(1, 1, 5, 32, 32), "3 colours"),
    "frames": (torch.zeros(1, 3, 6, 32, 32), "not 6: the nearest that fit are 5 and 9"),
    "height": (torch.zeros(1, 3, 5, 30, 32), "not height 30: the nearest that fit are 24 and 32"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_videos_that_do_not_fit(case: str) -> None:
    video, word = SHAPES[case]
    with pytest.raises(ValueError, match=word):
        published("wan21").encode(video)


def test_latents_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="4 channels on axis 1"):
        published("wan21").decode(torch.zeros(1, 5, 1, 2, 2))
    with pytest.raises(ValueError, match="2 latent frames: the nearest that fit are 1 and 3"):
        published("cogvideox").decode(torch.zeros(1, 4, 2, 2, 2))


@pytest.mark.parametrize(
    ("name", "changes", "word"),
    [
        ("wan21", {"latents_mean": [0.0] * 3}, "3 latents_mean and 4 latents_std do not fit 4"),
        ("wan21", {"latents_std": [1.0, 0.0, 1.0, 1.0]}, "above 0"),
        ("wan21", {"latents_std": None}, "one of latents_mean and latents_std alone"),
        ("flux", {"scaling_factor": 0.0}, "scaling_factor must be above 0"),
        ("flux", {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}, "which one counts"),
        ("cogvideox", {"latents_mean": [float("nan")] * 4, "latents_std": [1.0] * 4}, "finite"),
    ],
)
def test_constants_that_do_not_fit(name: str, changes: dict[str, Any], word: str) -> None:
    network = make(name)
    network.register_to_config(**changes)
    with pytest.raises(ValueError, match=word):
        PublishedVAE(network, published(name).layout)


def test_constants_of_an_image_vae_with_mean_and_std() -> None:
    """As diffusers' SDXL pipeline uses them."""
    network = make("flux")
    network.register_to_config(
        shift_factor=None, latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[2.0] * 4, scaling_factor=0.5
    )
    vae = PublishedVAE(network, published("flux").layout)
    assert vae.latent_mean.tolist() == [1.0, 2.0, 3.0, 4.0] and vae.latent_std.tolist() == [4.0] * 4
