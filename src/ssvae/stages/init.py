"""Weights to start from that no stage of this project made: found, fingerprinted and judged before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import torch

from ssvae.build import build_vae
from ssvae.config.reg import TrainedStage, terms_in
from ssvae.config.tree import Config
from ssvae.config.vae import VaeConfig
from ssvae.core.identity import file_sha256, fingerprint
from ssvae.models.dinov2 import load_dinov2
from ssvae.models.load import load_vae
from ssvae.models.lpips import load_lpips
from ssvae.models.vae import VideoVAE
from ssvae.models.weights import CONFIG_FILE, WEIGHTS_FILE

_TRAINING = {
    "base": TrainedStage.pretrain,
    "pretrain": TrainedStage.pretrain,
    "decoder_finetune": TrainedStage.decoder_finetune,
}


@lru_cache(maxsize=32)
def weights_fingerprint(key: str, given: str) -> str:
    """Of the content behind ``given``, the value of ``key``; a name that is no path stands for itself.

    Raises ValueError for a folder without ``config.json`` and ``model.safetensors``.
    """
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
    return fingerprint(["name", given], 32)


def load_init(key: str, init: str, like: VideoVAE) -> VideoVAE:
    """The VAE behind ``init``, the value of ``key``.

    Raises ValueError when it cannot be read, or, naming what differs, when its architecture is not that of ``like``.
    """
    try:
        loaded = load_vae(init)
    except ValueError as error:
        raise ValueError(f"{key} = {init}: {error}") from error
    ours, theirs = like.config.to_json(), loaded.config.to_json()
    differing = [f"{name} {theirs[name]} instead of {ours[name]}" for name in ours if ours[name] != theirs[name]]
    if differing:
        raise ValueError(f"{key} = {init}: has {', '.join(differing)}; choose vae=... and channels=... that fit it")
    return loaded


def foreign_problems(cells: Sequence[Config]) -> list[str]:
    """What is wrong with the weights from outside that cells name: to start from, of LPIPS, of DINOv2; each once."""
    checks: dict[tuple[object, ...], Callable[[], object]] = {}
    for cfg in cells:
        for name, kind in _TRAINING.items():
            stage = getattr(cfg.stages, name)
            if stage is None:
                continue
            if stage.init is not None:
                checks[name, stage.init, repr(cfg.vae)] = partial(_fits, f"stages.{name}.init", stage.init, cfg.vae)
            lpips = stage.objective.lpips
            if lpips.vgg is not None:
                checks["lpips", lpips.vgg, lpips.heads] = partial(load_lpips, lpips.vgg, lpips.heads)
            vf = terms_in(stage.reg.terms, kind).vf
            if vf is not None and vf.model is not None:
                checks["vf", vf.model, vf.size] = partial(load_dinov2, vf.model, size=vf.size)
    return list(dict.fromkeys(problem for check in checks.values() if (problem := _problem(check)) is not None))


def _fits(key: str, init: str, vae: VaeConfig) -> None:
    with torch.device("meta"):
        like = build_vae(vae)
    load_init(key, init, like)


def _problem(check: Callable[[], object]) -> str | None:
    try:
        check()
    except ValueError as error:
        return str(error)
    return None
