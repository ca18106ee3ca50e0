"""What a search asks for, judged before anything is computed: its numbers, its metrics, the corners of its space.

The corners are composed and checked as cells, so that no value of the space is refused only when its trial comes.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from ssvae.config.checks import check_together
from ssvae.config.compose import CONF, Cell, group_names
from ssvae.config.problem import InputError, Problem
from ssvae.config.reg import TrainedStage
from ssvae.config.run import StageName
from ssvae.config.score import Weights
from ssvae.config.search import Better, ParameterConfig, SearchConfig
from ssvae.config.search_metrics import Side, measured_metrics, probed_metrics
from ssvae.config.tree import Config

MOST_CORNERS = 32
"""A space with more combinations of ends and choices is tried along its axes, from two of its corners."""
PROBED = (StageName.probe, StageName.evaluate, StageName.all)
MEASURED = (StageName.measure, StageName.evaluate, StageName.all)
_SIDES: dict[Side, Better] = {"up": Better.maximize, "down": Better.minimize}
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_MEANING = ("true", "false", "null", "none", "nan", "inf", "yes", "no", "on", "off")

Resolve = Callable[[tuple[str, ...]], Sequence[Cell]]


def search_problems(cells: Sequence[Cell], resolve: Resolve) -> list[Problem]:
    """All problems of the search that the cells of one command line ask for. resolve: composes and checks overrides."""
    search = cells[0].cfg.search
    assert search is not None
    if len(cells) > 1:
        axes = " ".join(sorted({text.partition("=")[0] for cell in cells for text in cell.axes}))
        remedy = (
            f"a search starts from one cell, and these are {len(cells)}: give one value, or put it into search.space"
        )
        return [Problem(axes, "swept", remedy)]
    own = [*_numbers(search), *_objectives(search, cells[0].cfg), *_parameters(search, cells[0])]
    return own or _corners(search, cells[0], resolve)


def number_kind(key: str) -> type | None:
    """``int`` or ``float`` where the config's type of ``key`` is a number, ``object`` where it is something else; None
    for a key that the types do not know."""
    hint: Any = Config
    for word in key.split("."):
        node = next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), None)
        hints = get_type_hints(node) if isinstance(node, type) else {}
        if word not in hints:
            return None
        hint = hints[word]
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kinds = [one for one in options if one is not NoneType]
    return kinds[0] if kinds in ([int], [float]) else object


def text_of(value: Any) -> str:
    """A value as Hydra's overrides write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ",".join(text_of(one) for one in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{text_of(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str):
        plain = _WORD.fullmatch(value) is not None and value.lower() not in _MEANING
        return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return repr(value)


def ends(parameter: ParameterConfig) -> list[str]:
    """The values at which a dimension is tried beforehand, as override texts."""
    if parameter.choices is not None:
        return [text_of(one) for one in parameter.choices]
    assert parameter.low is not None and parameter.high is not None
    whole = number_kind(parameter.key) is int
    return [repr(int(end)) if whole else repr(float(end)) for end in (parameter.low, parameter.high)]


def _numbers(search: SearchConfig) -> Iterator[Problem]:
    for key, value, least in (
        ("n_trials", search.n_trials, 1),
        ("workers", search.workers, 1),
        ("seed", search.seed, 0),
    ):
        if value < least:
            yield Problem(f"search.{key}", str(value), f"must be at least {least}")
    if not 0 < search.failures <= 1:
        yield Problem("search.failures", str(search.failures), "a share of trials: above 0, at most 1")
    if search.prune is not None:
        if not 0 < search.prune.keep < 1:
            remedy = "a share of trials, above 0 and below 1; search.prune=null lets all go on"
            yield Problem("search.prune.keep", str(search.prune.keep), remedy)
        if search.prune.warmup < 1:
            yield Problem("search.prune.warmup", str(search.prune.warmup), "must be at least 1")


def _objectives(search: SearchConfig, cfg: Config) -> Iterator[Problem]:
    cheap = measured_metrics(cfg) if cfg.stage in MEASURED else {}
    every = {**cheap, **(probed_metrics(cfg) if cfg.stage in PROBED else {})}
    if not search.objectives:
        yield Problem("search.objectives", "[]", "needs a metric and its direction, or two to trade off")
    names = [goal.metric for goal in search.objectives]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem("search.objectives", name, "is there twice")
    for goal in search.objectives:
        yield from _metric("search.objectives", goal.metric, goal.direction, every, f"stage={cfg.stage.value}")
    if (prune := search.prune) is None:
        return
    if cfg.stage not in PROBED:
        yield Problem(
            "search.prune", f"with stage={cfg.stage.value}", "no probe is run that could be saved: set it null"
        )
    elif prune.metric in every and prune.metric not in cheap:
        remedy = "comes from the probe, which pruning is to save; take a metric of `measure`, such as psnr_db"
        yield Problem("search.prune.metric", prune.metric, remedy)
    else:
        yield from _metric("search.prune", prune.metric, prune.direction, cheap, "measure")


def _metric(key: str, name: str, direction: Better, known: dict[str, Side], maker: str) -> Iterator[Problem]:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f": did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(known)) or 'none'}"
        yield Problem(f"{key}.metric", name, f"{maker} makes no such metric{hint}")
    elif (right := _SIDES.get(known[name])) is not None and right is not direction:
        remedy = f"{'higher' if known[name] == 'up' else 'lower'} is better: {right.value}"
        yield Problem(f"{key}.direction", f"{direction.value} of {name}", remedy)


