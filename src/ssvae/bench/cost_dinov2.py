"""DINOv2 by its size, for counting: the real network, without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ssvae.models.dinov2 import DinoV2Features

SIZES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "giant": {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True},
}
"""The published ones, all with patches of 14 pixels and positions for 518 x 518."""
OTHERWISE = "large"
"""Taken for a model that is neither a folder on this machine nor a published name."""


def published_size(model: str) -> str | None:
    """Key of :data:`SIZES` for a name such as ``facebook/dinov2-large``; None for any other."""
    owner, found, size = model.rpartition("dinov2-")
    return size if found and owner in ("", "facebook/") and size in SIZES else None


def unloaded_dinov2(model: str, size: int) -> DinoV2Features:
    """The network that ``model`` names, on the device ``meta``; size: pixels a side that it receives.

    Raises ValueError when the package transformers, whose network it is, is missing.
    """
    try:
        from transformers import Dinov2Config, Dinov2Model
    except ImportError as error:
        raise ValueError("reg.terms.vf: its DINOv2 is that of transformers: pip install -e '.[dino]'") from error
    if Path(model).is_dir():
        config = Dinov2Config.from_pretrained(model, local_files_only=True)
    else:
        config = Dinov2Config(patch_size=14, image_size=518, **SIZES[published_size(model) or OTHERWISE])
    with torch.device("meta"):
        return DinoV2Features(Dinov2Model(config), size)
