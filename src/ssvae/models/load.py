"""``load_vae``: a VAE of ours from its folder, an official SSVAE checkpoint, or a published VAE by name or folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ssvae.models.official import load_official
from ssvae.models.statistics import PUBLISHED, RELEASED_48, LatentStatistics, read_statistics
from ssvae.models.vae import VideoVAE
from ssvae.models.weights import MASK_TOKEN, PARTS_FILE, folder_statistics, load_vae_folder
from ssvae.models.zoo import PublishedVAE, load_published
from ssvae.models.zoo_source import PRESETS, is_published

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Release:
    """A published checkpoint: file of a Hugging Face repository, and the constants published with it."""

    repository: str
    file: str
    statistics: Path


RELEASES = {"ssvae48": Release("zai-org/SSVAE", "ch48_256p_15w_512p_5w.ckpt", RELEASED_48)}
"""Names of official SSVAE checkpoints; VAEs of others: :data:`~ssvae.models.zoo_source.PRESETS`."""
NAMES = (*RELEASES, *PRESETS)
"""All names that :func:`load_vae` knows."""


@dataclass(frozen=True, slots=True)
class OpenedVAE:
    """vae: in eval mode. statistics: record of its latent mean and std, None where nobody wrote one. mask_token:
    (1,C,1,1,1) float32, LMR's, where an official checkpoint or the stage around the folder holds one."""

    vae: VideoVAE | PublishedVAE
    statistics: LatentStatistics | None
    mask_token: Tensor | None = None

    @property
    def own(self) -> VideoVAE:
        """The VAE, where :func:`refuse_published` has let its source through."""
        assert isinstance(self.vae, VideoVAE)
        return self.vae

    @property
    def unmeasured(self) -> bool:
        """Whether normalising leaves latents as they are because nobody measured them."""
        return self.statistics is None and LatentStatistics.unrecorded(self.vae).is_identity


def load_vae(
    name_or_path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> VideoVAE | PublishedVAE:
    """A VAE in eval mode.

    name_or_path: one of

    * a folder with ``config.json`` and ``model.safetensors`` (``runs/stages/pretrain-<id>/vae``), or the stage
      folder around it;
    * an official SSVAE checkpoint file (Lightning's layout, or the bare state dict). Its architecture is inferred,
      nothing in it is executed (models/official.py). Latent statistics: the published ones for the released file
      under its own name, else mean 0 and std 1, and the log says so;
    * ``ssvae48``, the released 48-channel model: from the local Hugging Face cache, else downloaded;
    * ``wan21``, ``wan22``, ``cogvideox``, ``hunyuan``, ``ltx``, ``flux``: likewise, through ``diffusers``; or a folder
      in diffusers' format, of the VAE or of the pipeline around it (models/zoo.py).

    Raises ValueError, in one line, for anything else and for files that are damaged or do not fit.
    """
    opened = open_vae(name_or_path, device=device, dtype=dtype)
    if opened.unmeasured:
        logger.warning(
            "%s: mean and std of its latents are not known, normalize() leaves latents as they are; "
            "`python -m ssvae export --vae %s --data CLIPS --out DIR` measures them and writes them with the weights",
            name_or_path,
            name_or_path,
        )
    return opened.vae


def load_video_vae(
    name_or_path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> VideoVAE:
    """As :func:`load_vae`, for what needs this project's own architecture: training, exporting.

    Raises ValueError, before anything is read, for a VAE of others.
    """
    refuse_published(name_or_path)
    vae = load_vae(name_or_path, device=device, dtype=dtype)
    assert isinstance(vae, VideoVAE)
    return vae


def open_vae(
    name_or_path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> OpenedVAE:
    """As :func:`load_vae`, with what travels beside the weights."""
    path = Path(name_or_path).expanduser()
    if is_published(name_or_path):
        return _open_published(name_or_path, device, dtype)
    release = RELEASES.get(str(name_or_path))
    if not path.exists() and release is not None:
        path = _fetch(str(name_or_path), release)
    if path.is_dir():
        if (path / "vae").is_dir():
            path = path / "vae"
        token = _mask_token(path.parent / PARTS_FILE)
        return OpenedVAE(load_vae_folder(path, device=device, dtype=dtype), folder_statistics(path), token)
    if path.suffix == ".safetensors":
        raise ValueError(f"{path}: give the folder that holds this file and its config.json")
    if path.is_file():
        return _open_official(path, device, dtype)
    raise ValueError(
        f"{path} is no VAE folder, no checkpoint file and no known name: give a folder with config.json and "
        "model.safetensors (or the stage folder around it), a folder in diffusers' format, an official SSVAE .ckpt, "
        f"or one of {', '.join(NAMES)}"
    )


def refuse_published(name_or_path: str | Path) -> None:
    """ValueError for a VAE of others, by name or folder: nothing of it is read but the config."""
    if is_published(name_or_path):
        raise ValueError(
            f"{name_or_path}: a published VAE of another architecture, which can be encoded, decoded and measured "
            "here, but neither trained nor exported: give a VAE of this project or an official SSVAE .ckpt"
        )


def _mask_token(parts: Path) -> Tensor | None:
    """LMR's token, where the stage around a VAE's folder trained one."""
    if not parts.is_file():
        return None
    with safe_open(parts, framework="pt") as file:
        return file.get_tensor(MASK_TOKEN) if MASK_TOKEN in file.keys() else None  # noqa: SIM118 - no dictionary


def _open_published(name_or_path: str | Path, device: str | torch.device, dtype: torch.dtype) -> OpenedVAE:
    vae = load_published(name_or_path, device, dtype)
    origin = vae.layout.repository or Path(name_or_path).expanduser().resolve().name
    statistics = LatentStatistics(
        mean=tuple(vae.latent_mean.tolist()),
        std=tuple(vae.latent_std.tolist()),
        protocol=PUBLISHED,
        data=f"{vae.layout.class_name} of {origin}",
    )
    return OpenedVAE(vae, statistics)


def _open_official(path: Path, device: str | torch.device, dtype: torch.dtype) -> OpenedVAE:
    loaded = load_official(path)
    statistics = _published(path, loaded.vae.channels)
    if statistics is not None:
        statistics.apply(loaded.vae)
    return OpenedVAE(loaded.vae.to(device=device, dtype=dtype), statistics, loaded.mask_token)


def _published(path: Path, channels: int) -> LatentStatistics | None:
    """The constants published with the file of this name; None for other files, and where they cannot belong to it."""
    for release in RELEASES.values():
        if path.name == release.file:
            statistics = read_statistics(release.statistics)
            if len(statistics.mean) == channels:
                return statistics
    return None


def _fetch(name: str, release: Release) -> Path:
    """The released file in the local cache, downloaded if it is not there yet."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import EntryNotFoundError

    cached = try_to_load_from_cache(release.repository, release.file)
    if isinstance(cached, str):
        return Path(cached)
    try:
        return Path(hf_hub_download(release.repository, release.file))
    except (OSError, EntryNotFoundError) as error:
        raise ValueError(
            f"{name}: {release.file} of huggingface.co/{release.repository} is not in the local cache and could not "
            f"be downloaded ({type(error).__name__}): fetch that file yourself and give its path instead of the name"
        ) from error
