"""Rectified flow: the straight path between data and noise, its velocity, its loss.

x_t = (1 - t)·x0 + t·noise and v = dx_t/dt = noise - x0, so t = 0 is data and t = 1 is noise
(Liu et al. 2209.03003; Lipman et al. 2210.02747 with time reversed, the convention of Stable Diffusion 3, 2403.03206).

Dimension legend
    B batch, ... any further axes of a sample (for latents C,F,h,w); t (B,) in [0, 1]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

TimeDistribution = Literal["uniform", "logit_normal"]
TIME_DISTRIBUTIONS: tuple[TimeDistribution, ...] = ("uniform", "logit_normal")


def expand_times(times: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B,1,...,1) with as many axes as ``like`` and its dtype, ready to broadcast."""
    if times.ndim != 1 or times.shape[0] != like.shape[0]:
        raise ValueError(f"times must be ({like.shape[0]},), one per sample, got {tuple(times.shape)}")
    return times.to(like).reshape(-1, *([1] * (like.ndim - 1)))


def shift_times(times: Tensor, shift: float) -> Tensor:
    """Map t -> s·t / (1 + (s-1)·t): s > 1 moves time towards noise, 1 leaves it (2403.03206, eq. 23)."""
    if not shift > 0:
        raise ValueError(f"shift {shift} must be positive; 1 leaves the times as they are")
    return shift * times / (1 + (shift - 1) * times)


@dataclass(frozen=True, slots=True)
class RectifiedFlow:
    """The path, how training draws its times, and the loss.

    distribution: "uniform" on [0,1] or "logit_normal" (sigmoid of N(logit_mean, logit_std²)). shift: see
    :func:`shift_times`. Raises ValueError for an unknown distribution or a non-positive shift or deviation.
    """

    distribution: TimeDistribution = "uniform"
    shift: float = 1.0
    logit_mean: float = 0.0
    logit_std: float = 1.0

    def __post_init__(self) -> None:
        if self.distribution not in TIME_DISTRIBUTIONS:
            raise ValueError(f"distribution {self.distribution!r} is not one of {', '.join(TIME_DISTRIBUTIONS)}")
        if not self.shift > 0:
            raise ValueError(f"shift {self.shift} must be positive; 1 leaves the times as they are")
        if not self.logit_std > 0:
            raise ValueError(f"logit_std {self.logit_std} must be positive; 1 is usual")

    def sample_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` times in [0, 1], (count,) float32 on the generator's device."""
        if self.distribution == "uniform":
            times = torch.rand(count, generator=generator, device=generator.device)
        else:
            normal = torch.randn(count, generator=generator, device=generator.device)
            times = torch.sigmoid(self.logit_mean + self.logit_std * normal)
        return shift_times(times, self.shift)

    @staticmethod
    def interpolate(clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_t of clean and noise, both (B,...), at times (B,)."""
        t = expand_times(times, clean)
        return (1 - t) * clean + t * noise

    @staticmethod
    def velocity(clean: Tensor, noise: Tensor) -> Tensor:
        """v = noise - clean, the same at every time: the path is straight."""
        return noise - clean

    @staticmethod
    def clean_from_velocity(noisy: Tensor, velocity: Tensor, times: Tensor) -> Tensor:
        """x0 = x_t - t·v."""
        return noisy - expand_times(times, noisy) * velocity

    @staticmethod
    def noise_from_velocity(noisy: Tensor, velocity: Tensor, times: Tensor) -> Tensor:
        """noise = x_t + (1-t)·v."""
        return noisy + (1 - expand_times(times, noisy)) * velocity

    @staticmethod
    def velocity_from_clean(noisy: Tensor, clean: Tensor, times: Tensor) -> Tensor:
        """v = (x_t - x0)/t; raises ValueError at t = 0, where x_t says nothing about the noise."""
        if bool((times <= 0).any()):
            raise ValueError("velocity_from_clean needs every time above 0: at t = 0 the noise cannot be recovered")
        return (noisy - clean) / expand_times(times, noisy)

    @staticmethod
    def velocity_from_noise(noisy: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """v = (noise - x_t)/(1-t); raises ValueError at t = 1, where x_t says nothing about the data."""
        if bool((times >= 1).any()):
            raise ValueError("velocity_from_noise needs every time below 1: at t = 1 the data cannot be recovered")
        return (noise - noisy) / (1 - expand_times(times, noisy))

    def loss(
        self,
        velocity_fn: Callable[[Tensor, Tensor], Tensor],
        clean: Tensor,
        generator: torch.Generator,
        times: Tensor | None = None,
    ) -> Tensor:
        """Squared error between velocity_fn(x_t, t) and noise - clean, averaged over each sample's elements: (B,).

        clean (B,...). Times (unless given, (B,)) and then noise come from ``generator``, on its device, so one
        seed gives one draw everywhere. The error is accumulated in float32 at least.
        """
        if times is None:
            times = self.sample_times(clean.shape[0], generator)
        noise = torch.randn(clean.shape, generator=generator, device=generator.device).to(clean)
        times = times.to(clean.device)
        predicted = velocity_fn(self.interpolate(clean, noise, times), times.to(clean))
        if predicted.shape != clean.shape:
            raise ValueError(f"velocity has shape {tuple(predicted.shape)}, expected {tuple(clean.shape)}")
        target = self.velocity(clean, noise)
        if target.dtype in (torch.float16, torch.bfloat16):
            predicted, target = predicted.float(), target.float()
        return (predicted - target).square().flatten(1).mean(dim=1)
