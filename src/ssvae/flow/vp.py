"""v-prediction on the variance-preserving cosine path: x is turned from the data into the noise.

x_t = cos φ·x0 + sin φ·noise with φ = t·π/2, and v = dx/dφ = cos φ·noise - sin φ·x0 (Salimans & Ho 2202.00512, section
4 and appendix D, without their clipping). At t = 1 nothing of the data is left, so the terminal signal-to-noise ratio
is zero by construction, which v-prediction allows (Lin et al. 2305.08891). The network gets t.

Dimension legend
    B batch, ... any further axes of a sample; t (B,) in [0, 1], 0 = data, 1 = noise; φ in [0, π/2]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssvae.flow.base import drawn_loss, even_times
from ssvae.flow.times import TimeDraws, check_shift, expand_times

QUARTER = math.pi / 2


def shift_angles(times: Tensor, shift: float) -> Tensor:
    """Map t to the time whose noise-to-signal ratio tan φ is ``shift`` times as large; 1 leaves it.

    That is what :func:`ssvae.flow.path.shift_times` does to t/(1-t), so one shift means the same on both paths.
    """
    check_shift(shift)
    if shift == 1.0:
        return times
    angles = times * QUARTER
    # Rounding of cos near its zero could carry the last time past 1.
    return (torch.atan2(shift * angles.sin(), angles.cos()) / QUARTER).clamp(0.0, 1.0)


@dataclass(frozen=True, slots=True)
class VPrediction(TimeDraws):
    """The path, how training draws its times, and the rotation that samples along it.

    distribution of t: "uniform" on [0,1] or "logit_normal" (sigmoid of N(logit_mean, logit_std²)), then ``shift``: see
    :func:`shift_angles`. Raises ValueError for an unknown distribution or a non-positive shift or deviation.
    """

    @property
    def label(self) -> str:
        return "v-prediction on the cosine path"

    def sample_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` times in [0, 1], (count,) float32 on the generator's device."""
        return shift_angles(self.unshifted_times(count, generator), self.shift)

    def sampling_times(self, steps: int) -> Tensor:
        """The steps+1 times from 1 to 0, float64: angles at equal distances, then shifted. ValueError: steps < 1."""
        return shift_angles(even_times(steps), self.shift)

    @staticmethod
    def interpolate(clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_t of clean and noise, both (B,...), at times (B,)."""
        angle = expand_times(times, clean) * QUARTER
        return angle.cos() * clean + angle.sin() * noise

    @staticmethod
    def target(clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """v = cos φ·noise - sin φ·clean, (B,...)."""
        angle = expand_times(times, clean) * QUARTER
        return angle.cos() * noise - angle.sin() * clean

    @staticmethod
    def step(x: Tensor, prediction: Tensor, now: float, after: float) -> Tensor:
        """The deterministic DDIM step, which in v is a rotation: exact wherever x0 and noise are the true ones."""
        angle = (after - now) * QUARTER
        return math.cos(angle) * x + math.sin(angle) * prediction

    @staticmethod
    def clean_from_v(noisy: Tensor, v: Tensor, times: Tensor) -> Tensor:
        """x0 = cos φ·x_t - sin φ·v."""
        angle = expand_times(times, noisy) * QUARTER
        return angle.cos() * noisy - angle.sin() * v

    @staticmethod
    def noise_from_v(noisy: Tensor, v: Tensor, times: Tensor) -> Tensor:
        """noise = sin φ·x_t + cos φ·v."""
        angle = expand_times(times, noisy) * QUARTER
        return angle.sin() * noisy + angle.cos() * v

    def loss(
        self,
        velocity_fn: Callable[[Tensor, Tensor], Tensor],
        clean: Tensor,
        generator: torch.Generator,
        times: Tensor | None = None,
    ) -> Tensor:
        """As :meth:`ssvae.flow.path.RectifiedFlow.loss`, of v: (B,)."""
        return drawn_loss(self, velocity_fn, clean, generator, times)
