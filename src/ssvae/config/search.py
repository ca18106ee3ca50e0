"""Node ``search``: a space of config values, what is wanted of a point in it, and how many points are tried.

Null in a plain grid; the files of ``sweeps/`` that search fill it. Nothing here is part of a stage's identity: a trial
is a cell like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from omegaconf import MISSING


class SamplerName(Enum):
    """Tree-structured Parzen estimator; independent draws; NSGA-II. All three take several objectives."""

    tpe = "tpe"
    random = "random"
    nsga2 = "nsga2"


class StorageName(Enum):
    """Where the study lies, in ``runs/sweeps/NAME/``. ``journal`` for file systems on which SQLite is not safe."""

    sqlite = "sqlite"
    journal = "journal"


class Better(Enum):
    maximize = "maximize"
    minimize = "minimize"


@dataclass
class ObjectiveGoalConfig:
    metric: str = MISSING  # as in metrics.json and table.csv
    direction: Better = MISSING


@dataclass
class ParameterConfig:
    """One dimension: numbers from ``low`` to ``high``, both included, or ``choices`` of any kind of value.

    Whole numbers where the config's own type is one.
    """

    key: str = MISSING  # as on the command line: strength.lcr, reg.terms.lcr.window, channels
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: list[Any] | None = None


@dataclass
class PruneConfig:
    """A trial goes on to the probe only if ``metric``, which ``measure`` makes, is among the best ``keep`` so far."""

    metric: str = MISSING
    direction: Better = MISSING
    keep: float = MISSING  # share of the trials that have the metric, this one included
    warmup: int = MISSING  # so many trials go on in any case


@dataclass
class SearchConfig:
    n_trials: int = MISSING  # in all, however often the search is stopped and resumed
    objectives: list[ObjectiveGoalConfig] = MISSING
    space: list[ParameterConfig] = MISSING
    seed: int = 0
    sampler: SamplerName = SamplerName.tpe
    storage: StorageName = StorageName.sqlite
    prune: PruneConfig | None = None
    workers: int = 1  # trials at once, each a process of its own; 1: in this process
    failures: float = 0.5  # share of failed trials above which the search stops
