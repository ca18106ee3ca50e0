"""High-frequency chopping: the last coefficients of every DCT block set to 0.

After Skorokhodov et al. (arXiv 2502.14831): drop the high frequencies of a clip or of its latent, decode, and see what
is left. Blocks and order are those of the spectrum (stats/spectrum.py), so "the last k" are the last k entries of its
curve. Frame 0, which a causal VAE compresses alone and which the spectrum leaves out, has to be decoded too: it is cut
into blocks of one frame (1,h,w) and loses the same share of *their* coefficients. An image (F = 1) is such a frame.

The constant coefficient always stays, so chopping a raw latent and a normalised one is the same thing.

Dimension legend
    N clips, C channels, F frames, H W pixels    x (N,C,F,H,W): latents, or clips (N,3,T,H,W)
    t h w block of the later frames, V = t·h·w its coefficients
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from ssvae.core.shapes import check_ndim
from ssvae.stats.dct import dct3, idct3
from ssvae.stats.spectrum import Block, check_block, frequency_order


def chop_count(block: Block, fraction: float) -> int:
    """How many of a block's V coefficients a fraction in [0, 1] removes: the nearest integer, at most V - 1.

    Half a coefficient counts as one. Fraction 1 leaves the constant coefficient alone: a mosaic of block means.
    Raises ValueError for a fraction outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"the fraction of coefficients to remove lies in [0, 1], got {fraction}")
    volume = math.prod(block)
    return min(math.floor(fraction * volume + 0.5), volume - 1)


def chop_high_frequencies(x: Tensor, block: Block, fraction: float) -> Tensor:
    """x (N,C,F,H,W) without the last ``fraction`` of every block's coefficients; same shape, dtype and device.

    block: (t,h,w) of the frames after frame 0; t = 1 for an image. Fraction 0 returns x itself, bit for bit.
    float32 and float64 are transformed in their own precision, anything else in float32. Raises ValueError when the
    block does not tile x or the fraction is outside [0, 1].
    """
    check_ndim("x", x.shape, 5, "(N,C,F,H,W)")
    check_block(x.shape[2:], block)
    first = (1, block[1], block[2])
    if chop_count(block, fraction) == 0 and chop_count(first, fraction) == 0:
        return x
    values = x if x.dtype in (torch.float32, torch.float64) else x.float()
    parts = [_chop(values[:, :, :1], first, chop_count(first, fraction))]
    if x.shape[2] > 1:
        parts.append(_chop(values[:, :, 1:], block, chop_count(block, fraction)))
    return torch.cat(parts, 2).to(x.dtype)


@lru_cache(maxsize=64)
def _kept(block: Block, count: int) -> Tensor:
    """(t,h,w), 1 where a coefficient stays and 0 where it is one of the last ``count`` of the order."""
    with torch.inference_mode(False):  # a cached tensor must stay usable with gradient
        keep = torch.ones(block, dtype=torch.float64)
        order = frequency_order(block)
        removed = order[len(order) - count :]
        keep[removed[:, 0], removed[:, 1], removed[:, 2]] = 0
        return keep


def _chop(frames: Tensor, block: Block, count: int) -> Tensor:
    if count == 0:
        return frames
    t, h, w = block
    n, c, f, height, width = frames.shape
    blocks = frames.reshape(n, c, f // t, t, height // h, h, width // w, w).permute(0, 1, 2, 4, 6, 3, 5, 7)
    kept = idct3(dct3(blocks) * _kept(block, count).to(frames))
    return kept.permute(0, 1, 2, 5, 3, 6, 4, 7).reshape(frames.shape)
