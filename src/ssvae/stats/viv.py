"""VIV, the velocity's irreducible variance: what no network can predict of a flow-matching target.

Source: "Diffusing in the Right Space" (arXiv 2606.03578), for pictures. On the path x_t = (1-t)·ε + t·x the velocity
v = x - ε is not determined by x_t. For Gaussian latents, whose covariance has the eigenvalues λ_i, what stays open is

    I(t) = tr Cov(v | x_t) = Σ_i λ_i / ((1-t)² + t²·λ_i),      I = ∫₀¹ I(t) dt = (π/2)·Σ_i √λ_i,

the integral exactly: with u = t/(1-t) each term is ∫₀^∞ λ/(1 + λ·u²) du = √λ·arctan(√λ·u)|₀^∞ = (π/2)·√λ. Reported
per dimension, I/d. Latents are normalised per channel, which fixes Σλ at about d: π/2 = 1.571 is the most, reached by
white latents, and whatever makes the λ unequal (few channel modes, smoothness over space and time) lowers it.

The covariance of all d = C·F·h·w values is too large to estimate, so it is taken to be separable, Σ_positions ⊗
Σ_channels, fitted by flip-flop (each factor by maximum likelihood given the others; Dutilleul 1999). Ours:

* positions factor further, Σ_time ⊗ Σ_space: the source treats pictures. Of more than 1024 latent pixels, space
  factors into Σ_height ⊗ Σ_width.
* one class: the mean is that of all clips, one for each position and channel (the source has one for each class).
* one round of flip-flop, because each step is a sweep over the clips: Σ_channels given white positions, then time and
  space given Σ_channels. Where the model holds that is consistent; where it does not (smoothness that differs between
  channels) it keeps the trace of the data, which further rounds leave, and with it the normalisation that VIV rests
  on. It inverts nothing but C x C, so two clips are enough for it to exist; a second round would invert Σ_space.

Few clips leave small eigenvalues too small and VIV too low: compare runs with equal numbers of clips.

Dimension legend
    N clips, B of a batch, C channels, F frames, h w latent pixels, P = h·w    latent (B,C,F,h,w)
    Z whitened over channels (B,C,...)                                          axes of positions: (F,P) or (F,h,w)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssvae.core.shapes import check_ndim

WHOLE_SPACE = 1024
"""Most latent pixels that make one factor: its eigenvalues cost the third power."""
RANK_TOLERANCE = 1e-10
"""Channel modes below this share of the largest are rounding (of constant or dependent channels): left out."""
LEAST_CLIPS = 2
CHUNK_ELEMENTS = 1 << 22


@dataclass(frozen=True, slots=True)
class VelocityVariance:
    """per_dimension: I/d in [0, π/2] (a little more where few clips give unequal traces). factors: eigenvalues of
    ``channel``, ``time`` and ``space`` (or ``height`` and ``width``), float64, descending, each of mean about 1.
    clips: how many it rests on."""

    per_dimension: float
    factors: dict[str, Tensor]
    clips: int


def velocity_variance(eigenvalues: Tensor) -> float:
    """(π/2)·Σ√λ of eigenvalues (d,) >= 0: the integral over time of :func:`velocity_variance_at`."""
    return math.pi / 2 * float(_checked(eigenvalues).sqrt().sum())


def velocity_variance_at(eigenvalues: Tensor, t: float) -> float:
    """Σ λ / ((1-t)² + t²·λ), the trace of Cov(v | x_t) at time t in [0, 1]: t = 0 noise, 1 data.

    Eigenvalues of 0 count nothing, at t = 1 too. Raises ValueError for another time or eigenvalues below 0.
    """
    if not 0 <= t <= 1:
        raise ValueError(f"the time of a path lies in [0, 1], got t = {t}")
    values = _checked(eigenvalues)
    values = values[values > 0]
    return float((values / ((1 - t) ** 2 + t**2 * values)).sum())


def position_factors(grid: tuple[int, int, int]) -> dict[str, int]:
    """Factors of the position covariance of a latent grid (F,h,w) and their sizes, in the order of the axes."""
    frames, height, width = grid
    if height * width > WHOLE_SPACE:
        return {"time": frames, "height": height, "width": width}
    return {"time": frames, "space": height * width}


class SeparableCovariance:
    """Separable covariance of latents (B,C,F,h,w) in two sweeps, merged over batches and ranks.

    First :meth:`update` every batch (mean and channel factor), then :meth:`refine` every batch again (position
    factors given the channel factor), then :meth:`compute`. State is float64 on the CPU: C·F·h·w numbers and the
    factors. Ranks merge the first sweep before they begin the second, and merge that too.
    """

    def __init__(self, channels: int, grid: tuple[int, int, int]) -> None:
        self.factors = position_factors(grid)
        self.clips = self.refined = 0
        self._latent = (channels, *grid)
        self._shape = (channels, *self.factors.values())
        self._mean = torch.zeros(self._shape, dtype=torch.float64)
        self._scatter = torch.zeros(channels, channels, dtype=torch.float64)
        self._positions = {name: torch.zeros(size, size, dtype=torch.float64) for name, size in self.factors.items()}
        self._whitening: Tensor | None = None

    @torch.no_grad()
    def update(self, latent: Tensor) -> None:
        """First sweep: add a batch (B,C,F,h,w). Raises ValueError for another grid or non-finite values."""
        for values in self._parts(latent):
            mean = values.mean(0)
            scatter = _gram(values - mean, 1)
            if not torch.isfinite(scatter).all():
                raise ValueError("latent contains NaN or infinite values: no covariance exists")
            self._combine(len(values), mean.cpu(), scatter.cpu())

    def merge(self, other: SeparableCovariance) -> None:
        """Add the first sweep of ``other``. Raises ValueError for another grid or channel count."""
        self._check_alike(other)
        self._combine(other.clips, other._mean, other._scatter)

    @torch.no_grad()
    def refine(self, latent: Tensor) -> None:
        """Second sweep: add a batch (B,C,F,h,w) to the position factors, whitened by the channel factor of all."""
        whitening, rank = self._whiten()
        for values in self._parts(latent):
            centred = values - self._mean.to(values.device)
            white = torch.einsum("dc,nc...->nd...", whitening.to(values.device), centred)
            for axis, (name, size) in enumerate(self.factors.items(), start=2):
                others = rank * math.prod(self._shape[1:]) / size
                self._positions[name] += _gram(white, axis).cpu() / others
            self.refined += len(values)

    def merge_refined(self, other: SeparableCovariance) -> None:
        """Add the second sweep of ``other``; both must have merged the same first sweep before."""
        self._check_alike(other)
        if other.clips != self.clips:
            raise ValueError("merge the first sweep over all ranks before the second: the channel factors differ")
        for name, scatter in other._positions.items():
            self._positions[name] += scatter
        self.refined += other.refined

    def compute(self, std: Tensor) -> VelocityVariance:
        """VIV of latents divided by ``std`` (C,), the standard deviation of each channel over clips and positions.

        Constant channels have no variance to predict and count as dimensions all the same. Raises ValueError for
        fewer than 2 clips, or before both sweeps have covered the same ones.
        """
        if self.clips < LEAST_CLIPS:
            raise ValueError(f"a covariance between clips needs at least {LEAST_CLIPS} of them, got {self.clips}")
        if self.refined != self.clips:
            raise ValueError(
                f"the first sweep (update) saw {self.clips} clips, the second (refine) {self.refined}: both need all"
            )
        inverse = _inverse(std.double().cpu())
        channel = self._channel_covariance() * inverse[:, None] * inverse[None, :]
        found = {"channel": _eigenvalues(channel)}
        for name, scatter in self._positions.items():
            found[name] = _eigenvalues(scatter / (self.clips - 1))
        # The eigenvalues of a Kronecker product are all products of one of each factor; so are their roots' means.
        per_dimension = math.pi / 2 * math.prod(float(values.sqrt().mean()) for values in found.values())
        return VelocityVariance(per_dimension, found, self.clips)

    def state_dict(self) -> dict[str, Any]:
        """Plain state of both sweeps, for another process to load: tensors, counts, and the position factors."""
        positions = {name: scatter.clone() for name, scatter in self._positions.items()}
        return {
            "clips": self.clips,
            "refined": self.refined,
            "mean": self._mean.clone(),
            "scatter": self._scatter.clone(),
            "positions": positions,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned. Raises ValueError for another grid or channel count."""
        if tuple(state["mean"].shape) != self._shape:
            raise ValueError(f"state holds latents {tuple(state['mean'].shape)}, this covariance {self._shape}")
        self.clips, self.refined = int(state["clips"]), int(state["refined"])
        self._mean, self._scatter = state["mean"].clone(), state["scatter"].clone()
        self._positions = {name: state["positions"][name].clone() for name in self.factors}
        self._whitening = None

    def _combine(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if count == 0:
            return
        total = self.clips + count
        difference = mean - self._mean
        self._mean = self._mean + difference * (count / total)
        self._scatter = self._scatter + scatter + _gram(difference[None], 1) * (self.clips * count / total)
        self.clips, self._whitening = total, None

    def _channel_covariance(self) -> Tensor:
        """Σ_channels (C,C) given white positions: unbiased over clips, averaged over positions."""
        return self._scatter / ((self.clips - 1) * math.prod(self._shape[1:]))

    def _whiten(self) -> tuple[Tensor, int]:
        """Inverse square root (C,C) of the channel factor on the modes that have variance, and their number."""
        if self.clips < LEAST_CLIPS:
            raise ValueError(f"the second sweep needs a first one of at least {LEAST_CLIPS} clips, got {self.clips}")
        if self._whitening is None:
            cov = self._channel_covariance()
            inverse = _inverse(cov.diagonal().clamp_min(0).sqrt())
            values, vectors = torch.linalg.eigh(cov * inverse[:, None] * inverse[None, :])
            kept = values > RANK_TOLERANCE * values[-1]
            self._whitening = (vectors[:, kept] / values[kept].sqrt()).T * inverse[None, :]
        return self._whitening, max(1, self._whitening.shape[0])

    def _parts(self, latent: Tensor) -> list[Tensor]:
        """A batch in float64 as (b,C,*positions), in pieces that bound the extra memory."""
        check_ndim("latent", latent.shape, 5, "(B,C,F,h,w)")
        if tuple(latent.shape[1:]) != self._latent:
            raise ValueError(
                f"latent (C,F,h,w) = {tuple(latent.shape[1:])} differs from {self._latent}: one grid a fit"
            )
        pieces = latent.split(max(1, CHUNK_ELEMENTS // math.prod(self._shape)))
        return [piece.double().reshape(len(piece), *self._shape) for piece in pieces if len(piece)]

    def _check_alike(self, other: SeparableCovariance) -> None:
        if other._latent != self._latent:
            raise ValueError(f"cannot merge a covariance of latents {other._latent} into one of {self._latent}")


def _gram(values: Tensor, axis: int) -> Tensor:
    """Products of all pairs of entries along ``axis``, summed over the other axes: (size,size)."""
    flat = values.movedim(axis, 0).flatten(1)
    return flat @ flat.T


def _inverse(std: Tensor) -> Tensor:
    return torch.where(std > 0, 1 / std, torch.zeros_like(std))


def _eigenvalues(matrix: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(matrix).flip(0).clamp_min(0)


def _checked(eigenvalues: Tensor) -> Tensor:
    check_ndim("eigenvalues", eigenvalues.shape, 1, "(d,)")
    values = eigenvalues.detach().double()
    if not torch.isfinite(values).all() or (values < 0).any():
        raise ValueError("eigenvalues must be finite and non-negative: those of a covariance are")
    return values
