"""Small searches for tests: a config, a study, and a runner and trials that compute nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssvae.config.search import (
    Better,
    ObjectiveGoalConfig,
    ParameterConfig,
    PruneConfig,
    SearchConfig,
)
from ssvae.sweep.search.owner import Owner
from ssvae.sweep.search.runner import Order, Outcome
from ssvae.sweep.search.study import SharedStudy

IDENTITY = {"search.space": "strength.lcr", "base cell": "0123"}


def config(**changes: Any) -> SearchConfig:
    """Two dimensions, one objective, six trials."""
    plain = SearchConfig(
        n_trials=6,
        objectives=[ObjectiveGoalConfig("psnr_db", Better.maximize)],
        space=[
            ParameterConfig("strength.lcr", low=0.01, high=1.0, log=True),
            ParameterConfig("reg.terms.lmr.block", choices=[[1, 1, 1], [2, 2, 2]]),
        ],
    )
    return replace(plain, **changes)


def pruning(**changes: Any) -> PruneConfig:
    return replace(PruneConfig("psnr_db", Better.maximize, keep=0.5, warmup=2), **changes)


@contextmanager
def opened(folder: Path, search: SearchConfig, identity: Mapping[str, str] = IDENTITY) -> Iterator[SharedStudy]:
    """A study as a driver opens it."""
    with Owner(folder / "drivers") as owner:
        yield SharedStudy(folder, "name", search, identity, owner)


@dataclass
class FakeTrial:
    number: int
    params: Mapping[str, Any]
    finished: bool = False

    @property
    def planned(self) -> FakeTrial:
        return self

    @property
    def cell(self) -> FakeTrial:
        return self

    cell_id = "cell"
    overrides = ("a=1",)
    plans: Mapping[str, Any] = field(default_factory=lambda: {"pretrain": None, "measure": None, "probe": None})

    @property
    def cheap(self) -> dict[str, None]:
        return {"pretrain": None, "measure": None}


class FakeTrials:
    """Metrics are what ``measure`` makes of the parameters; closed: number -> (state, reason). finished: are all
    stages of every trial there beforehand?"""

    finished = False

    def __init__(self, measure: Callable[[Mapping[str, Any]], Mapping[str, float | None]]) -> None:
        self.measure = measure
        self.closed: dict[int, tuple[str, str | None]] = {}
        self.ordered: list[tuple[int, tuple[str, ...]]] = []

    def open(self, number: int, params: Mapping[str, Any]) -> FakeTrial:
        return FakeTrial(number, params, self.finished)

    def order(self, trial: FakeTrial, stages: Sequence[str]) -> Any:
        self.ordered.append((trial.number, tuple(stages)))
        return Order(str(trial.number), trial, Path("record"))  # type: ignore[arg-type]  # nothing is computed of it

    def values(self, trial: FakeTrial, metrics: Sequence[str]) -> dict[str, float | None]:
        found = self.measure(trial.params)
        return {name: found[name] for name in metrics}

    def close(self, trial: FakeTrial, status: str, reason: str | None, state: str, values: Any) -> None:
        self.closed[trial.number] = (state, reason)


class FakeRunner:
    """Ends orders as ``end`` says of those in flight: a list of outcomes, empty while all go on."""

    def __init__(self, capacity: int, end: Callable[[Sequence[str]], Sequence[Outcome]]) -> None:
        self._capacity, self._end = capacity, end
        self.flying: list[str] = []
        self.seen: list[int] = []
        self.stopped = False

    @property
    def capacity(self) -> int:
        return self._capacity

    def start(self, order: Order) -> None:
        assert len(self.flying) < self._capacity
        self.flying.append(order.key)

    def poll(self) -> Sequence[Outcome]:
        self.seen.append(len(self.flying))
        outcomes = self._end(list(self.flying))
        for outcome in outcomes:
            self.flying.remove(outcome.key)
        return outcomes

    def stop(self) -> None:
        self.stopped = True
        self.flying.clear()


def finish_first(flying: Sequence[str]) -> Sequence[Outcome]:
    return [Outcome(flying[0], "finished")]


def finish_last(flying: Sequence[str]) -> Sequence[Outcome]:
    return [Outcome(flying[-1], "finished")]
