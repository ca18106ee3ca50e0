"""Rectified flow: the straight path between data and noise, its velocity, its loss.

x_t = (1 - t)·x0 + t·noise and v = dx_t/dt = noise - x0, so t = 0 is data and t = 1 is noise
(Liu et al. 2209.03003; Lipman et al. 2210.02747 with time reversed, the convention of Stable Diffusion 3, 2403.03206).

Dimension legend
    B batch, ... any further axes of a sample (for latents C,F,h,w); t (B,) in [0, 1]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssvae.flow.base import drawn_loss, even_times
from ssvae.flow.times import TimeDraws, check_shift, expand_times


def shift_times(times: Tensor, shift: float) -> Tensor:
    """Map t -> s·t / (1 + (s-1)·t): s > 1 moves time towards noise, 1 leaves it (2403.03206, eq. 23).

    The noise-to-signal ratio t/(1-t) is multiplied by s.
    """
    check_shift(shift)
    return shift * times / (1 + (shift - 1) * times)


@dataclass(frozen=True, slots=True)
class RectifiedFlow(TimeDraws):
    """The path, how training draws its times, and the loss.

    distribution: "uniform" on [0,1] or "logit_normal" (sigmoid of N(logit_mean, logit_std²)). shift: see
    :func:`shift_times`. Raises ValueError for an unknown distribution or a non-positive shift or deviation.
    """

    @property
    def label(self) -> str:
        return "rectified flow"

    def sample_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` times in [0, 1], (count,) float32 on the generator's device."""
        return shift_times(self.unshifted_times(count, generator), self.shift)

    def sampling_times(self, steps: int) -> Tensor:
        """The steps+1 times from 1 to 0, float64; shift > 1 spends more steps near the noise. ValueError: steps < 1."""
        return shift_times(even_times(steps), self.shift)

    @staticmethod
    def step(x: Tensor, prediction: Tensor, now: float, after: float) -> Tensor:
        """An Euler step of dx/dt = v from time ``now`` to ``after``; exact where the velocity is constant."""
        return x + (after - now) * prediction

    @staticmethod
    def target(clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the network predicts: the velocity, at whatever time."""
        return RectifiedFlow.velocity(clean, noise)

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
        return drawn_loss(self, velocity_fn, clean, generator, times)
