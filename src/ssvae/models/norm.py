"""Channel RMS normalisation, alone and fused with SiLU and the temporal padding of the next convolution.

Dimension legend
    B batch, C channels, T frames, H W pixels, p frames of padding before the clip
    Inside the fused function tensors are channels-last: (B,T,H,W,C).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

EPSILON = 1e-12
"""Smallest length that a channel vector is divided by."""


class ChannelRMSNorm(nn.Module):
    """y = sqrt(C) * gamma * x / max(|x|, 1e-12), |x| the length over channels; no bias.

    ``axes``: number of axes after the channel axis (3 for clips, 2 for frames); gamma has shape (C,1,...,1),
    the layout of the official SSVAE checkpoints.
    """

    def __init__(self, channels: int, *, axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *([1] * axes)))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,...) -> (B,C,...)."""
        return F.normalize(x, dim=1, eps=EPSILON) * (math.sqrt(x.shape[1]) * self.gamma)


class NormSiLU(ChannelRMSNorm):
    """silu(ChannelRMSNorm(x)), written straight behind ``history`` repeats of its first frame."""

    def forward(self, x: Tensor, history: int = 0) -> Tensor:
        """(B,C,T,H,W) -> (B,C,p+T,H,W) with p = ``history``; channels-last in memory."""
        gamma = self.gamma.flatten().to(x.dtype)
        last = x.permute(0, 2, 3, 4, 1)
        if last.stride(-1) != 1:
            last = last.contiguous()
        return _NormSiLU.apply(last, gamma, history).permute(0, 4, 1, 2, 3)


class _NormSiLU(torch.autograd.Function):
    """One pass over memory instead of one per operator; the backward recomputes instead of storing.

    With inv = sqrt(C)/max(|x|, eps), n = x·inv, y = n·gamma, s = silu(y):
        dy = ds·silu'(y);  dgamma = sum dy·n;  dn = dy·gamma;  dx = inv·(dn - n·<n, dn>/C)
    A repeated first frame adds its gradients to the frame's own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, history: int) -> Tensor:
        inv = math.sqrt(x.shape[-1]) / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(EPSILON)
        ctx.save_for_backward(x, inv, gamma)
        ctx.history = history
        b, t, h, w, c = x.shape
        out = x.new_empty(b, history + t, h, w, c)
        clip = out[:, history:]
        torch.mul(x, inv, out=clip)
        F.silu(clip.mul_(gamma), inplace=True)
        if history:
            out[:, :history] = clip[:, :1]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, inv, gamma = ctx.saved_tensors
        history, c = ctx.history, x.shape[-1]
        n = x * inv
        y = n * gamma
        dy = torch.ops.aten.silu_backward(grad[:, history:], y)
        if history:
            dy[:, :1] += torch.ops.aten.silu_backward(grad[:, :history].sum(1, keepdim=True), y[:, :1])
        product = torch.mul(dy, n, out=y).reshape(-1, c)
        grad_gamma = product.sum(0)
        along = torch.mv(product, gamma).view_as(inv)
        grad_x = dy.mul_(gamma).addcmul_(n, along, value=-1.0 / c).mul_(inv)
        return grad_x, grad_gamma, None
