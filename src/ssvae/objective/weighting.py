"""How strongly a named term pulls: a policy of its own, apart from what the term is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

VERSION = 1
EPSILON = 1e-4
LARGEST = 1e8


@dataclass(frozen=True, slots=True)
class Weight:
    """``fixed``: the term is multiplied by ``value``.

    ``grad_ratio``: it is multiplied by value·λ with λ = ‖∇θ nll‖ / (‖∇θ term‖ + 1e-4), clamped to [0, 1e8], θ the
    weight of the encoder's last convolution (official SSVAE code, loss_factory.py; the rule is VA-VAE's). The
    gradient at θ then has ``value`` times the norm of the reconstruction's, whatever the size of the term: a hinge
    becomes an on/off switch. SSVAE's published LCR has value 0.002: its weight 0.02 times a 0.1 that only the
    code knows.
    """

    policy: Literal["fixed", "grad_ratio"]
    value: float


def gradient_ratio(reference: Tensor, term: Tensor) -> Tensor:
    """λ of :class:`Weight` from two gradients at θ, as a detached float32 scalar."""
    ratio = torch.linalg.vector_norm(reference.float()) / (torch.linalg.vector_norm(term.float()) + EPSILON)
    return ratio.clamp(0.0, LARGEST).detach()
