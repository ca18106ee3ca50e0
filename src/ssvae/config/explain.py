"""Hydra's and OmegaConf's complaints about one override, in words a user can act on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ssvae.config.problem import Problem

_FIXED = {
    "hydra.mode": "is fixed: one cell is a grid of one; leave it out",
    "hydra/sweeper": "is fixed: grids go through this project's sweeper; leave it out",
    "hydra/launcher": "one of submitit_local and submitit_slurm; or leave it out: launch=local, launch=slurm",
}
_ALLOWED = ("basic", "submitit_local", "submitit_slurm")


def readable(overrides: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """The overrides that can be used, and one problem for each that cannot be parsed or may not be given."""
    good: list[str] = []
    problems: list[Problem] = []
    for text in overrides:
        key, _, value = text.lstrip("+~").partition("=")
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            problems.append(Problem(key, value or "(nothing)", f"cannot be parsed as KEY=VALUE: {first_line(error)}"))
            continue
        if text.startswith("~") and "@" not in key:
            problems.append(Problem(text, "(deleted)", "nothing can be deleted from the config; give another value"))
        elif key in _FIXED and value not in (_ALLOWED if key == "hydra/launcher" else ("basic",)):
            problems.append(Problem(key, value, _FIXED[key]))
        elif key == "sweep" and override.is_sweep_override():
            problems.append(Problem(key, value, "one sweep file at a time: +sweep=NAME"))
        else:
            good.append(text)
    return good, problems


def explain(text: str, error: Exception, known: Sequence[str], conf: Path) -> Problem:
    """The problem behind ``error``, which Hydra raised for the override ``text``. known: all keys and groups."""
    key, _, value = text.lstrip("+~").partition("=")
    message = str(error)
    if isinstance(error, AssertionError):
        return Problem(key, value, f"{key.rpartition('.')[0]} is null in this cell, so it has no such value")
    if "Unsupported item value in defaults" in message:
        return next(integer_choices(conf), Problem(key, value, message))
    if "To append to your default list" in message:
        return Problem(key, value, f"is added, not overridden: +{key}={value}")
    if "group override must be" in message:
        return Problem(key, value, _no_such_choice(key, value, conf))
    if found := re.search(r"Could not find '([^']+)/([^'/]+)'", message):
        group, choice = found.groups()
        where = "" if group == key.partition("@")[0] else f"its file asks for {group}={choice}: "
        return Problem(key, value.strip("'\""), where + _no_such_choice(group, choice, conf))
    if "not in" in message or "Could not override" in message or "Key '" in message:
        full = re.search(r"full_key: (\S+)", f"{message}\n{error.__cause__}")
        in_file = full is not None and not key.startswith(full.group(1))
        wrong = full.group(1) if full is not None and in_file else key
        close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
        hint = f": did you mean {close[0]}?" if close else "; `python run.py --cfg job` lists all keys"
        return Problem(key, value, (f"its file has the unknown key {wrong}" if in_file else "unknown key") + hint)
    return Problem(key, value, first_line(cause if (cause := error.__cause__) is not None else error))


def shared_node(text: str, raw: DictConfig) -> Problem | None:
    """The problem of an override below a node that only points to a shared one: it would change that for all stages."""
    key, _, value = text.lstrip("+~").partition("=")
    words = key.split(".")
    node: Any = raw
    for place, word in enumerate(words[:-1], start=1):
        # Not ``in``, which follows pointers.
        if not isinstance(node, DictConfig) or word not in list(node.keys()):
            return None
        if OmegaConf.is_interpolation(node, word):
            plain = OmegaConf.to_container(node, resolve=False)
            assert isinstance(plain, dict)
            pointer = plain[word]
            group, own, rest = pointer.strip("${}"), ".".join(words[:place]), ".".join(words[place:])
            remedy = f"{own} points to {group}: set {group}.{rest}, or give it its own first: +{group}@{own}=CHOICE"
            return Problem(key, value, remedy)
        node = None if OmegaConf.is_missing(node, word) else node.get(word)
    return None


def _no_such_choice(group: str, choice: str, conf: Path) -> str:
    options = sorted(path.stem for path in (conf / group.partition("@")[0]).glob("*.yaml"))
    close = difflib.get_close_matches(choice, options, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"no such choice: one of {', '.join(options)}{hint}"


def integer_choices(conf: Path) -> Iterator[Problem]:
    """Choices that a file gives as a number (``override /channels: 48``), which Hydra does not take."""
    folders = [conf, *(path for path in sorted(conf.rglob("*")) if path.is_dir())]
    for path in (path for folder in folders for path in sorted(folder.glob("*.yaml"))):
        for entry in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("defaults") or ():
            for key, value in entry.items() if isinstance(entry, dict) else ():
                if isinstance(value, int | float):
                    where = f"{path.relative_to(conf)}: {key}"
                    yield Problem(where, str(value), f'a choice is a word, so quote it: {key}: "{value}"')


def first_line(error: BaseException) -> str:
    """The message without Hydra's and OmegaConf's trailing details."""
    return str(error).strip().partition("\n")[0]
