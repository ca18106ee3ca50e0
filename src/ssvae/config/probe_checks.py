"""What the probe asks of its conditions, prompts and checkpoints: rules that types cannot say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ssvae.config.probe import Condition, ProbeConfig
from ssvae.config.problem import Problem

CLIP_LENGTH = 77
"""Positions of the published CLIP text encoders."""


def probe_checks(cfg: ProbeConfig, key: str) -> list[Problem]:
    """Problems of ``cfg`` beside those of its transformer's shape and of its training. key: where a user sets it."""
    return [*_text(cfg, key), *_checkpoints(cfg, key), *_prompts(cfg, key)]


def _text(cfg: ProbeConfig, key: str) -> Iterator[Problem]:
    model, length = cfg.text.model, cfg.text.max_length
    if cfg.condition is Condition.text and model is None:
        remedy = (
            "condition=text needs a T5, UMT5 or CLIP: a folder in transformers' format, or a name such as "
            f"google-t5/t5-base; or set {key}.condition=caption"
        )
        yield Problem(f"{key}.text.model", "null", remedy)
    if model is not None and cfg.condition not in (Condition.text, Condition.auto):
        remedy = f"{key}.condition={cfg.condition.value} reads no text encoder: use text or auto, or leave it null"
        yield Problem(f"{key}.text.model", model, remedy)
    if model is not None and _is_path(model) and not Path(model).expanduser().is_dir():
        yield Problem(f"{key}.text.model", model, "no such folder; give one in transformers' format")
    if length < 1:
        yield Problem(f"{key}.text.max_length", str(length), f"must be at least 1; {CLIP_LENGTH} is CLIP's")


def _is_path(name: str) -> bool:
    """Hub names are ``model`` or ``owner/model``."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _checkpoints(cfg: ProbeConfig, key: str) -> Iterator[Problem]:
    steps = cfg.checkpoints
    if any(step < 1 for step in steps) or list(steps) != sorted(set(steps)):
        yield Problem(f"{key}.checkpoints", str(list(steps)), "must be different updates from 1 on, in rising order")


def _prompts(cfg: ProbeConfig, key: str) -> Iterator[Problem]:
    prompts = cfg.sample.prompts
    if prompts is None:
        return
    if not Path(prompts).expanduser().is_file():
        yield Problem(f"{key}.sample.prompts", prompts, "no such file; give one with a prompt a line, or null")
    if cfg.condition in (Condition.label, Condition.none):
        remedy = f"{key}.condition={cfg.condition.value} cannot follow a prompt: use caption, text or auto"
        yield Problem(f"{key}.sample.prompts", prompts, remedy)
