"""Reconstruction as a likelihood: L1 and LPIPS under one learned scale.

Dimension legend
    B batch, 3 colours, T frames, H W pixels              video   (B,3,T,H,W), float, [-1, 1]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

VERSION = 1
Perceptual = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class NllValue:
    """nll: scalar with gradient. l1, lpips: unweighted means of the parts (lpips None when the term is left out)."""

    nll: Tensor
    l1: Tensor
    lpips: Tensor | None


class NegativeLogLikelihood(nn.Module):
    """nll = sum over dimensions of (rec / exp(s) + s), mean over the batch; rec = |x - y| + weight·LPIPS(x, y).

    s is one learned scalar (``logscale``); LPIPS is one number a frame, broadcast over its values, so its part of the
    sum counts once a value (official SSVAE code, loss_factory.py). perceptual: (video, video) -> distances that
    broadcast over (B,3,T,H,W), or None to leave the term out; at weight 0 it
    is measured and pulls at nothing.
    """

    def __init__(self, *, initial_logscale: float, perceptual: Perceptual | None, perceptual_weight: float) -> None:
        super().__init__()
        self.logscale = nn.Parameter(torch.tensor(float(initial_logscale)))
        # Held in a tuple: frozen weights belong neither to the optimiser nor to a checkpoint.
        self._perceptual = (perceptual,)
        self.perceptual_weight = perceptual_weight

    @property
    def perceptual(self) -> Perceptual | None:
        """The frozen perceptual distance, if there is one."""
        return self._perceptual[0]

    def forward(self, reconstruction: Tensor, target: Tensor) -> NllValue:
        """reconstruction, target (B,3,T,H,W), the same shape; raises ValueError otherwise."""
        if reconstruction.shape != target.shape:
            raise ValueError(f"reconstruction {tuple(reconstruction.shape)} and target {tuple(target.shape)} differ")
        absolute = (reconstruction.float() - target.float()).abs()
        distance = absolute
        lpips = None
        if self.perceptual is not None:
            if isinstance(self.perceptual, nn.Module):
                self.perceptual.to(reconstruction.device)
            with torch.set_grad_enabled(self.perceptual_weight > 0 and torch.is_grad_enabled()):
                per_frame = self.perceptual(reconstruction, target)
            if self.perceptual_weight > 0:
                distance = absolute + self.perceptual_weight * per_frame
            lpips = per_frame.mean()
        count = target[0].numel()
        nll = distance.sum() / (target.shape[0] * torch.exp(self.logscale)) + count * self.logscale
        return NllValue(nll, absolute.mean(), lpips)

    def distance(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Mean of rec a value, scalar with gradient, for pairs of any one shape: what extra terms compare by."""
        absolute = (reconstruction.float() - target.float()).abs().mean()
        if self.perceptual is None or self.perceptual_weight == 0:
            return absolute
        return absolute + self.perceptual_weight * self.perceptual(reconstruction, target).mean()

    @torch.no_grad()
    def unit(self, target: Tensor) -> Tensor:
        """Values of one target over exp(s): a :meth:`distance` times this weighs as much as inside the likelihood."""
        return target[0].numel() / torch.exp(self.logscale)
