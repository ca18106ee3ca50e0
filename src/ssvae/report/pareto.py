"""A search's trials, and those of them that no other trial beats in everything.

Read from ``runs/sweeps/NAME/trials.json``; nothing here knows what suggested them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ssvae.core.files import read_json
from ssvae.report.columns import rounded

Direction = Literal["maximize", "minimize"]
SHOWN = 5
"""Commands of the best trials on the terminal."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One objective."""

    metric: str
    direction: Direction

    def cost(self, value: float) -> float:
        """The value as something to make small."""
        return value if self.direction == "minimize" else -value


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial. state: complete, pruned, failed, running or waiting. values: one an objective, None before it is
    complete. cheap: the value that it was pruned by, or could have been. command: makes its cell again."""

    number: int
    state: str
    params: Mapping[str, Any]
    values: tuple[float, ...] | None
    cell_id: str | None
    cheap: float | None
    reason: str | None
    seconds: float | None
    command: str | None


@dataclass(frozen=True)
class Search:
    """A search as it stands. n_trials: wanted in all. keys: of the space. prune: the rule, None without."""

    sweep: str
    command: str
    n_trials: int
    goals: tuple[Goal, ...]
    prune: Mapping[str, Any] | None
    keys: tuple[str, ...]
    trials: tuple[TrialRow, ...]

    @property
    def complete(self) -> list[TrialRow]:
        """Trials that have all objectives."""
        return [trial for trial in self.trials if trial.state == "complete"]

    @property
    def best(self) -> list[TrialRow]:
        """The Pareto front, along the first objective from its best end; with one objective its best value."""
        found = front(self.complete, self.goals)
        return sorted(found, key=lambda trial: [*_costs(trial, self.goals), trial.number])

    def best_lines(self) -> list[str]:
        """For the terminal: how to make the best trials again."""
        best = [trial for trial in self.best if trial.command is not None]
        lines = [f"trial {trial.number} again: {trial.command}" for trial in best[:SHOWN]]
        if len(best) > SHOWN:
            lines.append(f"{len(best) - SHOWN} more are in results/{self.sweep}/trials.md")
        return lines


def read_search(root: Path, sweep: str) -> Search:
    """The search behind ``sweep``. Raises ValueError where there was none, or its file is damaged."""
    path = search_file(root, sweep)
    if not path.exists():
        raise ValueError(f"sweep {sweep!r} is no search: {path} is not there")
    try:
        found = read_json(path)
        goals = tuple(Goal(one["metric"], one["direction"]) for one in found["objectives"])
        trials = tuple(_trial(row) for row in found["trials"])
        return Search(
            found["sweep"],
            found["command"],
            int(found["n_trials"]),
            goals,
            found["prune"],
            tuple(found["keys"]),
            trials,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): run the search's command again, which writes it") from error


def search_file(root: Path, sweep: str) -> Path:
    """Where a search keeps its trials for reports."""
    return root / "runs" / "sweeps" / sweep / "trials.json"


def front(trials: Sequence[TrialRow], goals: Sequence[Goal]) -> list[TrialRow]:
    """Trials that no other one is at least as good as in every objective, and better in one. Equal ones stay."""
    costs = [_costs(trial, goals) for trial in trials]

    def beaten(mine: list[float]) -> bool:
        return any(other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in costs)

    return [trial for trial, mine in zip(trials, costs, strict=True) if not beaten(mine)]


def shown(value: Any) -> str:
    """A parameter or value for people: numbers to four digits."""
    if isinstance(value, float) and not isinstance(value, bool):
        return rounded(value) if math.isfinite(value) else str(value)
    return str(value)


def _costs(trial: TrialRow, goals: Sequence[Goal]) -> list[float]:
    assert trial.values is not None
    return [goal.cost(value) for goal, value in zip(goals, trial.values, strict=True)]


def _trial(row: Mapping[str, Any]) -> TrialRow:
    values = row["values"] if row["state"] == "complete" else None
    return TrialRow(
        number=int(row["number"]),
        state=row["state"],
        params=row["params"],
        values=None if values is None else tuple(map(float, values)),
        cell_id=row["cell_id"],
        cheap=row["cheap"],
        reason=row["reason"],
        seconds=row["seconds"],
        command=row["command"],
    )
