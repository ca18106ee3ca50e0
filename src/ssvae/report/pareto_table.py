"""A search's trials as a table on the terminal, as CSV for programs, as Markdown for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ssvae.report.columns import rounded
from ssvae.report.pareto import Search, TrialRow, shown
from ssvae.report.table import markdown_table

_STYLES = {"complete": "green", "failed": "bold red", "pruned": "yellow", "running": "cyan", "waiting": "cyan"}
_ARROWS = {"maximize": " ↑", "minimize": " ↓"}
_MOST = 12
"""Rows on the terminal: the front, then the newest."""
_ONE_SEED = (
    "Every trial is one seed, and a front picks the lucky ones: run the best again with other seeds (add `seed=1,2` "
    "and `-m`) before believing a gap that is smaller than the spread of its metric."
)


def trials_csv(search: Search) -> str:
    """CSV text: number, state, front, objectives, the metric that prunes, parameters, seconds, cell, reason, command.

    Numbers in full precision; what a trial does not have is empty.
    """
    best = {trial.number for trial in search.best}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "front", *_columns(search), "seconds", "cell_id", "reason", "command"])
    for trial in search.trials:
        numbers = ["" if one is None else one if isinstance(one, str) else repr(one) for one in _values(search, trial)]
        rest = [trial.seconds, trial.cell_id, trial.reason, trial.command]
        place = [trial.number, trial.state, int(trial.number in best)]
        writer.writerow([*place, *numbers, *("" if one is None else one for one in rest)])
    return text.getvalue()


def trials_markdown(search: Search) -> str:
    """Markdown text: what was searched, the front with the commands that make it again, every trial."""
    counts = {state: sum(trial.state == state for trial in search.trials) for state in _STYLES}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    several = len(search.goals) > 1
    goals = " and ".join(f"`{goal.metric}` ({goal.direction})" for goal in search.goals)
    parts = [
        f"# Search {search.sweep}",
        f"Made by `{search.command}`: {goals}, {search.n_trials} trials in all; {said or 'none yet'}.",
    ]
    if search.prune is not None:
        rule = search.prune
        parts.append(
            f"A trial went on to the probe if its `{rule['metric']}` ({rule['direction']}) was among the best "
            f"{100 * rule['keep']:g} % so far; the first {rule['warmup']} did in any case."
        )
    parts += [f"## {'Pareto front' if several else 'Best trial'}", _table(search, search.best), _ONE_SEED]
    commands = [trial for trial in search.best if trial.command is not None]
    parts += [f"Trial {trial.number} again:\n\n```\n{trial.command}\n```" for trial in commands]
    parts += ["## Every trial", _table(search, search.trials)]
    failed = [trial for trial in search.trials if trial.state in ("failed", "pruned") and trial.reason]
    parts += ["\n".join(f"- trial {trial.number}: {' '.join(str(trial.reason).split())}" for trial in failed)]
    return "\n\n".join(part for part in parts if part) + "\n"


def trials_table(search: Search) -> Table:
    """The front, marked, and the newest of the other trials."""
    best = {trial.number for trial in search.best}
    others = [trial for trial in search.trials if trial.number not in best]
    kept = others[-max(3, _MOST - len(best)) :]
    title = f"search {search.sweep}: {sum(trial.state == 'complete' for trial in search.trials)} trials complete"
    left = len(others) - len(kept)
    table = Table(
        title=Text(title, style="bold"), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
        caption=Text("* on the Pareto front" + (f"; {left} more trials in trials.csv" if left else "")),
        caption_justify="left",
    )  # fmt: skip
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in _columns(search):
        table.add_column(Text(name), justify="right", overflow="fold")
    for trial in [*search.best, *kept]:
        mark = "*" if trial.number in best else ""
        values = ["" if one is None else shown(one) for one in _values(search, trial)]
        state = Text(trial.state, style=_STYLES.get(trial.state, ""))
        table.add_row(f"{mark}{trial.number}", state, *map(Text, values), style="bold" if mark else "")
    return table


def _columns(search: Search) -> list[str]:
    names = [goal.metric for goal in search.goals]
    return [*names, *_pruning(search), *search.keys]


def _pruning(search: Search) -> list[str]:
    """The metric that prunes, where it is none of the objectives."""
    if search.prune is None or search.prune["metric"] in [goal.metric for goal in search.goals]:
        return []
    return [str(search.prune["metric"])]


def _values(search: Search, trial: TrialRow) -> list[float | str | None]:
    """Objectives, pruning metric, parameters. A pruned trial has the objective that it was pruned by."""
    known: dict[str, float | None] = {goal.metric: None for goal in search.goals}
    if search.prune is not None:
        known[str(search.prune["metric"])] = trial.cheap
    if trial.values is not None:
        known |= {goal.metric: value for goal, value in zip(search.goals, trial.values, strict=True)}
    return [*known.values(), *(trial.params.get(key) for key in search.keys)]


def _table(search: Search, trials: Sequence[TrialRow]) -> str:
    arrows = {goal.metric: _ARROWS[goal.direction] for goal in search.goals}
    head = ["trial", "state", *(f"`{name}`{arrows.get(name, '')}" for name in _columns(search))]
    body = [[str(trial.number), trial.state, *(_text(value) for value in _values(search, trial))] for trial in trials]
    return markdown_table(head, body, left={1})


def _text(value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else rounded(value)
