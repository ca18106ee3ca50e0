"""A VAE as a plain folder (config.json + model.safetensors), and the key names of official SSVAE checkpoints."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ssvae.models.vae import VAEConfig, VideoVAE

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = "ssvae-vae/1"

_OFFICIAL_RENAMES: tuple[tuple[str, str], ...] = (
    (r"\.(down|up)\.(\d+)\.block\.", r".levels.\2.blocks."),
    (r"\.(down|up)\.(\d+)\.(downsample|upsample)\.conv\.(conv\.)?", r".levels.\2.\3.conv."),
    (r"\.mid\.", ".middle."),
    (r"\.nin_shortcut\.", ".shortcut."),
    (r"\.(conv1|conv2|conv_in)\.conv\.", r".\1."),
    (r"\.out\.0\.", ".norm_out."),
    (r"\.out\.2\.conv\.", ".conv_out."),
)


def official_to_ours(key: str) -> str | None:
    """Name in :class:`VideoVAE` of a tensor in an official SSVAE checkpoint, same shape; None if it is no part of it.

    ``encoder.*`` and ``decoder.*`` are renamed; ``mask_token`` and ``loss.*`` belong to other objects.
    """
    if not key.startswith(("encoder.", "decoder.")):
        return None
    for pattern, replacement in _OFFICIAL_RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def save_vae(folder: str | os.PathLike[str], vae: VideoVAE) -> None:
    """Write config.json and model.safetensors (with latent statistics); each file appears whole or not at all."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in vae.state_dict().items()}
    text = json.dumps({"format": FORMAT, **vae.config.to_json()}, indent=2) + "\n"
    _write_atomically(path / WEIGHTS_FILE, lambda target: save_file(tensors, target))
    _write_atomically(path / CONFIG_FILE, lambda target: Path(target).write_text(text, encoding="utf-8"))


def load_vae_folder(
    folder: str | os.PathLike[str], *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> VideoVAE:
    """Read a folder written by :func:`save_vae`; eval mode, latent statistics stay float32.

    Raises ValueError naming the folder when a file is missing, the config is not ours, or weights do not match it.
    """
    path = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            raise ValueError(
                f"{path} is no VAE folder: {name} is missing; save_vae writes {CONFIG_FILE} and {WEIGHTS_FILE}"
            )
    config = _read_config(path / CONFIG_FILE)
    tensors = load_file(path / WEIGHTS_FILE)
    with torch.device("meta"):
        vae = VideoVAE(**config)
    _check_tensors(path / WEIGHTS_FILE, vae, tensors)
    vae.load_state_dict(tensors, strict=True, assign=True)
    vae.set_latent_statistics(vae.latent_mean.float(), vae.latent_std.float())
    return vae.to(device=device, dtype=dtype).eval()


def _read_config(path: Path) -> dict[str, Any]:
    """Keyword arguments of :class:`VideoVAE`; unknown, missing or ill-typed entries are errors."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} does not say format {FORMAT!r}; it was not written by save_vae")
    config = {key: value for key, value in content.items() if key != "format"}
    known = {field.name for field in fields(VAEConfig)}
    if config.keys() != known:
        raise ValueError(f"{path}: keys {sorted(config.keys() ^ known)} are unknown or missing")
    return config


def _check_tensors(path: Path, vae: VideoVAE, tensors: dict[str, torch.Tensor]) -> None:
    """ValueError unless names and shapes equal the model's."""
    expected = vae.state_dict()
    if expected.keys() != tensors.keys():
        differing = sorted(expected.keys() ^ tensors.keys())
        raise ValueError(f"{path}: {len(differing)} tensors are unknown or missing, first {differing[:3]}")
    for name, value in expected.items():
        if value.shape != tensors[name].shape:
            raise ValueError(f"{path}: {name} has shape {tuple(tensors[name].shape)}, expected {tuple(value.shape)}")


def _write_atomically(path: Path, write: Callable[[str], object]) -> None:
    """Write beside ``path``, flush to disk, then rename over it; a leftover of a failed write is removed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(str(temporary))
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
