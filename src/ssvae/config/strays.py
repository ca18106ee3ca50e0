"""Keys that no typed field knows: Hydra's own check lets ``+train.lrr=1`` pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf, open_dict

from ssvae.config.problem import Problem
from ssvae.config.tree import Config


def remove_strays(raw: DictConfig) -> list[Problem]:
    """Take out of ``raw``, and name, the keys that its type does not have."""
    plain = OmegaConf.to_container(raw, resolve=False)
    assert isinstance(plain, dict)
    problems = []
    for key, options in _stray_keys(plain, Config, ""):
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(raw, parent) if parent else raw
        with open_dict(node):
            value = node.pop(name)
        problems.append(Problem(key, str(value), f"unknown key: the type has {', '.join(sorted(options))}"))
    return problems


def _stray_keys(plain: dict[Any, Any], schema: type, prefix: str) -> Iterable[tuple[str, set[str]]]:
    known = {field.name: _dataclass_of(schema, field.name) for field in fields(schema)}
    for key, value in plain.items():
        if key not in known:
            yield f"{prefix}{key}", set(known)
        elif isinstance(value, dict) and (inner := known[key]) is not None:
            yield from _stray_keys(value, inner, f"{prefix}{key}.")


@cache
def _dataclass_of(schema: type, name: str) -> type | None:
    """The dataclass of a field, seen through Optional; None for plain values."""
    hint = get_type_hints(schema)[name]
    for candidate in (hint, *get_args(hint)):
        if is_dataclass(candidate) and isinstance(candidate, type):
            return candidate
    return None
