"""What tells probes apart, and what tells VAEs apart, read from the settings that stages left in ``config.yaml``.

probe  how a diffusion model was trained and scored, and on which clips: cells of equal probe may be compared
VAE    how the VAE was trained: cells of equal VAE differ by seed at most
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ssvae.core.identity import fingerprint

_OF_THE_CELL = ("seed", "parents")
_OF_THE_VAE = ("vae", "weights")
"""Which weights were probed, and the identity of a finished VAE: no setting of the probe."""
_TRAINED = ("base", "pretrain", "decoder_finetune")
_DATA = ("content", "heldout_share", "reject_share", "split_seed")
"""Of a data set, what decides which clips a probe sees; how VAEs draw their batches from it does not."""
_LATENTS = ("windows", "heldout")
_FINISHED = ("latents", "measure", "probe")
"""Stages that record the fingerprint of a finished VAE."""


def probe_settings(folders: Mapping[str, Path]) -> str | None:
    """Of everything that a probe was told and shown but its seed and its VAE; None where no probe left its settings.

    folders: of a cell's stages, by name. The clips count too, by the latents' settings: scores on other clips are other
    scores. How many latents were encoded at once does not. Raises ValueError for settings that are no YAML.
    """
    told = {name: read_settings(folders[name]) for name in ("dit_base", "dit", "probe") if name in folders}
    if not any(told.values()):
        return None
    kept: dict[str, Any] = {name: _without(config, (*_OF_THE_CELL, *_OF_THE_VAE)) for name, config in told.items()}
    for name in ("latents_base", "latents"):
        shown = read_settings(folders[name]) if name in folders else {}
        if shown:
            kept[name] = {
                "resolution": shown.get("resolution"),
                "conditions": shown.get("conditions"),
                "data": _only(shown.get("data"), _DATA),
                "latents": _only(shown.get("latents"), _LATENTS),
            }
    return fingerprint(kept)


def vae_settings(folders: Mapping[str, Path]) -> str | None:
    """Of everything that a VAE's training was told but its seed, stage by stage; of a finished VAE its fingerprint.

    None where a stage that trained it left no settings. What it was measured on or probed with does not count. Raises
    ValueError for settings that are no YAML.
    """
    trained = {name: read_settings(folders[name]) for name in _TRAINED if name in folders}
    if trained:
        told = {name: _without(config, _OF_THE_CELL) for name, config in trained.items()}
        return fingerprint(told) if all(trained.values()) else None
    for name in (name for name in _FINISHED if name in folders):
        finished = read_settings(folders[name]).get("vae")
        if finished is not None:
            return fingerprint({"finished": finished})
    return None


def read_settings(folder: Path) -> dict[str, Any]:
    """``config.yaml`` of a stage's folder, empty where there is none. Raises ValueError if it is no YAML mapping."""
    path = folder / "config.yaml"
    if not path.exists():
        return {}
    remedy = "remove it and run the sweep's command again"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML ({error}): {remedy}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not valid: it holds {config!r} and no settings; {remedy}")
    return config


def _without(config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in names}


def _only(config: Mapping[str, Any] | None, names: tuple[str, ...]) -> dict[str, Any]:
    return {key: config.get(key) for key in names} if config is not None else {}
