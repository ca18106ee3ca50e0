"""A study as plain JSON, ``runs/sweeps/NAME/trials.json``: what tables and figures are made from, without Optuna."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ssvae.config.search import SearchConfig
from ssvae.core.files import write_json
from ssvae.sweep.search.study import MOST_DEATHS

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def write_trials(path: Path, sweep: str, command: str, search: SearchConfig, trials: Sequence[FrozenTrial]) -> None:
    """Write all ``trials`` of the search behind ``sweep``."""
    prune = search.prune
    write_json(
        path,
        {
            "sweep": sweep,
            "command": command,
            "n_trials": search.n_trials,
            "sampler": search.sampler.value,
            "seed": search.seed,
            "objectives": [{"metric": one.metric, "direction": one.direction.value} for one in search.objectives],
            "prune": None
            if prune is None
            else {
                "metric": prune.metric,
                "direction": prune.direction.value,
                "keep": prune.keep,
                "warmup": prune.warmup,
            },
            "keys": [parameter.key for parameter in search.space],
            "trials": [_row(trial, sweep) for trial in trials],
        },
    )


def reason_of(trial: FrozenTrial) -> str | None:
    """Why a trial was pruned or failed."""
    if trial.state is TrialState.FAIL and "reason" not in trial.user_attrs:
        return f"its process died {MOST_DEATHS} times"
    found = trial.user_attrs.get("reason")
    return None if found is None else str(found)


def again(overrides: Sequence[str], sweep: str, number: int) -> str:
    """The command that makes a trial's cell on its own, under another sweep's name; its stages are reused."""
    kept = [text for text in overrides if not text.startswith(("sweep.name=", "search."))]
    # A number as a choice is quoted for Hydra inside; on the command line it need not be.
    kept = [re.sub(r"='(\d+)'$", r"=\1", text) for text in kept]
    return shlex.join(["python", "run.py", *kept, f"sweep.name={sweep}-trial-{number}"])


def _row(trial: FrozenTrial, sweep: str) -> dict[str, Any]:
    notes, spent = trial.user_attrs, trial.duration
    overrides = notes.get("overrides")
    return {
        "number": trial.number,
        "state": STATES[trial.state],
        "params": dict(trial.params),
        "values": trial.values,
        "cell_id": notes.get("cell_id"),
        "cheap": notes.get("cheap"),
        "place": notes.get("place"),
        "reason": reason_of(trial),
        "begun": None if trial.datetime_start is None else round(trial.datetime_start.timestamp(), 3),
        "seconds": None if spent is None else round(spent.total_seconds(), 3),
        "command": None if overrides is None else again(overrides, sweep, trial.number),
    }
