"""Sampling from noise (t = 1) to data (t = 0) along a path, with classifier-free guidance.

Dimension legend
    B batch, ... any further axes of a sample; times (steps+1,), descending from 1 to 0
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ssvae.flow.base import DiffusionPath

VelocityFn = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x (B,...), t (B,), condition (B,...) | None) -> what the path's network predicts, (B,...)."""


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """v_null + g·(v_cond - v_null): 0 = unconditional, 1 = conditional (Ho & Salimans 2207.12598)."""
    return unconditional + guidance * (conditional - unconditional)


def guided_velocity(
    velocity_fn: VelocityFn, x: Tensor, times: Tensor, guidance: float, condition: Tensor | None, null: Tensor | None
) -> Tensor:
    """Prediction at x (B,...) and times (B,). At guidance 1 one call of B, otherwise one call of 2B."""
    if guidance == 1.0:
        return velocity_fn(x, times, condition)
    if condition is None or null is None:
        raise ValueError(f"guidance {guidance} needs a condition and a null condition; use guidance=1 without them")
    if null.shape[1:] != condition.shape[1:] or null.shape[0] not in (1, condition.shape[0]):
        raise ValueError(
            f"null condition {tuple(null.shape)} must be one row of the condition {tuple(condition.shape)}"
        )
    rows = torch.cat([condition, null.expand_as(condition)])
    both = velocity_fn(torch.cat([x, x]), torch.cat([times, times]), rows)
    conditional, unconditional = both.chunk(2)
    return guide(conditional, unconditional, guidance)


@torch.no_grad()
def sample(
    path: DiffusionPath,
    velocity_fn: VelocityFn,
    noise: Tensor,
    steps: int,
    *,
    guidance: float = 1.0,
    condition: Tensor | None = None,
    null_condition: Tensor | None = None,
) -> Tensor:
    """Follow ``path`` from t = 1 to 0 in ``steps`` deterministic steps: Euler's for a rectified flow, rotations for v.

    noise (B,...): x at t = 1. condition (B,...) and null_condition, (B,...) or (1,...), go to ``velocity_fn``.
    Returns x at t = 0, shape, device and dtype of ``noise``. Raises ValueError for steps < 1, or a guidance other than
    1 without both conditions. Makes no random draws: the same noise gives the same sample.
    """
    x = noise
    for now, after in pairwise(path.sampling_times(steps).tolist()):
        times = torch.full((x.shape[0],), now, dtype=x.dtype, device=x.device)
        x = path.step(x, guided_velocity(velocity_fn, x, times, guidance, condition, null_condition), now, after)
    return x
