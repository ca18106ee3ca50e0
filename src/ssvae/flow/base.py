"""What a diffusion path is to the training loop, the validation loss and the sampler: they never ask which one it is.

Dimension legend
    B batch, ... any further axes of a sample (for latents C,F,h,w); t (B,) in [0, 1], 0 = data, 1 = noise
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class DiffusionPath(Protocol):
    """A path between data and noise, what the network predicts on it, and how a sampler goes along it."""

    @property
    def label(self) -> str:
        """Its name in protocol strings."""
        ...

    def sample_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Times of training, (count,) float32 in [0, 1]."""
        ...

    def interpolate(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_t of clean and noise, both (B,...), at times (B,)."""
        ...

    def target(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the network is to predict at x_t, (B,...)."""
        ...

    def sampling_times(self, steps: int) -> Tensor:
        """The steps+1 times 1 = t_0 > ... > t_steps = 0, float64. Raises ValueError for steps < 1."""
        ...

    def step(self, x: Tensor, prediction: Tensor, now: float, after: float) -> Tensor:
        """x (B,...) at time ``after``, from x and the network's prediction at time ``now``."""
        ...


def prediction_loss(
    path: DiffusionPath, predict: Callable[[Tensor, Tensor], Tensor], clean: Tensor, noise: Tensor, times: Tensor
) -> Tensor:
    """Squared error between predict(x_t, t) and the path's target, averaged over each sample's elements: (B,).

    clean and noise (B,...), times (B,). The error is accumulated in float32 at least. Raises ValueError for a
    prediction of another shape.
    """
    predicted = predict(path.interpolate(clean, noise, times), times.to(clean))
    if predicted.shape != clean.shape:
        raise ValueError(f"velocity has shape {tuple(predicted.shape)}, expected {tuple(clean.shape)}")
    target = path.target(clean, noise, times)
    if target.dtype in (torch.float16, torch.bfloat16):
        predicted, target = predicted.float(), target.float()
    return (predicted - target).square().flatten(1).mean(dim=1)


def drawn_loss(
    path: DiffusionPath,
    predict: Callable[[Tensor, Tensor], Tensor],
    clean: Tensor,
    generator: torch.Generator,
    times: Tensor | None = None,
) -> Tensor:
    """:func:`prediction_loss` with times (unless given, (B,)) and then noise from ``generator``, on its device, so
    that one seed gives one draw everywhere."""
    if times is None:
        times = path.sample_times(clean.shape[0], generator)
    noise = torch.randn(clean.shape, generator=generator, device=generator.device).to(clean)
    return prediction_loss(path, predict, clean, noise, times.to(clean.device))


def even_times(steps: int) -> Tensor:
    """The steps+1 evenly spaced times from 1 to 0, float64. Raises ValueError for steps < 1."""
    if steps < 1:
        raise ValueError(f"steps {steps} must be at least 1; 40 is usual")
    return torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
