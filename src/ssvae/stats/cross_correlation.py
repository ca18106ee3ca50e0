"""Mode strengths: how strongly each channel mode of a latent pulls on the first, linear steps of diffusion training.

**A derivation of this project, no published formula.** SSVAE (arXiv 2512.05394) says that few dominant modes speed up
training "by amplifying the absolute mode strengths in the output-input cross-correlation matrix" and leaves the matrix
open in what could be read of it. Ours: a linear network learns mode i of E[output · inputᵀ] in a time that goes as one
over its singular value (Saxe et al., arXiv 1312.6120), and for data x with covariance Σ = U Λ Uᵀ, noise ε of unit
covariance, that matrix has the eigenvectors of Σ:

    flow matching    x_t = (1-t)·x + t·ε,  v = ε - x       E[v x_tᵀ] = t·I - (1-t)·Σ     s_i = |t - (1-t)·λ_i|
    VP, v-prediction x_t = α·x + σ·ε,      v = α·ε - σ·x   E[v x_tᵀ] = α·σ·(I - Σ)       s_i = α·σ·|1 - λ_i|

Of per-channel-normalised latents Σ is the channel correlation: its trace is C, so equal eigenvalues (all 1) give a
strength of 0 at t = 1/2, and few dominant modes give one large strength and others near their ceiling. At t = 1/2 and
at α = σ = √½ the two paths agree.

Dimension legend: C channels; eigenvalues (C,).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssvae.core.shapes import check_ndim

EQUAL_TIME = 0.5
"""Flow-matching time at which data and noise weigh alike."""
EQUAL_ALPHA = math.sqrt(0.5)
"""Signal factor of a VP path at which data and noise weigh alike (σ is the same)."""


def flow_mode_strengths(eigenvalues: Tensor, t: float = EQUAL_TIME) -> Tensor:
    """|t - (1-t)·λ_i| (C,), float64, of eigenvalues (C,) in any order; t in [0, 1], 0 = data, 1 = noise.

    Raises ValueError for a time outside [0, 1] or eigenvalues that no covariance has.
    """
    values = _checked(eigenvalues)
    if not 0 <= t <= 1:
        raise ValueError(f"the time of a flow-matching path lies in [0, 1], got t = {t}")
    return (t - (1 - t) * values).abs()


def vp_mode_strengths(eigenvalues: Tensor, alpha: float = EQUAL_ALPHA) -> Tensor:
    """α·σ·|1 - λ_i| (C,), float64, of eigenvalues (C,) in any order, with σ = √(1 - α²); α in [0, 1].

    Raises ValueError as :func:`flow_mode_strengths`.
    """
    values = _checked(eigenvalues)
    if not 0 <= alpha <= 1:
        raise ValueError(f"the signal factor of a VP path lies in [0, 1], got alpha = {alpha}")
    return alpha * math.sqrt(1 - alpha**2) * (1 - values).abs()


def flow_mode_strengths_over_time(eigenvalues: Tensor) -> Tensor:
    """Mean over t uniform on [0, 1] of :func:`flow_mode_strengths`, (C,): (1 + λ²) / (2·(1 + λ)) in closed form.

    Least, √2 - 1, at λ = √2 - 1; grows as λ/2 for a dominant mode.
    """
    values = _checked(eigenvalues)
    return (1 + values.square()) / (2 * (1 + values))


def _checked(eigenvalues: Tensor) -> Tensor:
    check_ndim("eigenvalues", eigenvalues.shape, 1, "(C,)")
    values = eigenvalues.detach().double()
    if not torch.isfinite(values).all() or (values < 0).any():
        raise ValueError("eigenvalues must be finite and non-negative: those of a covariance are")
    return values
