"""A VAE as a plain folder: config.json, model.safetensors, and the record of its latent statistics if there is one."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ssvae.core.files import write_atomic, write_text
from ssvae.models.statistics import STATISTICS_FILE, LatentStatistics, read_statistics, write_statistics
from ssvae.models.vae import VAEConfig, VideoVAE

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PARTS_FILE = "parts.safetensors"
"""In a stage's folder, beside that of its VAE: what was trained with it (mask token, likelihood's scale, critic)."""
MASK_TOKEN = "regularizers.lmr.mask_token"
"""Name of LMR's token in :data:`PARTS_FILE`, (1,C,1,1,1)."""
FORMAT = "ssvae-vae/1"


def save_vae(folder: str | os.PathLike[str], vae: VideoVAE, statistics: LatentStatistics | None = None) -> None:
    """Write config.json and model.safetensors, with ``statistics`` also latent_statistics.json.

    Each file appears whole or not at all. statistics: where the latent mean and std that ``vae`` holds come from;
    ValueError, before anything is written, if they are other numbers. Without it a record of earlier weights goes.
    """
    if statistics is not None:
        statistics.check(vae)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    # First, so that a record never lies beside weights that it does not belong to.
    (path / STATISTICS_FILE).unlink(missing_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in vae.state_dict().items()}
    write_atomic(path / WEIGHTS_FILE, lambda temporary: save_file(tensors, temporary))
    write_text(path / CONFIG_FILE, json.dumps({"format": FORMAT, **vae.config.to_json()}, indent=2) + "\n")
    if statistics is not None:
        write_statistics(path / STATISTICS_FILE, statistics)


def load_vae_folder(
    folder: str | os.PathLike[str], *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> VideoVAE:
    """Read a folder written by :func:`save_vae`; eval mode, latent statistics stay float32.

    Raises ValueError naming the folder when a file is missing or damaged, the config is not ours, weights do not match
    it, or the recorded latent statistics are not those that the weights hold.
    """
    path = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            raise ValueError(
                f"{path} is no VAE folder: {name} is missing; give one with {CONFIG_FILE} and {WEIGHTS_FILE}, such as "
                "plain/ of an export, or the folder of a training stage (pretrain-..., decoder_finetune-...)"
            )
    config = _read_config(path / CONFIG_FILE)
    try:
        tensors = load_file(path / WEIGHTS_FILE)
    except SafetensorError as error:
        raise ValueError(f"{path / WEIGHTS_FILE} is damaged or no safetensors file: {error}") from error
    try:
        with torch.device("meta"):
            vae = VideoVAE(**config)
    except ValueError as error:
        raise ValueError(f"{path / CONFIG_FILE}: {error}") from error
    _check_tensors(path / WEIGHTS_FILE, vae, tensors)
    vae.load_state_dict(tensors, strict=True, assign=True)
    recorded = folder_statistics(path)
    try:
        vae.set_latent_statistics(vae.latent_mean.float(), vae.latent_std.float())
        if recorded is not None:
            recorded.check(vae)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return vae.to(device=device, dtype=dtype).eval()


def folder_statistics(folder: str | os.PathLike[str]) -> LatentStatistics | None:
    """The record in a folder written by :func:`save_vae`, if it has one. Raises ValueError for a damaged one."""
    path = Path(folder) / STATISTICS_FILE
    return read_statistics(path) if path.is_file() else None


def _read_config(path: Path) -> dict[str, Any]:
    """Keyword arguments of :class:`VideoVAE`; unknown, missing or ill-typed entries are errors."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} does not say format {FORMAT!r}; it was not written by save_vae")
    config = {key: value for key, value in content.items() if key != "format"}
    known = {field.name: str(field.type) for field in fields(VAEConfig)}
    if config.keys() != known.keys():
        raise ValueError(f"{path}: keys {sorted(config.keys() ^ known.keys())} are unknown or missing")
    for key, declared in known.items():
        kind = bool if "bool" in declared else int
        values = config[key] if declared.startswith("tuple") else [config[key]]
        if not isinstance(values, list) or not all(type(value) is kind for value in values):
            many = "a list of " if declared.startswith("tuple") else ""
            raise ValueError(f"{path}: {key} must be {many}{kind.__name__}, got {config[key]!r}")
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
