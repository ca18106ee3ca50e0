"""A clip of any size and length through a published VAE and back, in independent windows along time.

Their classes cannot take a clip piece by piece as ours can, so a long clip is cut into windows, each computed as a
clip of its own: memory stays flat, and at each cut the VAE knows nothing of the frames before. What does not fit is
filled up by repeating the last frame, row and column, and cut off again.

Dimension legend
    B batch, 3 colours, t frames of a piece, H W pixels               video  (B,3,t,H,W), float, [-1, 1]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ssvae.models.roundtrip import Padding
from ssvae.models.zoo import PublishedVAE

LONGEST = 49
"""Frames of a window, where nobody asks for others: 1 + 8k fits all classes."""


def default_window(vae: PublishedVAE, frames: int) -> int:
    """Frames of the windows that a clip of ``frames`` is cut into: all of it (filled up), or :data:`LONGEST`."""
    step = vae.layout.frame_step
    return min(1 + (LONGEST - 1) // step * step, frames + Padding.of(vae, frames, 1, 1).frames)


@torch.no_grad()
def reconstruct_windows(vae: PublishedVAE, pieces: Iterable[Tensor], window: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (video, reconstruction), (B,3,t,H,W) each, of the frames of a clip in order, a window at a time.

    pieces: the clip's next frames (B,3,t,H,W) in [-1,1], t >= 1, of one size each time. The latent is the posterior's
    mean; reconstructions are not clamped here, on the VAE's device and in its dtype, videos as they came. Raises
    ValueError for a window that the VAE does not take.
    """
    vae.latent_grid(window, vae.spatial_ratio, vae.spatial_ratio)
    for video in _cut(pieces, window):
        frames, height, width = video.shape[2:]
        padding = Padding.of(vae, frames, height, width)
        filled = video.to(next(vae.parameters()))
        filled = F.pad(filled, (0, padding.right, 0, padding.below, 0, padding.frames), mode="replicate")
        recon = vae.decode(vae.encode(filled).mode())
        yield video, recon[:, :, :frames, :height, :width]


def _cut(pieces: Iterable[Tensor], window: int) -> Iterator[Tensor]:
    """The same frames in pieces of ``window``, the last one of what is left."""
    waiting: list[Tensor] = []
    count = 0
    for piece in pieces:
        waiting.append(piece)
        count += piece.shape[2]
        while count >= window:
            joined = torch.cat(waiting, 2)
            yield joined[:, :, :window]
            count -= window
            waiting = [joined[:, :, window:]] if count else []
    if waiting:
        yield torch.cat(waiting, 2)
