"""Local correlation of latents: how alike neighbouring latent positions are, across channels.

Source: the statistic behind Local Correlation Regularisation (LCR) of SSVAE (arXiv 2512.05394), exactly as the
official code computes it. Short-lag correlation and low-frequency power are two views of one thing
(Wiener-Khinchin), so this number goes up as the latent spectrum moves to low frequencies.

Dimension legend
    B batch, C channels, F latent frames, H W latent pixels     latent (B,C,F,H,W)
    t h w window, N = t·h·w positions of a window               windows (M,N,C): M windows over batch and grid
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssvae.core.shapes import check_ndim

AllSum = Callable[[Tensor], Tensor]
"""Sums a tensor over all ranks of a job and returns the sum on every one of them."""

Window = tuple[int, int, int]

STD_EPS = 1e-6
"""Added to the channel standard deviation (official SSVAE code)."""
NORM_EPS = 1e-8
"""Added to the norm of each position's vector (official SSVAE code); keeps constant vectors at zero."""


@dataclass(frozen=True, slots=True)
class LocalCorrelation:
    """Mean pairwise correlation within windows, in [-1, 1]; scalars that carry gradient.

    first: frame 0 (or the image), spatial windows. video: frames 1.., space-time windows; None for an image.
    mean: (first + video) / 2, or first for an image.
    """

    first: Tensor
    video: Tensor | None
    mean: Tensor


def check_window_sides(window: Window) -> None:
    """Raise ValueError unless ``window`` is three positive integers (t,h,w) with at least two spatial positions."""
    if len(window) != 3 or any(int(size) != size or size < 1 for size in window):
        raise ValueError(f"window must be three positive integers (t,h,w), got {tuple(window)}")
    if window[1] * window[2] < 2:
        raise ValueError(
            f"window {tuple(window)} has one spatial position, and frame 0 has no pairs in it: make h or w at least 2"
        )


def check_window(grid: tuple[int, int, int], window: Window) -> None:
    """Raise ValueError unless ``window`` (t,h,w) tiles the latent grid (F,H,W).

    Frame 0 stands alone, so t has to divide F - 1; an image (F = 1) ignores t. A window needs at least two
    spatial positions, because frame 0 is cut into h x w windows.
    """
    check_window_sides(window)
    axes = (
        ("later frames (F - 1)", grid[0] - 1, window[0], "t"),
        ("height", grid[1], window[1], "h"),
        ("width", grid[2], window[2], "w"),
    )
    for axis, size, step, letter in axes:
        if size % step or (size == 0 and letter != "t"):
            raise ValueError(
                f"the latent grid {tuple(grid)} has {size} {axis}, which window {letter}={step} does not divide: "
                f"choose {letter} from the divisors of {size}, or a clip whose latent {axis} is a multiple of {step}"
            )


def default_window(grid: tuple[int, int, int]) -> Window:
    """The published (2,2,2) where it tiles the grid (F,H,W), with 1 along an axis that 2 does not divide.

    Where height and width are both odd (45 x 79, say) the smallest odd side up to 7 that divides one of them. Raises
    ValueError when there is none: no small window then has spatial pairs.
    """
    t, h, w = (2 if size % 2 == 0 else 1 for size in (grid[0] - 1, grid[1], grid[2]))
    if h * w > 1:
        return t, h, w
    for side in (3, 5, 7):
        h, w = (side if size % side == 0 else 1 for size in (grid[1], grid[2]))
        if h * w > 1:
            return t, h, w
    raise ValueError(
        f"the latent grid {tuple(grid)} has a height and width that no side from 2 to 7 divides: no window of a few "
        "latent pixels tiles it; take clips of another size"
    )


