"""From a command line to validated cells: choices that look like integers, grid expansion, composition, all problems.

Hydra refuses group choices that parse as integers (``channels=48``): they are quoted here, on the command line and
in sweep files alike.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssvae.config.checks import check, check_together
from ssvae.config.explain import explain, first_line, readable, shared_node
from ssvae.config.problem import InputError, Problem
from ssvae.config.strays import remove_strays
from ssvae.config.tree import Config, register
from ssvae.core.paths import PROJECT, looks_like_path

# OmegaConf answers an override below a null node with an AssertionError; Hydra a choice that is no word, on the
# command line or in a file's defaults, with a ValueError.
COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, AssertionError, ValueError)

CONF = PROJECT / "conf"
_EVERYWHERE = "the only cell"
_NUMBER = re.compile(r"(?<![\w.'\"-])(\d+)(?![\w.'\"])")


@dataclass(frozen=True)
class Cell:
    """One cell of a grid. overrides: as composed; axes: the swept ones; cfg: resolved and checked."""

    overrides: tuple[str, ...]
    axes: tuple[str, ...]
    cfg: Config


def group_names(conf: Path) -> set[str]:
    """Names of the config groups under ``conf``, such as ``channels`` or ``reg/term``."""
    return {str(path.relative_to(conf)) for path in conf.rglob("*") if path.is_dir()}


def quote_choices(overrides: Iterable[str], groups: set[str]) -> list[str]:
    """Quote integer-looking choices of config groups: ``channels=48,128`` -> ``channels='48','128'``."""
    result = []
    for override in overrides:
        key, sign, value = override.partition("=")
        if sign and key.lstrip("+").partition("@")[0] in groups:
            override = key + "=" + _NUMBER.sub(r"'\1'", value)
        result.append(override)
    return result


def expand(overrides: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """Cartesian product of the sweep overrides, the first axis slowest: [(all overrides, swept ones), ...].

    Raises HydraException for an override that does not parse.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    choices: list[list[str]] = []
    swept: list[bool] = []
    for text, override in zip(overrides, parsed, strict=True):
        if override.is_sweep_override():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([text])
        swept.append(override.is_sweep_override())
    return [
        (list(cell), [text for text, is_axis in zip(cell, swept, strict=True) if is_axis])
        for cell in itertools.product(*choices)
    ]


@lru_cache(maxsize=4)
def resolve(overrides: tuple[str, ...]) -> tuple[Cell, ...]:
    """Expand, compose and check every cell of a command line.

    Raises :class:`InputError` with all problems of all cells. Nothing is computed or written.
    """
    register()
    groups = group_names(CONF)
    quoted = quote_choices(overrides, groups)
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return tuple(_resolve_grid(quoted, _Composer(groups)))


def load_cell(path: Path) -> Config:
    """A resolved config as a sweep writes it for each of its cells (``cells/<cell_id>.yaml``).

    Raises ValueError for a file that is none, and InputError with all problems of its values.
    """
    register()
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
        cfg = OmegaConf.to_object(merged)
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path}: is no resolved config of a cell ({first_line(error)})") from error
    assert isinstance(cfg, Config)
    if problems := check(cfg):
        raise InputError([(problem, [str(path)]) for problem in problems], 1)
    return cfg


def _file_axes(overrides: Sequence[str]) -> list[str]:
    """Axes that a file gives in ``hydra.sweeper.params`` and the command line does not override."""
    files = tuple(text for text in overrides if text.lstrip("+").startswith(("sweep=", "hydra.")))
    given = {text.lstrip("+").partition("=")[0] for text in overrides}
    axes = [f"{key}={value}" for key, value in _sweeper_params(files, CONF) if key.lstrip("+") not in given]
    return quote_choices(axes, group_names(CONF))


@lru_cache(maxsize=16)
def _sweeper_params(files: tuple[str, ...], conf: Path) -> tuple[tuple[str, str], ...]:
    """What ``hydra.sweeper.params`` holds with these overrides; a search asks again for every trial."""
    assert conf == CONF, "Hydra is opened there"
    if not files:
        return ()
    try:
        cfg = compose(config_name="config", overrides=list(files), return_hydra_config=True)
    except COMPOSE_ERRORS:
        return ()  # named with its remedy when the cells are composed
    params = OmegaConf.to_container(cfg.hydra.sweeper.params)
    assert isinstance(params, dict)
    return tuple((str(key), str(value)) for key, value in params.items())


