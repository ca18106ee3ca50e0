"""Piece by piece equals at once: every plan of pieces, every layout of levels, with a state that does not grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssvae.models.resample import unshuffle_average
from ssvae.models.streaming import StreamingDecoder, StreamingEncoder
from ssvae.models.vae import VideoVAE

LAYOUTS: dict[str, dict[str, Any]] = {
    "TT": {"temporal_levels": (True, True), "multipliers": (1, 2, 2)},
    "FT": {"temporal_levels": (False, True), "multipliers": (2, 2, 4)},
    "FFTT": {"temporal_levels": (False, False, True, True), "multipliers": (1, 1, 2, 2, 2)},
    "TTF, wide after": {"temporal_levels": (True, True, False), "multipliers": (1, 8, 2, 4)},
    "no time": {"temporal_levels": (False, False), "multipliers": (1, 2, 2)},
}
PLANS: list[list[int]] = [
    [1, 4, 4, 4],
    [1, 8, 4],
    [5, 8],
    [13],
    [1] * 13,
    [2, 3, 1, 6, 1],
    [3, 3, 3, 3, 1],
    [12, 1],
]


def make(dtype: torch.dtype, **changes: Any) -> VideoVAE:
    torch.manual_seed(0)
    vae = VideoVAE(channels=3, base_channels=4, encoder_blocks=1, decoder_blocks=2, **changes)
    for name, parameter in vae.named_parameters():
        # Attention starts as the identity and outputs small: weights that tests can see.
        if ".proj." in name or "gamma" in name:
            torch.nn.init.normal_(parameter, mean=1.0 if "gamma" in name else 0.0, std=0.3)
    return vae.to(dtype).eval()


def clip(frames: int, dtype: torch.dtype, batch: int = 2, size: tuple[int, int] = (16, 32)) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, frames, *size, generator=generator, dtype=dtype) * 2 - 1


def pieces(x: Tensor, plan: Sequence[int]) -> Iterator[Tensor]:
    assert sum(plan) == x.shape[2]
    yield from x.split(list(plan), dim=2)


def through(vae: VideoVAE, video: Tensor, plan: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, logvar, decoded), each piece decoded as soon as it is encoded."""
    encoder, decoder = StreamingEncoder(vae), StreamingDecoder(vae)
    posteriors, frames = [], []
    for piece in pieces(video, plan):
        posteriors.append(encoder.push(piece))
        if posteriors[-1].mean.shape[2]:
            frames.append(decoder.push(posteriors[-1].mode()))
    assert encoder.pending == 0
    means, logvars = [one.mean for one in posteriors], [one.logvar for one in posteriors]
    return torch.cat(means, 2), torch.cat(logvars, 2), torch.cat(frames, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@torch.no_grad()
def test_every_plan_gives_the_whole_clips_result(layout: str, dtype: torch.dtype, tolerance: float) -> None:
    vae, video = make(dtype, **LAYOUTS[layout]), clip(13, dtype)
    posterior = vae.encode(video)
    decoded = vae.decode(posterior.mode())
    assert posterior.mean.std() > 0.05 and decoded.std() > 0.05
    for plan in PLANS:
        for found, expected in zip(through(vae, video, plan), (posterior.mean, posterior.logvar, decoded), strict=True):
            assert found.shape == expected.shape
            assert (found - expected).abs().max() < tolerance, plan


@pytest.mark.parametrize("layout", ["TT", "FFTT", "no time"])
@torch.no_grad()
def test_latents_in_pieces_of_any_length_decode_alike(layout: str) -> None:
    vae = make(torch.float64, **LAYOUTS[layout])
    latent = torch.randn(1, 3, 6, 4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = vae.decode(latent)
    for plan in ([1, 5], [2, 1, 3], [6], [1] * 6, [5, 1]):
        decoder = StreamingDecoder(vae)
        found = torch.cat([decoder.push(piece) for piece in pieces(latent, plan)], 2)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-10, plan


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_an_image_and_a_clip_in_one_piece_are_the_same_bits(layout: str) -> None:
    vae = make(torch.float32, **LAYOUTS[layout])
    for frames in (1, 5):
        video = clip(frames, torch.float32, batch=1)
        posterior = vae.encode(video)
        mean, logvar, decoded = through(vae, video, [frames])
        assert torch.equal(mean, posterior.mean) and torch.equal(logvar, posterior.logvar)
        assert torch.equal(decoded, vae.decode(posterior.mean))


def test_latent_frames_come_as_soon_as_they_are_complete() -> None:
    vae = make(torch.float32, **LAYOUTS["TT"])
    encoder = StreamingEncoder(vae)
    counts, pending = [], []
    for piece in clip(11, torch.float32).split(1, dim=2):
        mean = encoder.push(piece).mean
        assert mean.shape[:2] == (2, 3) and mean.shape[3:] == (4, 8)
        counts.append(mean.shape[2])
        pending.append(encoder.pending)
    assert counts == [1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0]
    assert pending == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    assert encoder.frames == 11


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation under it made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage().nbytes() // leaf.element_size()
                self.elements = max(self.elements, storage)
        return out


def footprint(vae: VideoVAE, frames: int) -> tuple[int, int, int]:
    """(largest tensor, encoder's state, decoder's state) of 1 + 4 + 4 + ... frames; pieces are made one by one."""
    encoder, decoder = StreamingEncoder(vae), StreamingDecoder(vae)
    with LargestTensor() as seen:
        for count in [1] + [4] * ((frames - 1) // 4):
            decoder.push(encoder.push(clip(count, torch.float32, batch=1)).mode())
    return seen.elements, encoder.state_bytes, decoder.state_bytes


def test_memory_is_flat_in_the_clips_length() -> None:
    vae = make(torch.float32, **LAYOUTS["TT"])
    short = footprint(vae, 9)
    assert footprint(vae, 41) == short
    with LargestTensor() as seen, torch.no_grad():
        vae.decode(vae.encode(clip(41, torch.float32, batch=1)).mode())
    assert seen.elements > 4 * short[0], "the measure sees a clip that is computed at once"


def test_the_state_is_a_few_frames_and_owns_its_memory() -> None:
    vae = make(torch.float32, **LAYOUTS["no time"])
    encoder = StreamingEncoder(vae)
    encoder.push(clip(24, torch.float32, batch=1))
    # conv_in 3 channels; two convolutions a block, two blocks in the middle, conv_out; two frames each.
    channels = {1: 3 + 2 * 4, 4: 2 * 8, 16: 2 * 8 + 4 * 8 + 8}
    pixels = 16 * 32
    assert encoder.state_bytes == 4 * 2 * sum(width * pixels // part for part, width in channels.items())
    for kept in encoder._walk._kept.values():
        assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()


def test_nothing_is_kept_for_gradients() -> None:
    vae = make(torch.float32, **LAYOUTS["TT"])
    posterior = StreamingEncoder(vae).push(clip(5, torch.float32).requires_grad_())
    assert not posterior.mean.requires_grad
    assert not StreamingDecoder(vae).push(posterior.mean).requires_grad


def test_a_later_piece_of_the_shortcut_is_not_padded() -> None:
    x = clip(9, torch.float64)
    whole = unshuffle_average(x, 6, time=2)
    later = torch.cat(
        [unshuffle_average(x[:, :, :3], 6, time=2), unshuffle_average(x[:, :, 3:], 6, time=2, start=False)], 2
    )
    assert torch.equal(whole, later)


MISTAKES = {
    "axes": (torch.zeros(3, 1, 16, 16), "axes"),
    "colours": (torch.zeros(1, 4, 1, 16, 16), "3 colours"),
    "size": (torch.zeros(1, 3, 1, 18, 16), "height 18 .* nearest that fit are 16 and 20"),
    "no frame": (torch.zeros(1, 3, 0, 16, 16), "at least one frame"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_pieces_that_do_not_fit_the_vae_are_refused(name: str) -> None:
    video, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        StreamingEncoder(make(torch.float32, **LAYOUTS["TT"])).push(video)


def test_pieces_that_do_not_fit_each_other_are_refused_and_change_nothing() -> None:
    vae, video = make(torch.float32, **LAYOUTS["TT"]), clip(5, torch.float32)
    encoder, decoder = StreamingEncoder(vae), StreamingDecoder(vae)
    decoder.push(encoder.push(video[:, :, :1]).mean)
    with pytest.raises(ValueError, match="in the pieces before"):
        encoder.push(video[:1])
    with pytest.raises(ValueError, match="in the pieces before"):
        decoder.push(torch.zeros(2, 3, 1, 4, 4))
    with pytest.raises(ValueError, match="3 channels"):
        decoder.push(torch.zeros(2, 4, 1, 4, 8))
    assert encoder.frames == 1
    later = encoder.push(video[:, :, 1:])
    torch.testing.assert_close(later.mean, vae.encode(video).mean[:, :, 1:].detach(), atol=1e-5, rtol=1e-5)
