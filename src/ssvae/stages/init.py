"""Weights to start from that no stage of this project made: found, fingerprinted, compared."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from ssvae.core.identity import file_sha256, fingerprint
from ssvae.models.load import RELEASES, load_video_vae
from ssvae.models.vae import VideoVAE
from ssvae.models.weights import CONFIG_FILE, WEIGHTS_FILE
from ssvae.models.zoo_source import is_published, published_fingerprint


@lru_cache(maxsize=32)
def weights_fingerprint(key: str, given: str) -> str:
    """Of the content behind ``given``, the value of ``key``: folder, file, or a name whose files are in the local hub
    cache; a name that is in none of these stands for itself.

    Raises ValueError for a folder without ``config.json`` and ``model.safetensors``.
    """
    if is_published(given):
        return published_fingerprint(given)
    path = Path(given).expanduser()
    folder = path / "vae" if (path / "vae").is_dir() else path
    if folder.is_dir():
        files = [folder / CONFIG_FILE, folder / WEIGHTS_FILE]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ValueError(f"{key} = {given}: no {' and no '.join(missing)} in that folder")
        return fingerprint([file_sha256(file) for file in files], 32)
    if path.is_file():
        return file_sha256(path)
    cached = _cached(given)
    if cached:
        # As a folder of these files, which is the same network.
        return fingerprint(cached, 32) if len(cached) > 1 else cached[0]
    return fingerprint(["name", given], 32)


def _cached(name: str) -> list[str]:
    """Hashes of config and weights behind a published name, in the order of a folder's; empty without them."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    release = RELEASES.get(name)
    repository, files = (release.repository, [release.file]) if release else (name, [CONFIG_FILE, WEIGHTS_FILE])
    try:
        found = [try_to_load_from_cache(repository, file) for file in files]
    except HFValidationError:
        return []
    paths = [Path(path) for path in found if isinstance(path, str)]
    return [file_sha256(path) for path in paths] if len(paths) == len(files) else []


def load_init(key: str, init: str, like: VideoVAE) -> VideoVAE:
    """The VAE behind ``init``, the value of ``key``.

    Raises ValueError when it cannot be read, or, naming what differs, when its architecture is not that of ``like``.
    """
    try:
        loaded = load_video_vae(init)
    except ValueError as error:
        raise ValueError(f"{key} = {init}: {error}") from error
    ours, theirs = like.config.to_json(), loaded.config.to_json()
    differing = [f"{name} {theirs[name]} instead of {ours[name]}" for name in ours if ours[name] != theirs[name]]
    if differing:
        raise ValueError(f"{key} = {init}: has {', '.join(differing)}; choose vae=... and channels=... that fit it")
    return loaded
