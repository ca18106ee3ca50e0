"""What a search leaves: the sweep's table and figures, the trials, the best of them on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optuna.trial import FrozenTrial
from rich.console import Console

from ssvae.report.collect import collect
from ssvae.report.pareto import read_search
from ssvae.report.pareto_table import trials_table
from ssvae.report.pareto_write import write_search
from ssvae.sweep import publish
from ssvae.sweep.console import print_problems
from ssvae.sweep.record import CellRecord
from ssvae.track.live import Live


def save_sweep(root: Path, name: str, command: str, trials: Sequence[FrozenTrial]) -> None:
    """Write which cells the sweep has: those of all trials that got as far as having one."""
    folder = root / "runs" / "sweeps" / name / "cells"
    named = {str(trial.user_attrs["cell_id"]) for trial in trials if "cell_id" in trial.user_attrs}
    ids = sorted(one for one in named if (folder / f"{one}.json").exists())
    records = [CellRecord.load(folder / f"{one}.json") for one in ids]
    configs = [record.path.with_suffix(".yaml") for record in records]
    publish.SweepRecord(command, publish.experiment_notes(records, configs), ids).save(root, name)


def report_search(root: Path, name: str, console: Console, halted: str | None, live: Live | None) -> int:
    """Write and show everything; returns 0 if no trial failed, else 1. halted: why no more trials were begun."""
    search = read_search(root, name)
    folder = root / "results" / name
    bad = False
    if any((root / "runs" / "sweeps" / name / "cells").glob("*.json")):
        try:
            publish.report(root, name, Console(quiet=True))
            write_search(search, collect(root, name), folder)
        except ValueError as error:
            print_problems([str(error)], "the trials are done, their table could not be written:")
            bad = True
        if live is not None and folder.is_dir():
            live.report(name, folder)
    console.print(trials_table(search))
    for line in search.best_lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    places = f"results: {folder}\nrun folders: {root / 'runs'}\nMLflow: make dashboard"
    console.print(places, markup=False, soft_wrap=True)
    failed = [trial for trial in search.trials if trial.state == "failed"]
    for trial in failed:
        console.print(f"trial {trial.number} failed: {trial.reason}", markup=False, soft_wrap=True)
    if halted is not None:
        console.print(f"[red]stopped early:[/] {halted}; see the reasons above, then a larger share goes on")
    return 1 if bad or failed or halted is not None else 0