def _parameters(search: SearchConfig, base: Cell) -> Iterator[Problem]:
    if not search.space:
        yield Problem("search.space", "[]", "needs a key with low and high, or with choices")
    keys = [parameter.key for parameter in search.space]
    given = {text.lstrip("+~").partition("=")[0] for text in base.overrides}
    groups = group_names(CONF)
    for key in sorted({key for key in keys if keys.count(key) > 1}):
        yield Problem("search.space", key, "is there twice")
    for key in dict.fromkeys(keys):
        # Below a group there are values of their own; below a node they would be overridden together with it.
        inner = [one for one in given if one == key or (key not in groups and one.startswith(f"{key}."))]
        if inner:
            yield Problem(inner[0], "given", f"is also searched: leave it out, or take {key} out of search.space")
        if key.startswith(("search", "hydra", "launch", "runtime", "track", "sweep")):
            yield Problem("search.space", key, "changes no number: search what changes a cell's results")
    for parameter in search.space:
        yield from _one(parameter)


def _one(parameter: ParameterConfig) -> Iterator[Problem]:
    """One dimension for itself."""
    key, low, high, step = parameter.key, parameter.low, parameter.high, parameter.step
    where = f"search.space {key}"
    if parameter.choices is not None:
        if low is not None or high is not None or step is not None or parameter.log:
            yield Problem(where, "choices and a range", "give low and high, or choices")
        texts = [text_of(one) for one in parameter.choices]
        if len(set(texts)) < 2:
            yield Problem(where, str(texts), f"needs two different choices; one value is given as {key}=VALUE")
        elif len(set(texts)) < len(texts):
            yield Problem(where, str(texts), "has a choice twice")
        return
    if low is None or high is None:
        yield Problem(where, f"low {low}, high {high}", "needs both, or choices")
        return
    if not all(math.isfinite(end) for end in (low, high)) or low >= high:
        yield Problem(where, f"low {low:g}, high {high:g}", "needs finite ends, low below high")
    elif parameter.log and low <= 0:
        yield Problem(where, f"low {low:g} with log", "a logarithmic range starts above 0")
    if step is not None and (parameter.log or not 0 < step <= high - low):
        yield Problem(where, f"step {step:g}", "must be above 0, fit into the range, and stand without log")
    kind = number_kind(key)
    if kind is object or key.partition("@")[0] in group_names(CONF):
        yield Problem(where, f"low {low:g}, high {high:g}", "is no number in the config: give choices")
    elif kind is int and any(end is not None and end != int(end) for end in (low, high, step)):
        yield Problem(where, f"low {low:g}, high {high:g}", "is a whole number in the config")


def grids(search: SearchConfig) -> list[list[tuple[int, ...]]]:
    """Grids of points that are tried beforehand, as places in :func:`ends` of each dimension, the first one slowest.

    One grid of all combinations up to :data:`MOST_CORNERS`; above, a line along every axis from the first corner and
    from the last one.
    """
    counts = [len(ends(parameter)) for parameter in search.space]
    if math.prod(counts) <= MOST_CORNERS:
        return [list(itertools.product(*(range(count) for count in counts)))]
    corners = (tuple(0 for _ in counts), tuple(count - 1 for count in counts))
    return [
        [(*corner[:place], value, *corner[place + 1 :]) for value in range(count)]
        for corner in corners
        for place, count in enumerate(counts)
    ]


def _corners(search: SearchConfig, base: Cell, resolve: Resolve) -> list[Problem]:
    """Problems of the corners as cells, and dimensions that change nothing."""
    values = [ends(parameter) for parameter in search.space]
    found: dict[Problem, None] = {}
    made: dict[tuple[int, ...], Config] = {}
    for points in grids(search):
        taken = [sorted({point[place] for point in points}) for place in range(len(values))]
        lists = [",".join(texts[k] for k in places) for texts, places in zip(values, taken, strict=True)]
        axes = [f"{one.key}={texts}" for one, texts in zip(search.space, lists, strict=True)]
        try:
            cells = resolve((*base.overrides, "search=null", *axes))
        except InputError as error:
            found.update(dict.fromkeys(problem for problem, _ in error.problems))
        else:
            made.update(zip(points, (cell.cfg for cell in cells), strict=True))
    if found:
        return list(found)
    return check_together(list(made.values())) or list(_along(search, made))


def _along(search: SearchConfig, made: Mapping[tuple[int, ...], Config]) -> Iterator[Problem]:
    """Dimensions along which no two corners differ in any work, or along which results are measured differently."""
    for place, parameter in enumerate(search.space):
        lines: dict[tuple[int, ...], list[Config]] = {}
        for point, cfg in made.items():
            lines.setdefault((*point[:place], *point[place + 1 :]), []).append(cfg)
        if not any(_differ(cells, lambda cfg: (cfg.vae, cfg.stages, cfg.seed)) for cells in lines.values()):
            remedy = "changes nothing in these cells: is the part that it sets there (reg=...)?"
            yield Problem("search.space", parameter.key, remedy)
        elif any(_differ(cells, _ruler) for cells in lines.values()):
            remedy = "changes how trials are measured, so that their results do not compare: take it out of the space"
            yield Problem("search.space", parameter.key, remedy)


def _differ(cells: Sequence[Config], part: Callable[[Config], Any]) -> bool:
    return len({repr(part(cfg)) for cfg in cells}) > 1


def _ruler(cfg: Config) -> Any:
    """What the objectives are measured with. Which weights of a cell are measured is the cell's own affair."""
    measure, probe = cfg.stages.measure, cfg.stages.probe
    score = replace(measure.score, trained=TrainedStage.pretrain, weights=Weights.raw)
    clips = [(stage.data, {**vars(stage.resolution), "lmr": None}) for stage in (measure, probe)]
    return (
        score,
        clips,
        measure.networks,
        probe.probe.sample,
        probe.probe.validation_draws,
        probe.networks,
        probe.reward,
    )
