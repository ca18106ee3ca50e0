"""Where a published VAE lies: its name, its folder in diffusers' format, and what identifies its content.

A folder holds ``config.json`` with a ``_class_name`` and ``diffusion_pytorch_model.safetensors``, or the shards that
``diffusion_pytorch_model.safetensors.index.json`` lists. Pickled weights (.bin) are never opened.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssvae.core.identity import file_sha256, fingerprint
from ssvae.models.zoo_rules import COGVIDEOX, HUNYUAN, IMAGE, LTX, WAN, PublishedLayout, layout

CONFIG_FILE = "config.json"
_STEM = "diffusion_pytorch_model"
WEIGHTS_FILE = f"{_STEM}.safetensors"
INDEX_FILE = f"{_STEM}.safetensors.index.json"
SUBFOLDER = "vae"
"""Of a pipeline, in a repository or in a folder."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A published VAE: ``vae`` of a repository on huggingface.co. config: what its config says beyond the class's
    defaults, as far as :func:`~ssvae.models.zoo_rules.layout` reads it; what counts is the config in the repository."""

    repository: str
    class_name: str
    config: dict[str, Any] = field(default_factory=dict)


PRESETS = {
    "wan21": Preset("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", WAN),
    "wan22": Preset(
        "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        WAN,
        {"z_dim": 48, "patch_size": 2, "in_channels": 12, "out_channels": 12},
    ),
    "cogvideox": Preset("zai-org/CogVideoX-2b", COGVIDEOX),
    "hunyuan": Preset("hunyuanvideo-community/HunyuanVideo", HUNYUAN),
    "ltx": Preset("Lightricks/LTX-Video", LTX),
    "flux": Preset(
        "black-forest-labs/FLUX.1-schnell",
        IMAGE,
        {"block_out_channels": [128, 256, 512, 512], "latent_channels": 16},
    ),
}
"""Names that ``load_vae`` knows for VAEs of others."""


def is_published(source: str | Path) -> bool:
    """Whether ``source`` is one of :data:`PRESETS` or a folder in diffusers' format. Asks no network."""
    return _local_folder(source) is not None or _preset(source) is not None


def describe(source: str | Path) -> PublishedLayout:
    """Channels, compression and rules, without weights: from the folder's config, for a name from the local cache's,
    and where the cache has none from what is known of the published one. Asks no network.

    Raises ValueError for a source that is not :func:`is_published`, and for a config that cannot be used.
    """
    folder = _local_folder(source)
    if folder is not None:
        return read_layout(folder)
    preset = _preset(source)
    if preset is None:
        raise ValueError(f"{source} is neither a folder in diffusers' format nor one of {', '.join(PRESETS)}")
    cached = _cached(preset)
    if cached is not None:
        return read_layout(cached, preset.repository)
    return layout({"_class_name": preset.class_name, **preset.config}, preset.repository)


def published_fingerprint(source: str | Path) -> str:
    """32 hex digits of config and weight files, by content; a name is looked up, and downloaded if need be.

    Raises ValueError as :func:`published_folder`.
    """
    folder = published_folder(source)
    # Other underscored entries say where and with which version it was saved.
    config = {key: value for key, value in read_config(folder).items() if key[0] != "_" or key == "_class_name"}
    return fingerprint({"config": config, "weights": [file_sha256(path) for path in weight_files(folder)]}, 32)


def published_folder(source: str | Path) -> Path:
    """The folder with config and weights behind ``source``; a name that is not in the local cache is downloaded.

    Raises ValueError when it cannot be had, and for files that are missing.
    """
    folder = _local_folder(source)
    if folder is None:
        preset = _preset(source)
        if preset is None:
            raise ValueError(f"{source} is neither a folder in diffusers' format nor one of {', '.join(PRESETS)}")
        folder = _fetch(str(source), preset)
    weight_files(folder)
    return folder


def read_layout(folder: Path, repository: str | None = None) -> PublishedLayout:
    """What ``config.json`` of ``folder`` says. Raises ValueError, naming the file."""
    config = read_config(folder)
    try:
        return layout(config, repository)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG_FILE}: {error}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder in diffusers' format. Raises ValueError, naming the file, for anything else."""
    path = folder / CONFIG_FILE
    content = _read_json(path)
    if "quantization_config" in content:
        raise ValueError(f"{path}: quantised weights cannot be used here; take those in full precision")
    return content


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of ``folder``, sorted. Raises ValueError where some are missing."""
    index = folder / INDEX_FILE
    if index.is_file():
        weights = _read_json(index).get("weight_map")
        if not isinstance(weights, dict) or not weights:
            raise ValueError(f"{index}: has no weight_map")
        names = sorted({str(name) for name in weights.values()})
        if strange := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
            raise ValueError(f"{index}: {strange[0]!r} is no .safetensors file of this folder")
    else:
        names = [WEIGHTS_FILE]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        others = sorted(path.name for path in folder.glob("*.safetensors"))
        if pickled:
            why = f"; {pickled[0]} is a pickle, which may run code and is not opened: convert it to safetensors"
        elif others:
            why = f"; {', '.join(others[:3])} is there under another name"
        else:
            why = ""
        raise ValueError(f"{folder}: {', '.join(missing[:3])} is missing{why}")
    return [folder / name for name in names]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold an object")
    return content


def _preset(source: str | Path) -> Preset | None:
    """A file or folder of the same name comes first."""
    return None if Path(source).expanduser().exists() else PRESETS.get(str(source))


def _local_folder(source: str | Path) -> Path | None:
    """``source`` or its ``vae``, if that is a folder in diffusers' format, whole or damaged."""
    path = Path(source).expanduser()
    folder = path / SUBFOLDER if (path / SUBFOLDER).is_dir() else path
    if not folder.is_dir():
        return None
    if any(folder.glob(f"{_STEM}*")):
        return folder
    try:
        return folder if "_class_name" in _read_json(folder / CONFIG_FILE) else None
    except ValueError:
        return None  # not theirs; the reader of our own folders says what is wrong with it


def _cached(preset: Preset) -> Path | None:
    """The folder of the local Hugging Face cache that holds the preset's config, whether weights are there or not."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(preset.repository, f"{SUBFOLDER}/{CONFIG_FILE}", cache_dir=constants.HF_HUB_CACHE)
    return Path(found).parent if isinstance(found, str) else None


def _fetch(name: str, preset: Preset) -> Path:
    """The folder in the local cache, downloaded if it is not whole yet."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.utils import EntryNotFoundError

    cached = _cached(preset)
    if cached is not None and _is_whole(cached):
        return cached
    # No other precisions, and no pickles.
    wanted = [f"{SUBFOLDER}/{part}" for part in (CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE, f"{_STEM}-*-of-*.safetensors")]
    try:
        root = snapshot_download(preset.repository, allow_patterns=wanted, cache_dir=constants.HF_HUB_CACHE)
        folder = Path(root) / SUBFOLDER
        weight_files(folder)
    except (OSError, EntryNotFoundError, ValueError) as error:
        raise ValueError(
            f"{name}: {SUBFOLDER}/ of huggingface.co/{preset.repository} is not in the local cache and could not be "
            f"downloaded ({type(error).__name__}): fetch it where there is a network (hf download {preset.repository} "
            f"--include '{SUBFOLDER}/*'), or give the folder that holds its {CONFIG_FILE} and {WEIGHTS_FILE}"
        ) from error
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        return bool(weight_files(folder))
    except ValueError:
        return False
