"""A clip of any size and any length through a VAE and back, piece by piece.

A VAE takes heights and widths that its spatial compression divides and 1 + r·k frames. Anything else is filled up by
repeating its edge (right, below) and its last frame, and what was filled up is cut off again afterwards.

Dimension legend
    B batch, 3 colours, t frames of a piece, H W pixels               video  (B,3,t,H,W), float, [-1, 1]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ssvae.core.types import Posterior
from ssvae.models.streaming import StreamingDecoder, StreamingEncoder
from ssvae.models.tiling import TiledDecoder, TiledEncoder, TileGrid
from ssvae.models.vae import VideoVAE
from ssvae.models.zoo import PublishedVAE


class _Encoder(Protocol):
    @property
    def pending(self) -> int: ...

    def push(self, video: Tensor) -> Posterior: ...


class _Decoder(Protocol):
    def push(self, latent: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Padding:
    """What is missing to a clip that a VAE takes: rows ``below`` and columns ``right`` of pixels, ``frames`` after."""

    below: int
    right: int
    frames: int

    @classmethod
    def of(cls, vae: VideoVAE | PublishedVAE, frames: int, height: int, width: int) -> Padding:
        """For a clip of that many frames and pixels."""
        space = vae.spatial_ratio
        step = vae.layout.frame_step if isinstance(vae, PublishedVAE) else vae.temporal_ratio
        return cls(-height % space, -width % space, -(frames - 1) % step)


def reconstruct(
    vae: VideoVAE, pieces: Iterable[Tensor], *, tiles: TileGrid | None = None, park: torch.device | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (video, reconstruction), (B,3,t,H,W) each, of the frames of a clip in order, t as they are completed.

    pieces: the clip's next frames (B,3,t,H,W) in [-1,1], t >= 1, of one size each time. The latent is the posterior's
    mean; reconstructions are not clamped, on the VAE's device and in its dtype, videos as they came. tiles: where the
    tiles of the filled-up frame lie (approximate, see :mod:`ssvae.models.tiling`); park: see there. A few pieces
    are in memory at a time, however long the clip is. Raises ValueError for pieces that do not fit each other.
    """
    encoder, decoder = _streams(vae, tiles, park)
    waiting: list[Tensor] = []
    last = None
    for piece in pieces:
        waiting.append(piece)
        # A copy of the last frame alone: a view would keep its piece alive.
        last = piece[:, :, -1:].clone()
        yield from _completed(waiting, _there_and_back(vae, encoder, decoder, piece))
        del piece
    if last is not None and encoder.pending:
        missing = vae.temporal_ratio - encoder.pending
        repeated = last.expand(-1, -1, missing, -1, -1)
        yield from _completed(waiting, _there_and_back(vae, encoder, decoder, repeated))
    assert not waiting, "frames came in that never came out"


def _streams(vae: VideoVAE, tiles: TileGrid | None, park: torch.device | None) -> tuple[_Encoder, _Decoder]:
    if tiles is None or len(tiles) == 1:
        return StreamingEncoder(vae), StreamingDecoder(vae)
    return TiledEncoder(vae, tiles, park), TiledDecoder(vae, tiles, park)


def _there_and_back(vae: VideoVAE, encoder: _Encoder, decoder: _Decoder, piece: Tensor) -> Tensor | None:
    """Reconstruction of the frames that ``piece`` completes, (B,3,t,H,W), those filled up in time among them."""
    height, width = piece.shape[-2:]
    space = Padding.of(vae, 1, height, width)
    weight = vae.decoder.conv_in.weight
    filled = F.pad(piece.to(weight), (0, space.right, 0, space.below, 0, 0), mode="replicate")
    latent = encoder.push(filled).mode()
    return decoder.push(latent)[..., :height, :width] if latent.shape[2] else None


def _completed(waiting: list[Tensor], decoded: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The waiting frames beside their reconstructions, which leave ``waiting``; surplus reconstructions are dropped."""
    while decoded is not None and waiting and decoded.shape[2]:
        video = waiting[0]
        frames = min(video.shape[2], decoded.shape[2])
        yield video[:, :, :frames], decoded[:, :, :frames]
        decoded = decoded[:, :, frames:]
        if frames == video.shape[2]:
            waiting.pop(0)
        else:
            waiting[0] = video[:, :, frames:]
