"""Encode and decode large frames tile by tile with blended seams, streaming over time as without tiles.

An approximation: each tile is computed as if it were the whole frame, so the attention in the middle sees the tile
alone and convolutions see zeros beyond its edge. Where tiles overlap, a linear ramp leads from one to the other, which
hides the seam but does not remove the difference. One tile as large as the frame is exactly the frame without tiles.

What tiles save is the working memory of the layers. The frames kept between pieces add up to those of the whole frame
(and the overlaps); with ``park`` they wait on another device while other tiles are computed.

Dimension legend
    B batch, 3 colours, t frames of a piece, H W pixels               video  (B,3,t,H,W), float, [-1, 1]
    C latent channels, f latent frames of a piece, h w latent pixels  latent (B,C,f,h,w), float, unbounded
    a span is (begin, end) along one axis, end excluded
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ssvae.core.shapes import check_size
from ssvae.core.types import Posterior
from ssvae.models.streaming import StreamingDecoder, StreamingEncoder
from ssvae.models.vae import VideoVAE

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Where the tiles of a frame lie, in latent pixels: every row span with every column span."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @classmethod
    def plan(cls, size: tuple[int, int], tile: tuple[int, int], overlap: int, ratio: int) -> TileGrid:
        """Fewest equal tiles that cover a frame, spread evenly.

        size: (H, W) of the frame. tile: (H, W) of a tile, cut to the frame where it is larger. overlap: the least
        overlap of neighbours. All in pixels and multiples of ``ratio``, the VAE's spatial compression. Raises
        ValueError otherwise, or unless 0 <= overlap < the sides of a tile along which the frame is larger.
        """
        check_size(*size, ratio)
        for name, value in (("tile height", tile[0]), ("tile width", tile[1]), ("tile overlap", overlap)):
            if value % ratio or value < (0 if name == "tile overlap" else ratio):
                low = max(value // ratio * ratio, 0 if name == "tile overlap" else ratio)
                raise ValueError(
                    f"{name} {value} must be a multiple of the VAE's spatial compression {ratio}: "
                    f"the nearest that fit are {low} and {low + ratio}"
                )
        if any(overlap >= side < length for length, side in zip(size, tile, strict=True)):
            raise ValueError(f"tile overlap {overlap} must be smaller than the tile, {tile[0]} x {tile[1]}")
        rows, columns = (
            spread(length // ratio, side // ratio, overlap // ratio) for length, side in zip(size, tile, strict=True)
        )
        return cls(rows, columns)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the frame in latent pixels."""
        return self.rows[-1][1], self.columns[-1][1]


