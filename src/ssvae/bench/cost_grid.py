"""The training stages of a grid, each once, from the command line alone: no data and no weights are read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssvae.config.checks import place, published_problems
from ssvae.config.compose import Cell, resolve
from ssvae.config.problem import InputError, Problem
from ssvae.config.score import NetworksConfig
from ssvae.config.tree import Config, ProbeStageConfig, VaeStageConfig
from ssvae.core.identity import fingerprint
from ssvae.core.shapes import latent_grid
from ssvae.models.load import RELEASES
from ssvae.models.statistics import read_statistics
from ssvae.stages.finished import GridRule, looks_like_path, shape_of
from ssvae.stages.plan import COMPUTED, plain, plan_cell

PROBES = {"dit_base": "probe_base", "dit": "probe"}
"""Stages that train a diffusion transformer, and where their settings are."""
TRAINED = ("base", "pretrain", "decoder_finetune", *PROBES)
"""Stages with a training loop, in the order in which they run."""

_SOME_FILE = "'" + str(Path(__file__).resolve()).replace("'", r"\'") + "'"
TO_BE_GIVEN = "{to be given}"
"""Stands in for a path that is null and must not be. Braces: what they name is judged when it is opened."""
ELSEWHERE = "{somewhere else}"
_STAND_INS = {
    "data.path": f"'{ELSEWHERE}'",
    "data.image_path": f"'{ELSEWHERE}'",
    "lpips.vgg": _SOME_FILE,
    "lpips.heads": _SOME_FILE,
    "init": "null",
    "networks.i3d": _SOME_FILE,
    "networks.lpips_vgg": _SOME_FILE,
    "networks.lpips_alex": _SOME_FILE,
    "sample.prompts": _SOME_FILE,
    "text.model": f"'{ELSEWHERE}'",
}
"""By the last part of a key: what an estimate puts in place of a path that is missing or lies on another machine."""
_RELEASED_RATIOS = (4, 16)
"""Temporal and spatial compression of the released SSVAE (arXiv 2512.05394)."""


@dataclass(frozen=True)
class GridStage:
    """A stage of one or more cells. cfg: of the first of them; cells: places of all of them in the grid; regs: names
    of what acts on the VAE there."""

    name: str
    cfg: Config
    cells: tuple[int, ...]
    regs: tuple[str, ...]


def resolve_without_paths(overrides: Sequence[str]) -> tuple[tuple[Cell, ...], tuple[str, ...]]:
    """The cells of a command line, and the keys of the paths that were not there.

    Paths of data and of weights change no cost, so they need not be given. Finished VAEs get their number of channels.
    Raises InputError with all other problems.
    """
    stand_ins: dict[str, str] = {}
    while True:
        try:
            cells = resolve((*overrides, *(f"{key}={value}" for key, value in stand_ins.items())))
            break
        except InputError as error:
            found = _absent_paths([problem for problem, _ in error.problems])
            new = {key: value for key, value in found.items() if key not in stand_ins}
            if not new:
                raise
            stand_ins.update(new)
    problems: dict[Problem, list[str]] = {}
    for cell in cells:
        for problem in _finished_problems(cell.cfg):
            problems.setdefault(problem, []).append(" ".join(cell.axes) or "the only cell")
    if problems:
        raise InputError(list(problems.items()), len(cells))
    return cells, tuple(stand_ins)


def finished_shape(weights: str) -> tuple[int, GridRule]:
    """Latent channels and grid of a finished VAE; of a published name without network or weights.

    Raises ValueError for a VAE that is not there.
    """
    release = None if Path(weights).expanduser().exists() else RELEASES.get(weights)
    if release is None:
        return shape_of(weights)
    channels = len(read_statistics(release.statistics).mean)
    return channels, lambda frames, height, width: latent_grid(frames, height, width, *_RELEASED_RATIOS)


def _finished_problems(cfg: Config) -> list[Problem]:
    """What of the stages that are counted does not fit a finished VAE, whose channels ``cfg`` has afterwards."""
    weights = cfg.vae.weights
    if weights is None:
        return []
    if looks_like_path(weights) and not Path(weights).expanduser().exists():
        return [Problem("vae", weights, "no such file or folder: its channels and compression are not known")]
    try:
        cfg.vae.channels, grid_of = finished_shape(weights)
    except ValueError as error:
        return [Problem("vae", weights, str(error).removeprefix(f"{weights}: "))]
    score = f"{place(cfg, 'measure', 'score')}."
    return [problem for problem in published_problems(cfg, grid_of) if not problem.key.startswith(score)]


def _absent_paths(problems: Sequence[Problem]) -> dict[str, str]:
    """Keys of paths, and what stands in for each; not those that have a second problem, or one in each of two cells."""
    keys = [problem.key for problem in problems]
    found: dict[str, str] = {}
    for problem in problems:
        for last, value in _STAND_INS.items():
            if keys.count(problem.key) == 1 and f".{problem.key}".endswith(f".{last}"):
                missing = last in ("data.path", "text.model") and problem.value == "null"
                found[problem.key] = f"'{TO_BE_GIVEN}'" if missing else value
    return found


def grid_stages(cells: Sequence[Config]) -> list[GridStage]:
    """The stages with a training loop that these cells compute, shared ones once, in the order in which they run.

    Stages are shared as the runs themselves would share them; a data set counts as its path.
    """
    users: dict[tuple[str, str], list[int]] = {}
    for number, cfg in enumerate(cells):
        for name, key in _keys(cfg).items():
            users.setdefault((name, key), []).append(number)
    order = sorted(users, key=lambda stage: TRAINED.index(stage[0]))
    found = []
    for name, key in order:
        places = users[name, key]
        regs = dict.fromkeys(_reg_name(name, cells[number]) for number in places)
        found.append(GridStage(name, cells[places[0]], tuple(places), tuple(regs)))
    return found


def node_of(cfg: Config, stage: str) -> Any:
    """The settings of a training stage, None where the cell has no such stage."""
    return getattr(cfg.stages, PROBES.get(stage, stage))


def _reg_name(stage: str, cfg: Config) -> str:
    if stage in PROBES and cfg.vae.weights is not None:
        return cfg.vae.name
    node = cfg.stages.pretrain if stage in PROBES else getattr(cfg.stages, stage)
    return str(node.reg.name)


def _keys(cfg: Config) -> dict[str, str]:
    """Key of each stage that is computed: its identity where no file is read, with the names of the files."""
    unread = copy.deepcopy(cfg)
    names: dict[str, list[Any]] = {}
    finished, unread.vae.weights = unread.vae.weights, None
    for stage in TRAINED:
        node = node_of(unread, stage)
        if node is not None:
            names[stage] = _take_probe_files(node) if stage in PROBES else _take_files(node)
    _take_networks(unread.stages.measure.networks)
    plans = plan_cell(unread, Path(), lambda data: fingerprint(plain(data)))
    keys: dict[str, str] = {}
    for name, plan in plans.items():
        keys[name] = fingerprint([plan.id, names.get(name, []), *(keys[parent] for parent in plan.parents)])
    computed = [name for name in TRAINED if name in COMPUTED[cfg.stage] and name in plans]
    if finished is not None:
        return {name: fingerprint([finished, keys[name]]) for name in computed if name in PROBES}
    return {name: keys[name] for name in computed}


def _take_files(stage: VaeStageConfig) -> list[Any]:
    """The names of the weight files of ``stage``, which has none of them afterwards."""
    lpips, vf = stage.objective.lpips, stage.reg.terms.vf
    found = [stage.init, lpips.vgg, lpips.heads, None if vf is None else vf.model]
    stage.init = lpips.vgg = lpips.heads = None
    if vf is not None:
        vf.model = None
    return found


def _take_probe_files(stage: ProbeStageConfig) -> list[Any]:
    """As :func:`_take_files`, of what a probe is conditioned on; what only scores its samples trains no other one."""
    found: list[Any] = [stage.probe.text.model]
    stage.probe.text.model = stage.probe.sample.prompts = stage.reward = None
    _take_networks(stage.networks)
    return found


def _take_networks(networks: NetworksConfig) -> None:
    networks.dinov2 = networks.i3d = networks.lpips_vgg = networks.lpips_alex = None
