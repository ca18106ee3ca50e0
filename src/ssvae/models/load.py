"""``load_vae``: any VAE of ours from the folder that holds it."""

from __future__ import annotations

from pathlib import Path

import torch

from ssvae.models.vae import VideoVAE
from ssvae.models.weights import load_vae_folder


def load_vae(
    name_or_path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> VideoVAE:
    """A VAE in eval mode.

    name_or_path: a folder with ``config.json`` and ``model.safetensors`` (``runs/stages/pretrain-<id>/vae``), or the
    stage folder around it. Raises ValueError for anything else.
    """
    path = Path(name_or_path)
    if (path / "vae").is_dir():
        path = path / "vae"
    return load_vae_folder(path, device=device, dtype=dtype)
