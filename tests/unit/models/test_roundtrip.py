"""Clips of any size and length through a VAE: filled up, streamed, cut back, with few pieces in memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssvae.models.roundtrip import Padding, reconstruct
from ssvae.models.tiling import TileGrid
from ssvae.models.vae import VideoVAE


def make(temporal: tuple[bool, bool] = (True, True)) -> VideoVAE:
    torch.manual_seed(0)
    vae = VideoVAE(
        channels=3,
        base_channels=4,
        multipliers=(1, 2, 2),
        encoder_blocks=1,
        decoder_blocks=1,
        temporal_levels=temporal,
    )
    return vae.eval()


def clip(frames: int, height: int = 16, width: int = 20) -> Tensor:
    return torch.rand(1, 3, frames, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def joined(vae: VideoVAE, pieces: Iterator[Tensor] | tuple[Tensor, ...], **options: Any) -> tuple[Tensor, Tensor]:
    pairs = list(reconstruct(vae, pieces, **options))
    assert all(video.shape == recon.shape for video, recon in pairs)
    return torch.cat([video for video, _ in pairs], 2), torch.cat([recon for _, recon in pairs], 2)


@pytest.mark.parametrize(("height", "width"), [(16, 20), (17, 18), (3, 1)])
@pytest.mark.parametrize("frames", [1, 2, 5, 8])
@torch.no_grad()
def test_any_size_and_length_equals_filling_up_by_hand(frames: int, height: int, width: int) -> None:
    vae, video = make().double(), clip(frames, height, width).double()
    padding = Padding.of(vae, frames, height, width)
    assert (frames + padding.frames - 1) % 4 == (height + padding.below) % 4 == (width + padding.right) % 4 == 0
    assert max(padding.below, padding.right, padding.frames) < 4
    filled = torch.cat([video] + [video[:, :, -1:]] * padding.frames, 2)
    rows = torch.arange(height + padding.below).clamp_max(height - 1)
    columns = torch.arange(width + padding.right).clamp_max(width - 1)
    filled = filled[..., rows, :][..., columns]
    expected = vae.decode(vae.encode(filled).mode())[:, :, :frames, :height, :width]
    for length in (1, 3, frames):
        seen, found = joined(vae, video.split(length, dim=2))
        assert torch.equal(seen, video)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("temporal", [(False, False), (False, True)])
def test_other_temporal_ratios(temporal: tuple[bool, bool]) -> None:
    vae, video = make(temporal).double(), clip(6).double()
    seen, found = joined(vae, video.split(4, dim=2))
    assert torch.equal(seen, video)
    filled = F.pad(video, (0, 0, 0, 0, 0, Padding.of(vae, 6, 16, 20).frames), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(found, vae.decode(vae.encode(filled).mean)[:, :, :6], atol=1e-10, rtol=0)


def test_videos_stay_as_they_came_when_the_vae_is_in_half_precision() -> None:
    vae, video = make().to(torch.bfloat16), clip(5, 17, 18)
    seen, found = joined(vae, video.split(2, dim=2))
    assert torch.equal(seen, video)
    assert found.dtype == torch.bfloat16 and bool(torch.isfinite(found).all())


def test_tiles_are_used_and_one_tile_changes_nothing() -> None:
    vae, video = make(), clip(5, 16, 32)
    plain = joined(vae, (video,))[1]
    one, two = (TileGrid.plan((16, 32), (16, width), 8, 4) for width in (32, 20))
    assert torch.equal(joined(vae, (video,), tiles=one)[1], plain)
    blended = joined(vae, (video,), tiles=two)[1]
    assert not torch.equal(blended, plain)
    assert (blended - plain).abs().mean() < 0.5 * plain.std()


def test_few_pieces_are_in_memory_however_long_the_clip_is() -> None:
    alive: set[int] = set()
    most = 0

    def made() -> Iterator[Tensor]:
        nonlocal most
        for index in range(40):
            piece = clip(3)
            alive.add(index)
            weakref.finalize(piece.untyped_storage(), alive.discard, index)
            most = max(most, len(alive))
            yield piece

    vae, frames = make(), 0
    for video, _ in reconstruct(vae, made()):
        frames += video.shape[2]
    assert frames == 120
    assert most <= 3


def test_no_pieces_give_nothing_and_pieces_of_two_sizes_are_refused() -> None:
    assert list(reconstruct(make(), [])) == []
    with pytest.raises(ValueError, match="in the pieces before"):
        list(reconstruct(make(), [clip(1, 16), clip(4, 32)]))