def channel_statistics(latent: Tensor, all_sum: AllSum | None = None) -> tuple[Tensor, Tensor]:
    """Detached per-channel mean and unbiased standard deviation over (B,F,H,W); two tensors (C,).

    With ``all_sum`` the statistics are those of the batches of all ranks together.
    """
    # Reductions over a contiguous (positions, C) view are several times faster than over a strided one.
    values = latent.detach()
    if values.is_contiguous(memory_format=torch.channels_last_3d) and not values.is_contiguous():
        flat = values.permute(0, 2, 3, 4, 1).reshape(-1, values.shape[1])
        axes: tuple[int, ...] = (0,)
    else:
        flat, axes = values.flatten(2), (0, 2)
    shape = [1] * flat.ndim
    shape[1] = -1
    count = flat.new_tensor(float(values.numel() // values.shape[1]))
    total = flat.sum(axes)
    if all_sum is not None:
        packed = all_sum(torch.cat([total, count[None]]))
        total, count = packed[:-1], packed[-1]
    mean = total / count
    # Two passes (mean, then centred squares): as exact as Welford's rule, and much faster than torch.var_mean.
    squares = torch.linalg.vector_norm(flat - mean.view(shape), dim=axes).square()
    if all_sum is not None:
        squares = all_sum(squares)
    return mean, (squares / (count - 1)).sqrt()


def local_correlation(
    mean: Tensor, window: Window = (2, 2, 2), statistics: tuple[Tensor, Tensor] | None = None
) -> LocalCorrelation:
    """Local correlation of a posterior mean (B,C,F,H,W), with gradient to ``mean``.

    Every channel is standardised by its own mean and unbiased standard deviation over (B,F,H,W), both held
    constant in the gradient; every position's C-vector is centred and divided by its norm; the products of
    all pairs of one window are averaged, then all windows. So the similarity of two positions is the Pearson
    correlation across channels. Frame 0 is cut into h x w windows, later frames into t x h x w windows.

    statistics: (mean, std), each (C,), to standardise with instead of the batch's own.
    Half-precision input is computed in float32, also under autocast. Raises ValueError when the windows do
    not tile the grid (see :func:`check_window`) or the axes are wrong.
    """
    check_ndim("mean", mean.shape, 5, "(B,C,F,H,W)")
    check_window((mean.shape[2], mean.shape[3], mean.shape[4]), window)
    latent = mean if mean.dtype in (torch.float32, torch.float64) else mean.float()
    centre, std = statistics if statistics is not None else channel_statistics(latent)
    first, video = _LocalCorrelationFunction.apply(latent, centre.to(latent), std.to(latent), tuple(window))
    if mean.shape[2] == 1:
        return LocalCorrelation(first, None, first)
    return LocalCorrelation(first, video, (first + video) / 2)


@dataclass(frozen=True, slots=True)
class _Region:
    """What the gradient needs of one region (frame 0 or the later frames).

    centred (M,N,C): standardised vectors less their channel mean. norm, scale (M,N): their norm and
    1 / (norm + eps). total (M,1,C): sum of a window's unit vectors. squared (M,N): squared length of each
    unit vector (1, or 0 for a constant vector). factor: 1 / number of ordered pairs.
    """

    centred: Tensor
    norm: Tensor
    scale: Tensor
    total: Tensor
    squared: Tensor
    factor: float


def _windows(latent: Tensor, window: Window) -> Tensor:
    """View of (B,C,F,H,W) as (B, F/t, H/h, W/w, t, h, w, C); writing to it writes to ``latent``."""
    batch, channels, frames, height, width = latent.shape
    t, h, w = window
    split = latent.unflatten(4, (width // w, w)).unflatten(3, (height // h, h)).unflatten(2, (frames // t, t))
    assert split.shape[:2] == (batch, channels)
    return split.permute(0, 2, 4, 6, 3, 5, 7, 1)


def _region_forward(centred: Tensor, inverse_std: Tensor, window: Window) -> tuple[Tensor, _Region]:
    """Mean pair product of one region: (|sum u|² - sum |u|²) / (N(N-1)) needs no N x N matrix."""
    windows = _windows(centred, window)
    positions = math.prod(window)
    vectors = torch.empty(windows.shape, dtype=centred.dtype, device=centred.device)
    torch.mul(windows, inverse_std, out=vectors)  # standardise and move channels last in one pass
    vectors = vectors.view(-1, positions, centred.shape[1])
    vectors.sub_(vectors.mean(-1, keepdim=True))
    norm = torch.linalg.vector_norm(vectors, dim=-1)
    scale = 1 / (norm + NORM_EPS)
    total = (vectors * scale.unsqueeze(-1)).sum(1, keepdim=True)
    squared = (norm * scale).square()
    factor = 1.0 / (positions * (positions - 1) * vectors.shape[0])
    value = (total.square().sum() - squared.sum()) * factor
    return value, _Region(vectors, norm, scale, total, squared, factor)


def _region_backward(grad: Tensor, region: _Region, inverse_std: Tensor, window: Window, out: Tensor) -> None:
    """Write d value / d latent of one region, times ``grad``, into ``out`` (B,C,F,H,W).

    With u = c·scale, d value/du_i = 2·factor·(S - u_i); the projection of the norm's derivative and the
    centring of c follow. S and u sum to zero over channels, so centring the gradient costs nothing.
    """
    along = (region.centred * region.total).sum(-1) * region.scale  # <u_i, S>
    # (norm + eps) / norm, and 0 where the vector is constant: there the norm has subgradient 0.
    ratio = torch.where(region.norm > 0, 1 + NORM_EPS / region.norm, torch.zeros_like(region.norm))
    on_total = (2 * region.factor * grad) * region.scale
    on_vector = -on_total * region.scale * (1 + ratio * (along - region.squared))
    gradient = torch.addcmul(on_total.unsqueeze(-1) * region.total, on_vector.unsqueeze(-1), region.centred)
    target = _windows(out, window)
    torch.mul(gradient.view(target.shape), inverse_std, out=target)


class _LocalCorrelationFunction(torch.autograd.Function):
    """(latent, channel mean, channel std, window) -> (first, video); gradient to the latent only."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, mean: Tensor, std: Tensor, window: Window) -> tuple[Tensor, Tensor | None]:
        inverse_std = 1 / (std + STD_EPS)
        centred = latent - mean.view(1, -1, 1, 1, 1)
        first, first_region = _region_forward(centred[:, :, :1], inverse_std, (1, window[1], window[2]))
        ctx.regions = [(first_region, (1, window[1], window[2]), slice(0, 1))]
        video = None
        if latent.shape[2] > 1:
            video, video_region = _region_forward(centred[:, :, 1:], inverse_std, window)
            ctx.regions.append((video_region, window, slice(1, None)))
        ctx.inverse_std = inverse_std
        ctx.shape = latent.shape
        return first, video

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        batch, channels, *grid = ctx.shape
        # Channels last in memory whatever the latent's layout: windows are written in whole vectors, several times
        # faster than one channel at a time.
        out = ctx.inverse_std.new_empty(batch, *grid, channels).permute(0, 4, 1, 2, 3)
        for grad, (region, window, frames) in zip(grads, ctx.regions, strict=False):
            _region_backward(grad, region, ctx.inverse_std, window, out[:, :, frames])
        return out, None, None, None
