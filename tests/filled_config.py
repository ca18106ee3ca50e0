"""The typed tree with every optional node filled in, and who reads which of its values."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any, get_args, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ssvae.config.compose import CONF
from ssvae.config.tree import Config, VaeStageConfig, register
from tiny_runs import TINY

TERMS = ("lcr", "cov", "vf", "predictive", "noise", "eq", "lmr", "se")
"""Beside ``kl``, which every file of the group has."""


@dataclass(frozen=True)
class Files:
    """What a config may point to. clips: as the embedded data lie; images: a folder of image tars."""

    clips: Path
    more_clips: Path
    images: Path
    damaged: Path
    vgg: Path
    heads: Path
    dinov2: Path
    alex: Path
    i3d: Path
    more_dinov2: Path
    text_encoder: Path
    more_text_encoder: Path
    prompts: Path


def filled(files: Files) -> Config:
    """Every node present, in all training stages. Not a cell: some of its terms exclude each other."""
    given = [
        *TINY,
        "exp=cpu_finetune",
        "objective=l1_gan",
        f"objective.lpips.vgg={files.vgg}",
        f"objective.lpips.heads={files.heads}",
        "objective.critic.width=4",
        "stages.decoder_finetune.train.steps=4",
        "stages.decoder_finetune.train.batch=2",
        *(f"+reg/term@reg.terms.{name}={name}" for name in TERMS),
        *(f"+reg/term@stages.base.reg.terms.{name}={name}" for name in TERMS),
        f"reg.terms.vf.model={files.dinov2}",
        f"stages.base.reg.terms.vf.model={files.dinov2}",
    ]
    register()
    choices = [text.replace("channels=16", "channels='16'") for text in given]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = OmegaConf.to_object(compose(config_name="config", overrides=choices))
    assert isinstance(cfg, Config)
    cfg.stages.probe_base = copy.deepcopy(cfg.stages.probe)
    return cfg


def typed_leaves(kind: type = Config, key: str = "") -> Iterator[str]:
    """Dotted keys of all values that the types know, optional nodes included."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        name = f"{key}.{field.name}" if key else field.name
        inside = [one for one in (hints[field.name], *get_args(hints[field.name])) if is_dataclass(one)]
        if inside:
            assert isinstance(inside[0], type)
            yield from typed_leaves(inside[0], name)
        else:
            yield name


def nodes(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, node) of every node that is there."""
    yield key, node
    for field in fields(node):
        if is_dataclass(value := getattr(node, field.name)):
            yield from nodes(value, f"{key}.{field.name}" if key else field.name)


def leaves(cfg: Any) -> dict[str, Any]:
    """Dotted key -> value of everything below a node."""
    found = {}
    for key, node in nodes(cfg):
        for field in fields(node):
            if not is_dataclass(value := getattr(node, field.name)):
                found[f"{key}.{field.name}" if key else field.name] = value
    return found


def training_stages(cfg: Config) -> list[VaeStageConfig]:
    stages = (cfg.stages.base, cfg.stages.pretrain, cfg.stages.decoder_finetune)
    return [stage for stage in stages if stage is not None]


def put(cfg: Any, key: str, value: Any) -> None:
    """Set the value or node behind a dotted key."""
    *way, last = key.split(".")
    for name in way:
        cfg = getattr(cfg, name)
    assert any(field.name == last for field in fields(cfg)), key
    setattr(cfg, last, value)


def other(value: Any) -> Any:
    """Another value of the same kind; raises for kinds that have no obvious one."""
    if isinstance(value, Enum):
        return next(member for member in type(value) if member is not value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return 1.5 * value + 0.25
    raise AssertionError(f"no other value of {value!r}: name one")


_JUDGES = (
    "ssvae.config.checks",
    "ssvae.config.reg_checks",
    "ssvae.config.ranges",
    "ssvae.config.compose",
    "ssvae.stages.plan",
)
_JUDGING = ("__repr__", "__eq__", "resolved_values", "synthetic_folder", "foreign_problems", "unsafe_here")
"""Modules and functions that look at everything: identity, rules, and the texts that record a whole config."""


def _works(frame: FrameType | None) -> bool:
    """Does the package read the value to do something with it?"""
    ours = False
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module in _JUDGES or frame.f_code.co_name in _JUDGING:
            return False
        ours = ours or module.startswith("ssvae.")
        frame = frame.f_back
    return ours


@contextmanager
def reads(cfg: Any) -> Iterator[set[str]]:
    """The dotted keys of ``cfg`` that are read inside, other than for identity, checks and records."""
    seen: set[str] = set()
    places = {id(node): key for key, node in nodes(cfg)}
    plain = object.__getattribute__

    def noting(node: Any, name: str) -> Any:
        value = plain(node, name)
        place = places.get(id(node))
        if place is not None and not name.startswith("_") and not is_dataclass(value) and _works(sys._getframe(1)):
            seen.add(f"{place}.{name}" if place else name)
        return value

    with pytest.MonkeyPatch.context() as patch:
        for kind in {type(node) for _, node in nodes(cfg)}:
            patch.setattr(kind, "__getattribute__", noting)
        yield seen
