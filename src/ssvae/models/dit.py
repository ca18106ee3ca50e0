"""A small video diffusion transformer that predicts the velocity of a latent.

Diffusion transformer with adaLN-zero conditioning (Peebles & Xie 2212.09748) over space-time patches, full
bidirectional attention, fixed factorised 3-D sine-cosine positions, RMS-normalised queries and keys.

Dimension legend
    B batch, C latent channels, F h w latent frames, height, width; (p_t,p_h,p_w) patch; N tokens = F/p_t·h/p_h·w/p_w
    P = C·p_t·p_h·p_w values of a patch, D width, A heads; t (B,) in [0,1], 1 = noise
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssvae.models.condition import CONDITION_KINDS, CaptionEmbedding, ClassEmbedding, ConditionKind

FREQUENCY_FEATURES = 128
TIME_SCALE = 1000.0
"""Times in [0,1] are spread over the range of the sine features' frequencies, as DiT does with 1000 steps."""


def patchify(x: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """(B,C,F,h,w) -> tokens (B,N,P); N runs over frames, then rows, then columns."""
    b, c, f, h, w = x.shape
    pt, ph, pw = patch
    blocks = x.reshape(b, c, f // pt, pt, h // ph, ph, w // pw, pw)
    return blocks.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, -1, c * pt * ph * pw)


def unpatchify(tokens: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """Inverse of :func:`patchify`: tokens (B,N,P) -> (B,C,F,h,w) with (F,h,w) = ``grid``."""
    (f, h, w), (pt, ph, pw) = grid, patch
    b, c = tokens.shape[0], tokens.shape[2] // (pt * ph * pw)
    blocks = tokens.reshape(b, f // pt, h // ph, w // pw, c, pt, ph, pw)
    return blocks.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(b, c, f, h, w)


def sine_features(values: Tensor, features: int, max_period: float = 10_000.0) -> Tensor:
    """values (n,) -> (n, features): cosines then sines at geometric frequencies from 1 to 1/max_period."""
    half = features // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=values.device) / max(half, 1))
    angles = values.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def position_features(counts: tuple[int, int, int], width: int) -> Tensor:
    """(N, width): a share of the width for each of time, height, width, so that each axis has sines of its own."""
    share = width // 6 * 2
    shares = (width - 2 * share, share, share)
    axes = []
    for axis, (count, features) in enumerate(zip(counts, shares, strict=True)):
        table = sine_features(torch.arange(count, dtype=torch.float32), features)
        shape = [1, 1, 1, features]
        shape[axis] = count
        axes.append(table.reshape(shape).expand(*counts, features))
    return torch.cat(axes, dim=-1).reshape(-1, width)


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


class Block(nn.Module):
    """adaLN-zero block: the condition sets shift, scale and gate of both branches; gates start at 0 (identity)."""

    def __init__(self, *, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm_attention = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(width=width, heads=heads)
        self.norm_mlp = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.modulation = nn.Linear(width, 6 * width)
        _zero(self.modulation)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition).chunk(6, dim=-1)
        attended = self.attention(modulate(self.norm_attention(x), shift_a, scale_a))
        x = torch.addcmul(x, gate_a.unsqueeze(1), attended)
        return torch.addcmul(x, gate_m.unsqueeze(1), self.mlp(modulate(self.norm_mlp(x), shift_m, scale_m)))


class VideoDiT(nn.Module):
    """Velocity network for latents (B,C,F,h,w) of one fixed grid.

    channels C; grid (F,h,w), each divisible by ``patch``; condition: "caption" (``vocabulary``, ``caption_length``),
    "class" (``classes``) or "none". input_skip adds gain(t)·x per channel to the output, zero at the start: the
    best linear velocity needs every noise direction, and a token whose P exceeds the width cannot carry them all.
    Raises ValueError when grid and patch, or width and heads, do not fit.
    """

    version: int = 1

    def __init__(
        self,
        *,
        channels: int,
        grid: Sequence[int],
        patch: Sequence[int] = (1, 2, 2),
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        condition: ConditionKind = "caption",
        classes: int = 0,
        vocabulary: int = 512,
        caption_length: int = 24,
        input_skip: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.grid, self.patch = channels, _triple("grid", grid), _triple("patch", patch)
        counts = _token_counts(self.grid, self.patch)
        _check_width(width, heads)
        if condition not in CONDITION_KINDS:
            raise ValueError(f"condition {condition!r} is not one of {', '.join(CONDITION_KINDS)}")
        self.condition_kind = condition
        values = channels * math.prod(self.patch)

        self.embed = nn.Linear(values, width)
        self.register_buffer("positions", position_features(counts, width), persistent=False)
        self.time_mlp = nn.Sequential(nn.Linear(FREQUENCY_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.conditioner: CaptionEmbedding | ClassEmbedding | None = None
        if condition == "caption":
            self.conditioner = CaptionEmbedding(width=width, vocabulary=vocabulary, length=caption_length)
        elif condition == "class":
            self.conditioner = ClassEmbedding(width=width, classes=classes)
        self.blocks = nn.ModuleList(Block(width=width, heads=heads, mlp_ratio=mlp_ratio) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation_out = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, values)
        self.skip_gain = nn.Linear(width, channels) if input_skip else None
        for layer in (self.modulation_out, self.head, self.skip_gain):
            if layer is not None:
                _zero(layer)

    def encode_conditions(self, conditions: Sequence[str | int | None]) -> Tensor | None:
        """Captions or labels -> ids on the model's device, (B,L) or (B,); None entries become the null condition.

        Returns None for condition="none". Raises ValueError for the wrong kind of condition.
        """
        if self.conditioner is None:
            return None
        return self.conditioner.encode(conditions).to(self.embed.weight.device)

    def null_conditions(self, count: int) -> Tensor | None:
        """Ids of ``count`` null conditions, or None for condition="none"."""
        return self.encode_conditions([None] * count)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Velocity (B,C,F,h,w) at latents x (B,C,F,h,w) and times t (B,).

        condition: ids from :meth:`encode_conditions`; None means the null condition for every sample.
        Raises ValueError when the latent does not have the model's channels and grid.
        """
        if tuple(x.shape[1:]) != (self.channels, *self.grid):
            raise ValueError(f"latent must be (B,{self.channels},{_join(self.grid, ',')}), got {tuple(x.shape)}")
        state = self._state(t, condition, x.dtype)
        tokens = self.embed(patchify(x, self.patch)) + self.positions
        for block in self.blocks:
            tokens = block(tokens, state)
        shift, scale = self.modulation_out(state).chunk(2, dim=-1)
        out = unpatchify(self.head(modulate(self.norm_out(tokens), shift, scale)), self.grid, self.patch)
        if self.skip_gain is not None:
            out = out + self.skip_gain(state)[:, :, None, None, None] * x
        return out

    def _state(self, t: Tensor, condition: Tensor | None, dtype: torch.dtype) -> Tensor:
        """(B,D): time plus condition, through SiLU once for every block's modulation."""
        state = self.time_mlp(sine_features(t * TIME_SCALE, FREQUENCY_FEATURES).to(dtype))
        if self.conditioner is not None:
            ids = self.null_conditions(t.shape[0]) if condition is None else condition
            state = state + self.conditioner(ids)
        elif condition is not None:
            raise ValueError("this model was built with condition='none' and takes no condition")
        return functional.silu(state)


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _triple(name: str, values: Sequence[int]) -> tuple[int, int, int]:
    if len(values) != 3 or min(values) < 1:
        raise ValueError(f"{name} must be three positive counts (frames, height, width), got {tuple(values)}")
    return int(values[0]), int(values[1]), int(values[2])


def _join(values: Sequence[int], separator: str) -> str:
    return separator.join(str(value) for value in values)


def _token_counts(grid: tuple[int, int, int], patch: tuple[int, int, int]) -> tuple[int, int, int]:
    if any(size % step for size, step in zip(grid, patch, strict=True)):
        fits = tuple(math.gcd(size, step) for size, step in zip(grid, patch, strict=True))
        raise ValueError(
            f"latent grid {_join(grid, 'x')} is not divisible by patch {_join(patch, 'x')}; "
            f"a patch of {_join(fits, 'x')} fits, or change the clip's size"
        )
    return grid[0] // patch[0], grid[1] // patch[1], grid[2] // patch[2]


def _check_width(width: int, heads: int) -> None:
    if heads < 1 or width % heads or width % 2 or width < 12:
        raise ValueError(f"width {width} must be even, at least 12 and divisible by heads {heads}, e.g. 128 with 4")
