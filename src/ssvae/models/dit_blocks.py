"""The blocks of the diffusion transformer: adaLN-zero self-attention and MLP, with cross-attention to text between.

Dimension legend
    B batch, N tokens of the latent, L tokens of the text, D width, A heads
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class TextTokens(NamedTuple):
    """tokens (B,L,D), already of the model's width; present (B,L) bool, at least one True a row."""

    tokens: Tensor
    present: Tensor


def zero(layer: nn.Linear) -> None:
    """Weights and bias to 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B,N,D)·(1 + scale) + shift with shift, scale (B,D)."""
    return torch.addcmul(shift.unsqueeze(1), x, 1 + scale.unsqueeze(1))


class Attention(nn.Module):
    """Bidirectional multi-head self-attention over (B,N,D), queries and keys RMS-normalised per head."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.query_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.key_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(self.query_norm(q), self.key_norm(k), v)
        return self.out(mixed.transpose(1, 2).reshape(b, n, d))


class CrossAttention(nn.Module):
    """Latent tokens (B,N,D) look at the present text tokens; queries and keys RMS-normalised per head.

    The output layer starts at 0, so that a fresh block is the identity.
    """

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.query_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.key_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.out = nn.Linear(width, width)
        zero(self.out)

    def forward(self, x: Tensor, text: TextTokens) -> Tensor:
        b, n, d = x.shape
        q = self.query(x).reshape(b, n, self.heads, -1).transpose(1, 2)
        k, v = self.key_value(text.tokens).reshape(b, -1, 2, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            self.query_norm(q), self.key_norm(k), v, attn_mask=text.present[:, None, None, :]
        )
        return self.out(mixed.transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    """adaLN-zero block: the condition sets shift, scale and gate of both branches; gates start at 0 (identity).

    text: adds cross-attention between the branches, behind a LayerNorm with weights of its own and ungated, as
    PixArt-α places it (2310.00426).
    """

    def __init__(self, *, width: int, heads: int, mlp_ratio: float, text: bool = False) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm_attention = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(width=width, heads=heads)
        self.norm_mlp = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.modulation = nn.Linear(width, 6 * width)
        zero(self.modulation)
        self.norm_text = nn.LayerNorm(width, eps=1e-6) if text else None
        self.text_attention = CrossAttention(width=width, heads=heads) if text else None

    def forward(self, x: Tensor, condition: Tensor, text: TextTokens | None = None) -> Tensor:
        """x (B,N,D), condition (B,D), text for a block that was built with it -> (B,N,D)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition).chunk(6, dim=-1)
        attended = self.attention(modulate(self.norm_attention(x), shift_a, scale_a))
        x = torch.addcmul(x, gate_a.unsqueeze(1), attended)
        if self.text_attention is not None and self.norm_text is not None:
            assert text is not None, "a block with cross-attention needs text"
            x = x + self.text_attention(self.norm_text(x), text)
        return torch.addcmul(x, gate_m.unsqueeze(1), self.mlp(modulate(self.norm_mlp(x), shift_m, scale_m)))
