"""Tiles: where they lie, that their blend adds up, and how far the result is from the frame at once."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from ssvae.models.streaming import StreamingDecoder, StreamingEncoder
from ssvae.models.tiling import TiledDecoder, TiledEncoder, TileGrid, _Seams, blend_weights, spread
from ssvae.models.vae import VideoVAE

RATIO = 4


def make(attention: bool = True, **changes: Any) -> VideoVAE:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "channels": 3,
        "base_channels": 4,
        "multipliers": (1, 2, 2),
        "encoder_blocks": 1,
        "decoder_blocks": 1,
        "temporal_levels": (True, False),
        "encoder_mid_attention": (attention,),
        "decoder_mid_attention": (attention,),
    }
    vae = VideoVAE(**{**settings, **changes})
    for name, parameter in vae.named_parameters():
        if ".proj." in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return vae.double().eval()


def clip(frames: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(1, 3, frames, height, width, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize(("length", "tile", "overlap"), itertools.product((1, 5, 12, 33, 64), (4, 9, 16), (0, 1, 3)))
def test_spans_cover_overlap_and_are_as_few_as_possible(length: int, tile: int, overlap: int) -> None:
    spans = spread(length, tile, overlap)
    assert (spans[0][0], spans[-1][1]) == (0, length)
    assert {end - begin for begin, end in spans} == {min(tile, length)}
    overlaps = [one[1] - two[0] for one, two in itertools.pairwise(spans)]
    assert all(overlap <= shared < tile for shared in overlaps)
    assert max(overlaps, default=0) - min(overlaps, default=0) <= 1
    # One tile fewer could not reach across, even at the least overlap.
    assert len(spans) == 1 or (len(spans) - 1) * (tile - overlap) + overlap < length


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("spans", [spread(33, 9, 3), spread(20, 8, 0), spread(20, 8, 7), spread(5, 9, 3)])
def test_weights_add_up_to_one(spans: tuple[tuple[int, int], ...], scale: int) -> None:
    total = torch.zeros(spans[-1][1] * scale, dtype=torch.float64)
    for weight, (begin, end) in zip(blend_weights(spans, scale), spans, strict=True):
        assert weight.min() > 0
        total[begin * scale : end * scale] += weight
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-14, rtol=0)


def test_the_ramp_is_linear_between_two_tiles() -> None:
    left, right = blend_weights(((0, 6), (2, 8)))
    ramp = torch.tensor([0.125, 0.375, 0.625, 0.875], dtype=torch.float64)
    torch.testing.assert_close(left, torch.cat([torch.ones(2, dtype=torch.float64), 1 - ramp]))
    torch.testing.assert_close(right, torch.cat([ramp, torch.ones(2, dtype=torch.float64)]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_cut_and_blended_frames_are_the_frames(dtype: torch.dtype) -> None:
    grid = TileGrid.plan((40, 52), (16, 24), 8, RATIO)
    assert len(grid) == 4 * 3 and grid.size == (10, 13)
    for seams, frames in ((_Seams(grid, RATIO), clip(2, 40, 52)), (_Seams(grid, 1), clip(2, 10, 13))):
        frames = frames.to(dtype)
        blended = torch.zeros_like(frames)
        for index, tile in enumerate(seams.cut(frames)):
            assert tile.shape[-2] * tile.shape[-1] * len(grid) > frames.shape[-2] * frames.shape[-1]
            seams.add(blended, index, tile)
        torch.testing.assert_close(blended, frames, atol=1e-14 if dtype == torch.float64 else 0.03, rtol=0)
    constant = torch.zeros(1, 3, 1, 40, 52, dtype=torch.float64)
    for index in range(len(grid)):
        _Seams(grid, RATIO).add(constant, index, torch.full((1, 3, 1, 16, 24), 0.7, dtype=torch.float64))
    torch.testing.assert_close(constant, torch.full_like(constant, 0.7), atol=1e-14, rtol=0)


def tiled(vae: VideoVAE, video: Tensor, grid: TileGrid, plan: list[int]) -> tuple[Tensor, Tensor]:
    """(mean, decoded) of the clip in tiles and pieces; the decoder sees the tiled encoder's latents."""
    encoder, decoder = TiledEncoder(vae, grid), TiledDecoder(vae, grid)
    means, frames = [], []
    for piece in video.split(plan, dim=2):
        posterior = encoder.push(piece)
        assert posterior.logvar.shape == posterior.mean.shape
        means.append(posterior.mean)
        if posterior.mean.shape[2]:
            frames.append(decoder.push(posterior.mean))
    assert encoder.pending == 0
    return torch.cat(means, 2), torch.cat(frames, 2)