class _Composer:
    """Hydra's composition, with the group choices of a cell composed once and its values applied to a copy."""

    def __init__(self, groups: set[str]) -> None:
        self.groups = sorted(groups)
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def is_choice(self, text: str) -> bool:
        key = text.partition("=")[0].lstrip("+~").partition("@")[0]
        return key in self.groups or key.startswith(("hydra.", "hydra/")) or text.startswith("~")

    def choose(self, choices: Sequence[str]) -> DictConfig:
        """Compose group choices; raises one of COMPOSE_ERRORS."""
        key = tuple(choices)
        if key not in self._composed:
            self._composed[key] = compose(config_name="config", overrides=list(choices))
        return copy.deepcopy(self._composed[key])

    @staticmethod
    def apply(cfg: DictConfig, text: str) -> None:
        """Apply one value override in place; raises one of COMPOSE_ERRORS."""
        override = OverridesParser.create().parse_overrides([text])
        ConfigLoaderImpl._apply_overrides_to_config(override, cfg)


def _resolve_grid(overrides: Sequence[str], composer: _Composer) -> list[Cell]:
    good, unusable = readable(overrides)
    axes_of_files, in_files = readable(_file_axes(good))
    grid = expand([*axes_of_files, *good])
    cells: list[Cell] = []
    found: dict[Problem, list[str]] = {problem: [_EVERYWHERE] * len(grid) for problem in [*unusable, *in_files]}
    for texts, axes in grid:
        cfg, problems = _resolve_cell(texts, axes, composer)
        if cfg is not None:
            problems += check(cfg)
            cells.append(Cell(tuple(texts), tuple(axes), cfg))
        for problem in dict.fromkeys(problems):
            found.setdefault(problem, []).append(" ".join(axes) or _EVERYWHERE)
    for problem in check_together([cell.cfg for cell in cells]):
        found[problem] = [_EVERYWHERE] * len(grid)
    if found:
        raise InputError(list(found.items()), len(grid))
    return cells


def finished_vae(texts: Sequence[str], conf: Path) -> list[str]:
    """Overrides with ``vae=PATH`` spelt out: a choice that is no file of the group, and looks like a path or is one."""
    found: list[str] = []
    for text in texts:
        key, _, value = text.partition("=")
        path = value.strip("'\"")
        a_choice = (conf / "vae" / f"{path}.yaml").is_file()
        if key == "vae" and not a_choice and (looks_like_path(path) or Path(path).exists()):
            found += ["vae=weights", f"vae.weights={value}", f"vae.name={plain_name(path)}"]
        else:
            found.append(text)
    return found


def plain_name(path: str) -> str:
    """What a row calls a VAE that was given by its path: the file's name without ending, or the folder's."""
    given = Path(path)
    name = given.parent.name if given.name in ("vae", "vae_ema") else given.name.removesuffix(given.suffix)
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name) or "weights"


def _resolve_cell(texts: list[str], swept: Sequence[str], composer: _Composer) -> tuple[Config | None, list[Problem]]:
    """Compose one cell. Overrides that fail are named one by one, and the rest is still checked."""
    raw, problems = _compose(finished_vae(texts, CONF), composer)
    if raw is None:
        return None, problems
    problems += remove_strays(raw)
    try:
        missing = sorted(OmegaConf.missing_keys(raw))
        cfg = None if missing else OmegaConf.to_object(raw)
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", None) or "config")
        return None, [*problems, Problem(key, "?", first_line(error))]
    if missing:
        remedy = "no value: set it, or the whole node that it belongs to"
        return None, [*problems, *(Problem(key, "???", remedy) for key in missing)]
    assert isinstance(cfg, Config)
    if cfg.vae.weights is not None and any(text.startswith("channels=") for text in swept):
        remedy = f"vae={cfg.vae.name} brings its own channels: sweep them only over a VAE that is trained here"
        problems.append(Problem("channels", "swept", remedy))
    return cfg, problems


def _compose(texts: list[str], composer: _Composer) -> tuple[DictConfig | None, list[Problem]]:
    problems: list[Problem] = []
    choices = [text for text in texts if composer.is_choice(text)]
    try:
        raw = composer.choose(choices)
    except COMPOSE_ERRORS:
        good: list[str] = []
        try:
            raw = composer.choose(good)
        except COMPOSE_ERRORS as error:
            return None, [Problem("conf", "config.yaml", first_line(error))]
        for text in choices:
            try:
                raw = composer.choose([*good, text])
            except COMPOSE_ERRORS as error:
                problems.append(explain(text, error, _known_keys(raw, composer), CONF))
            else:
                good.append(text)
    for text in texts:
        if composer.is_choice(text):
            continue
        if (problem := shared_node(text, raw)) is not None:
            problems.append(problem)
            continue
        try:
            composer.apply(raw, text)
        except COMPOSE_ERRORS as error:
            problems.append(explain(text, error, _known_keys(raw, composer), CONF))
    return raw, problems


def _known_keys(raw: DictConfig, composer: _Composer) -> list[str]:
    """Groups and keys that a typing mistake may have meant."""
    return [*composer.groups, *_flat_keys(OmegaConf.to_container(raw, resolve=False))]


def _flat_keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    keys: list[str] = []
    for key, value in node.items():
        keys += [f"{prefix}{key}", *_flat_keys(value, f"{prefix}{key}.")]
    return keys
