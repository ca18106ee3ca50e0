"""Orthonormal three-dimensional DCT-II and its inverse, as matrix products with cached cosine matrices.

For the short axes of latents and blocks three small matrix products are several times faster than an FFT.
Orthonormal means Parseval holds: the squared coefficients of a block sum to its squared values.

Dimension legend: t h w = the last three axes of x (...,t,h,w); frequencies i j k in their place.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

KRONECKER_VOLUME = 128
"""Blocks of up to this many values take one matrix for all three axes: many tiny products cost ten times more."""


@lru_cache(maxsize=64)
def dct_matrix(size: int, dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> Tensor:
    """Orthonormal DCT-II matrix (size,size), rows = frequencies; computed in float64, then rounded to ``dtype``.

    Shared between callers: do not write to it.
    """
    with torch.inference_mode(False):  # a cached tensor must stay usable with gradient
        positions = torch.arange(size, dtype=torch.float64)
        matrix = torch.cos(torch.pi / size * (positions + 0.5) * positions[:, None]) * (2 / size) ** 0.5
        matrix[0] = (1 / size) ** 0.5
        return matrix.to(dtype=dtype, device=device)


@lru_cache(maxsize=16)
def _block_matrix(sides: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The 3-D transform of a flattened block (t·h·w,) as one orthonormal matrix."""
    with torch.inference_mode(False):
        t, h, w = (dct_matrix(size) for size in sides)
        return torch.kron(torch.kron(t, h), w).to(dtype=dtype, device=device)


def dct3(x: Tensor) -> Tensor:
    """Orthonormal DCT-II over the last three axes of x (...,t,h,w); same shape, dtype and device, differentiable.

    Raises ValueError for fewer than three axes or a dtype that is not float32 or float64.
    """
    return _transform(x, inverse=False)


def idct3(x: Tensor) -> Tensor:
    """Inverse of :func:`dct3` (orthonormal DCT-III over the last three axes)."""
    return _transform(x, inverse=True)


def _transform(x: Tensor, inverse: bool) -> Tensor:
    if x.ndim < 3:
        raise ValueError(f"a 3-D DCT needs at least three axes (...,t,h,w), got shape {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"a DCT is computed in float32 or float64, got {x.dtype}: convert with .float()")
    sides = (x.shape[-3], x.shape[-2], x.shape[-1])
    with torch.autocast(x.device.type, enabled=False):  # the result keeps the precision of its input
        if math.prod(sides) <= KRONECKER_VOLUME:
            whole = _block_matrix(sides, x.dtype, x.device)
            return (x.flatten(-3) @ (whole if inverse else whole.T)).view(x.shape)
        t, h, w = (dct_matrix(size, x.dtype, x.device) for size in sides)
        if inverse:
            t, h, w = t.T, h.T, w.T
        x = h @ (x @ w.T)
        return (t @ x.flatten(-2)).view(x.shape)