def spread(length: int, tile: int, overlap: int) -> tuple[Span, ...]:
    """Spans of min(tile, length) that cover ``length``, as few as overlap by ``overlap`` or more, evenly apart."""
    if tile >= length:
        return ((0, length),)
    count = -(-(length - overlap) // (tile - overlap))
    begins = [round(index * (length - tile) / (count - 1)) for index in range(count)]
    return tuple((begin, begin + tile) for begin in begins)


def blend_weights(spans: Sequence[Span], scale: int = 1) -> list[Tensor]:
    """Weight of every position of each span, scaled by ``scale`` positions a unit; float64, (span length,) each.

    Linear ramps over the overlaps, divided by their sum: at every position of the axis the weights add up to 1.
    """
    total = torch.zeros(spans[-1][1] * scale, dtype=torch.float64)
    ramps = []
    for index, (begin, end) in enumerate(spans):
        ramp = torch.ones((end - begin) * scale, dtype=torch.float64)
        left = (spans[index - 1][1] - begin) * scale if index else 0
        right = (end - spans[index + 1][0]) * scale if index + 1 < len(spans) else 0
        ramp[:left] *= _rise(left)
        ramp[len(ramp) - right :] *= _rise(right).flip(0)
        ramps.append(ramp)
        total[begin * scale : end * scale] += ramp
    return [ramp / total[begin * scale : end * scale] for ramp, (begin, end) in zip(ramps, spans, strict=True)]


def _rise(length: int) -> Tensor:
    """(length,) from just above 0 to just below 1, its mirror image the rest to 1."""
    return (torch.arange(length, dtype=torch.float64) + 0.5) / max(length, 1)


class _Seams:
    """Cuts frames into tiles and adds tiles up to frames, at ``scale`` positions a latent pixel."""

    def __init__(self, grid: TileGrid, scale: int) -> None:
        self.size = (grid.size[0] * scale, grid.size[1] * scale)
        self._windows = [
            (slice(top * scale, bottom * scale), slice(left * scale, right * scale))
            for (top, bottom), (left, right) in product(grid.rows, grid.columns)
        ]
        self._weights = list(product(blend_weights(grid.rows, scale), blend_weights(grid.columns, scale)))

    def cut(self, frames: Tensor) -> Iterator[Tensor]:
        """(...,H,W) -> the tiles, row by row."""
        for rows, columns in self._windows:
            yield frames[..., rows, columns]

    def add(self, frames: Tensor, index: int, tile: Tensor) -> None:
        """Add tile ``index`` to ``frames`` (...,H,W) with its weights."""
        down, across = (weight.to(tile) for weight in self._weights[index])
        rows, columns = self._windows[index]
        frames[..., rows, columns] += tile * (down[:, None] * across)


class TiledEncoder:
    """A :class:`StreamingEncoder` for each tile of the frame; means and log-variances are blended on the latent grid.

    park: device on which a tile's state waits while others are computed; None leaves it where it is.
    """

    def __init__(self, vae: VideoVAE, grid: TileGrid, park: torch.device | None = None) -> None:
        self._streams = [StreamingEncoder(vae) for _ in range(len(grid))]
        self._pixels, self._latents = _Seams(grid, vae.spatial_ratio), _Seams(grid, 1)
        self._park = park

    @property
    def pending(self) -> int:
        """Frames that wait for others to fill their latent frame."""
        return self._streams[0].pending

    @torch.no_grad()
    def push(self, video: Tensor) -> Posterior:
        """The next frames (B,3,t,H,W) -> posterior over the (B,C,f,h,w) they complete; ValueError for another size."""
        _check_frame("video", video, self._pixels.size)
        mean = logvar = video.new_zeros(0)
        for index, (stream, tile) in enumerate(zip(self._streams, self._pixels.cut(video), strict=True)):
            stream.move_state(video.device)
            posterior = stream.push(tile)
            if self._park is not None:
                stream.move_state(self._park)
            if index == 0:
                mean, logvar = (_blank(part, self._latents) for part in (posterior.mean, posterior.logvar))
            self._latents.add(mean, index, posterior.mean)
            self._latents.add(logvar, index, posterior.logvar)
        return Posterior(mean, logvar)


class TiledDecoder:
    """A :class:`StreamingDecoder` for each tile of the frame; their pixels are blended.

    park: device on which a tile's state waits while others are computed; None leaves it where it is.
    """

    def __init__(self, vae: VideoVAE, grid: TileGrid, park: torch.device | None = None) -> None:
        self._streams = [StreamingDecoder(vae) for _ in range(len(grid))]
        self._pixels, self._latents = _Seams(grid, vae.spatial_ratio), _Seams(grid, 1)
        self._park = park

    @torch.no_grad()
    def push(self, latent: Tensor) -> Tensor:
        """The next raw latents (B,C,f,h,w) -> their frames (B,3,t,H,W), not clamped; ValueError for another size."""
        _check_frame("latent", latent, self._latents.size)
        video = latent.new_zeros(0)
        for index, (stream, tile) in enumerate(zip(self._streams, self._latents.cut(latent), strict=True)):
            stream.move_state(latent.device)
            frames = stream.push(tile)
            if self._park is not None:
                stream.move_state(self._park)
            if index == 0:
                video = _blank(frames, self._pixels)
            self._pixels.add(video, index, frames)
        return video


def _check_frame(name: str, frames: Tensor, size: tuple[int, int]) -> None:
    if tuple(frames.shape[-2:]) != size:
        raise ValueError(f"{name} of shape {tuple(frames.shape)}: the tiles were planned for frames of {size}")


def _blank(tile: Tensor, seams: _Seams) -> Tensor:
    """Zeros for whole frames, everything else as the tile."""
    return tile.new_zeros(*tile.shape[:-2], *seams.size)
