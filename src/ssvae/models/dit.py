"""A video diffusion transformer that predicts the velocity of a latent.

Diffusion transformer with adaLN-zero conditioning (Peebles & Xie 2212.09748) over space-time patches, full
bidirectional attention, fixed factorised 3-D sine-cosine positions, RMS-normalised queries and keys; for texts with
cross-attention in every block. No weight's shape depends on the grid.

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
from torch.utils.checkpoint import checkpoint

from ssvae.models.condition import (
    CONDITION_KINDS,
    CaptionEmbedding,
    ClassEmbedding,
    ConditionKind,
    TextEmbedding,
    TextSource,
)
from ssvae.models.dit_blocks import Block, TextTokens, modulate, zero
from ssvae.models.dit_tokens import join, patchify, position_features, sine_features, token_counts, triple, unpatchify

FREQUENCY_FEATURES = 128
TIME_SCALE = 1000.0
"""Times in [0,1] are spread over the range of the sine features' frequencies, as DiT does with 1000 steps."""


class VideoDiT(nn.Module):
    """Velocity network for latents (B,C,F,h,w) of one fixed grid.

    channels C; grid (F,h,w), each divisible by ``patch``; condition: "caption" (``vocabulary``, ``caption_length``),
    "text" (``texts``: tokens for cross-attention, their mean for the adaLN state), "class" (``classes``) or "none".
    input_skip adds gain(t)·x per channel to the output, zero at the start: the best linear velocity needs every noise
    direction, and a token whose P exceeds the width cannot carry them all. base_grid: the grid that weights to go on
    from were trained on; positions are stretched onto its range (dit_tokens.position_features), None: they are not.
    gradient_checkpointing: blocks are computed again in the backward pass, with the same numbers.
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
        texts: TextSource | None = None,
        base_grid: Sequence[int] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.grid, self.patch = channels, triple("grid", grid), triple("patch", patch)
        counts = token_counts(self.grid, self.patch)
        trained = None
        if base_grid is not None:
            trained = token_counts(triple("base_grid", base_grid), self.patch, "base_grid")
        _check_width(width, heads)
        if condition not in CONDITION_KINDS:
            raise ValueError(f"condition {condition!r} is not one of {', '.join(CONDITION_KINDS)}")
        self.base_grid = self.grid if base_grid is None else triple("base_grid", base_grid)
        self.condition_kind = condition
        self.gradient_checkpointing = gradient_checkpointing
        values = channels * math.prod(self.patch)

        self.embed = nn.Linear(values, width)
        self.register_buffer("positions", position_features(counts, width, trained), persistent=False)
        self.time_mlp = nn.Sequential(nn.Linear(FREQUENCY_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.conditioner: CaptionEmbedding | TextEmbedding | ClassEmbedding | None = None
        if condition == "caption":
            self.conditioner = CaptionEmbedding(width=width, vocabulary=vocabulary, length=caption_length)
        elif condition == "class":
            self.conditioner = ClassEmbedding(width=width, classes=classes)
        elif condition == "text":
            if texts is None:
                raise ValueError("condition='text' needs texts, the embeddings of a text encoder; or use 'caption'")
            self.conditioner = TextEmbedding(width=width, source=texts)
        self.blocks = nn.ModuleList(
            Block(width=width, heads=heads, mlp_ratio=mlp_ratio, text=condition == "text") for _ in range(depth)
        )
        self.norm_out = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation_out = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, values)
        self.skip_gain = nn.Linear(width, channels) if input_skip else None
        for layer in (self.modulation_out, self.head, self.skip_gain):
            if layer is not None:
                zero(layer)

    def encode_conditions(self, conditions: Sequence[str | int | None]) -> Tensor | None:
        """Captions, texts or labels -> ids on the model's device, (B,L) or (B,); None becomes the null condition.

        The null text is the empty one. Returns None for condition="none". Raises ValueError for the wrong kind.
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
            raise ValueError(f"latent must be (B,{self.channels},{join(self.grid, ',')}), got {tuple(x.shape)}")
        state, text = self._state(t, condition, x.dtype)
        tokens = self.embed(patchify(x, self.patch)) + self.positions
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                # Nothing in a block draws random numbers, so there is no state to keep.
                tokens = checkpoint(block, tokens, state, text, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(tokens, state, text)
        shift, scale = self.modulation_out(state).chunk(2, dim=-1)
        out = unpatchify(self.head(modulate(self.norm_out(tokens), shift, scale)), self.grid, self.patch)
        if self.skip_gain is not None:
            out = out + self.skip_gain(state)[:, :, None, None, None] * x
        return out

    def _state(self, t: Tensor, condition: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, TextTokens | None]:
        """(B,D): time plus condition, through SiLU once for every block's modulation; and the text's tokens."""
        state = self.time_mlp(sine_features(t * TIME_SCALE, FREQUENCY_FEATURES).to(dtype))
        text = None
        if self.conditioner is not None:
            ids = self.null_conditions(t.shape[0]) if condition is None else condition
            vector = self.conditioner(ids)
            if isinstance(self.conditioner, TextEmbedding):
                vector, text = vector
            state = state + vector
        elif condition is not None:
            raise ValueError("this model was built with condition='none' and takes no condition")
        return functional.silu(state), text


def _check_width(width: int, heads: int) -> None:
    if heads < 1 or width % heads or width % 2 or width < 12:
        raise ValueError(f"width {width} must be even, at least 12 and divisible by heads {heads}, e.g. 128 with 4")