@pytest.mark.parametrize("tile", [(16, 24), (64, 64)])
def test_a_tile_as_large_as_the_frame_is_exactly_no_tiles(tile: tuple[int, int]) -> None:
    vae, video = make(), clip(5, 16, 24)
    grid = TileGrid.plan((16, 24), tile, 8, RATIO)
    assert len(grid) == 1
    mean, decoded = tiled(vae, video, grid, [1, 2, 2])
    encoder, decoder = StreamingEncoder(vae), StreamingDecoder(vae)
    means = torch.cat([encoder.push(piece).mean for piece in video.split([1, 2, 2], dim=2)], 2)
    assert torch.equal(mean, means)
    assert torch.equal(decoded, torch.cat([decoder.push(piece) for piece in means.split(1, dim=2)], 2))


def test_pieces_in_time_change_nothing_of_the_tiles() -> None:
    vae, video = make(), clip(7, 32, 40)
    grid = TileGrid.plan((32, 40), (20, 20), 8, RATIO)
    whole = tiled(vae, video, grid, [7])
    for plan in ([1, 2, 4], [3, 3, 1]):
        for found, expected in zip(tiled(vae, video, grid, plan), whole, strict=True):
            assert (found - expected).abs().max() < 1e-10


def test_far_from_every_seam_convolutions_see_no_tiles() -> None:
    vae, video = make(attention=False), clip(3, 32, 256)
    grid = TileGrid.plan((32, 256), (32, 160), 64, RATIO)
    assert grid.columns == ((0, 40), (24, 64))
    with torch.no_grad():
        mean = vae.encode(video).mean
        error = (tiled(vae, video, grid, [3])[0] - mean).abs().amax((0, 1, 2, 3))
    # 13 latent columns is more than a latent sees to either side; the tiles end at 24 and 40.
    inside = torch.ones(64, dtype=torch.bool)
    inside[24 - 1 : 40 + 1] = False
    assert error[inside].max() < 1e-12
    assert error[~inside].max() > 1e-6


def seam_error(vae: VideoVAE, video: Tensor, overlap: int) -> tuple[float, float]:
    """Largest and mean absolute difference of decoded frames from those without tiles."""
    with torch.no_grad():
        expected = vae.decode(vae.encode(video).mean)
    grid = TileGrid.plan((48, 96), (48, 48), overlap, RATIO)
    error = (tiled(vae, video, grid, [3])[1] - expected).abs()
    return float(error.max()), float(error.mean())


def test_seam_errors_are_bounded_and_overlap_reduces_them() -> None:
    vae, video = make(attention=False), clip(3, 48, 96)
    with torch.no_grad():
        spread_of_pixels = float(vae.decode(vae.encode(video).mean).std())
    bare, blended = seam_error(vae, video, 0), seam_error(vae, video, 24)
    assert 0 < blended[0] < bare[0] and blended[1] < bare[1]
    assert blended[1] < 0.08 * spread_of_pixels


def test_parked_state_gives_the_same_bits() -> None:
    vae, video = make(), clip(3, 16, 32)
    grid = TileGrid.plan((16, 32), (16, 20), 8, RATIO)
    plain, parked = TiledEncoder(vae, grid), TiledEncoder(vae, grid, park=torch.device("cpu"))
    for piece in video.split([1, 2], dim=2):
        assert torch.equal(parked.push(piece).mean, plain.push(piece).mean)


def test_states_wait_where_they_are_parked() -> None:
    vae = make()
    grid = TileGrid.plan((16, 32), (16, 20), 8, RATIO)
    encoder = TiledEncoder(vae, grid, park=torch.device("meta"))
    encoder.push(clip(1, 16, 32))
    kept = [tensor for stream in encoder._streams for tensor in stream._walk._kept.values()]
    assert kept and all(tensor.is_meta for tensor in kept)


MISTAKES: dict[str, tuple[tuple[int, int], tuple[int, int], int, str]] = {
    "tile": ((16, 32), (18, 16), 0, "tile height 18 .*nearest that fit are 16 and 20"),
    "small": ((16, 32), (16, 0), 0, "tile width 0 .*nearest that fit are 4 and 8"),
    "negative": ((16, 32), (16, -4), 0, "tile width -4"),
    "overlap": ((16, 32), (16, 16), 6, "tile overlap 6 .*nearest that fit are 4 and 8"),
    "negative overlap": ((16, 32), (16, 16), -4, "tile overlap -4 .*nearest that fit are 0 and 4"),
    "too much": ((16, 32), (16, 8), 12, "tile overlap 12 must be smaller than the tile, 16 x 8"),
    "frame": ((18, 32), (16, 8), 0, "height 18 is not divisible"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_tiles_that_do_not_fit_are_refused(name: str) -> None:
    size, tile, overlap, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        TileGrid.plan(size, tile, overlap, RATIO)


def test_frames_of_another_size_are_refused() -> None:
    grid = TileGrid.plan((16, 32), (16, 16), 4, RATIO)
    with pytest.raises(ValueError, match="planned for frames of"):
        TiledEncoder(make(), grid).push(clip(1, 16, 16))
    with pytest.raises(ValueError, match="planned for frames of"):
        TiledDecoder(make(), grid).push(clip(1, 16, 32))
