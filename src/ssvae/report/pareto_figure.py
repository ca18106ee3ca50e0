"""A search as a picture: one objective against another with the Pareto front, or one objective over its trials."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ssvae.report.collect import CellRow
from ssvae.report.columns import heading, present
from ssvae.report.palette import FIGURE_STYLE, PALETTE
from ssvae.report.pareto import Goal, Search, TrialRow

_FRONT, _OTHER, _PRUNED = PALETTE[2], PALETTE[1], "#999999"
_MOST_PANELS = 3
_MOST_NUMBERS = 12
_DEFINITION = "Front: no other trial is at least as good in every objective and better in one. One seed a trial"
_BEST = "One seed a trial"


def search_figure(search: Search, rows: Sequence[CellRow]) -> Figure:
    """With several objectives a panel a pair of them (the first three): every complete trial, the front of all
    objectives marked and numbered, pruned trials as ticks where they have the one objective. With one objective its
    value over the trials, and the best so far. rows: the sweep's cells, for names and units of the metrics."""
    pairs = list(itertools.combinations(range(len(search.goals)), 2))[:_MOST_PANELS]
    with mpl.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(7.6 if len(pairs) < 2 else 5.2 * len(pairs), 5.0), layout="constrained")
        panels = figure.subplots(1, max(1, len(pairs)), squeeze=False).ravel().tolist()
        if pairs:
            for axes, (first, second) in zip(panels, pairs, strict=True):
                _pair(axes, search, rows, first, second)
        else:
            _history(panels[0], search, rows)
        done = f"{len(search.complete)} of {search.n_trials} trials complete"
        figure.suptitle(f"Search {search.sweep}: {done}", x=0.01, ha="left", fontweight="bold", fontsize=10)
        panels[0].set_title(_DEFINITION if pairs else _BEST, loc="left", fontsize=8, color="#555555")
        for axes in panels:
            axes.set_axisbelow(True)
        figure.legend(handles=_legend(search, bool(pairs)), loc="outside lower center", ncols=3)
    return figure


def _pair(axes: Axes, search: Search, rows: Sequence[CellRow], first: int, second: int) -> None:
    best = search.best
    names = {trial.number for trial in best}
    rest = [trial for trial in search.complete if trial.number not in names]
    axes.scatter(*_points(rest, first, second), s=26, color=_OTHER, alpha=0.75, linewidths=0)
    axes.scatter(*_points(best, first, second), s=52, color=_FRONT, marker="D", zorder=3)
    if len(search.goals) == 2:
        _staircase(axes, search.goals, best)
    for trial in best[:_MOST_NUMBERS]:
        assert trial.values is not None
        point = (trial.values[first], trial.values[second])
        axes.annotate(str(trial.number), point, xytext=(6, 5), textcoords="offset points", fontsize=8, color="#333333")
    _pruned_ticks(axes, search, first, second)
    axes.set_xlabel(_label(search.goals[first], rows))
    axes.set_ylabel(_label(search.goals[second], rows))
    axes.margins(0.08)
    if not search.complete:
        axes.text(0.5, 0.5, "no trial is complete yet", transform=axes.transAxes, ha="center")


def _staircase(axes: Axes, goals: Sequence[Goal], best: Sequence[TrialRow]) -> None:
    """The edge of what the front dominates: between two of its points the worse value of each."""
    points = [trial.values for trial in best if trial.values is not None]
    xs: list[float] = []
    ys: list[float] = []
    for (x, y), (_, after) in itertools.pairwise(points):
        # From the best first objective on, the second one improves: a corner has the next x and this y.
        xs += [x, _next(points, x)]
        ys += [y, y]
        assert goals[1].cost(after) <= goals[1].cost(y)
    if points:
        xs.append(points[-1][0])
        ys.append(points[-1][1])
    axes.plot(xs, ys, color=_FRONT, linewidth=1.0, alpha=0.7, zorder=2)


def _next(points: Sequence[tuple[float, ...]], x: float) -> float:
    firsts = [point[0] for point in points]
    return firsts[firsts.index(x) + 1]


def _pruned_ticks(axes: Axes, search: Search, first: int, second: int) -> None:
    """Pruned trials at the edge: of an objective they may know one, by which they were pruned."""
    if search.prune is None:
        return
    known = [trial.cheap for trial in search.trials if trial.state == "pruned" and trial.cheap is not None]
    if search.goals[first].metric == search.prune["metric"]:
        for value in known:
            axes.plot([value, value], [0, 0.025], transform=axes.get_xaxis_transform(), color=_PRUNED, linewidth=1.4)
    elif search.goals[second].metric == search.prune["metric"]:
        for value in known:
            axes.plot([0, 0.025], [value, value], transform=axes.get_yaxis_transform(), color=_PRUNED, linewidth=1.4)


def _history(axes: Axes, search: Search, rows: Sequence[CellRow]) -> None:
    goal = search.goals[0]
    numbers = [trial.number for trial in search.complete]
    values = [trial.values[0] for trial in search.complete if trial.values is not None]
    axes.scatter(numbers, values, s=26, color=_OTHER, alpha=0.75, linewidths=0)
    better = max if goal.direction == "maximize" else min
    axes.step(numbers, list(itertools.accumulate(values, better)), where="post", color=_FRONT)
    axes.set_xlabel("Trial")
    axes.set_ylabel(_label(goal, rows))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not values:
        axes.text(0.5, 0.5, "no trial is complete yet", transform=axes.transAxes, ha="center")


def _points(trials: Sequence[TrialRow], first: int, second: int) -> tuple[list[float], list[float]]:
    found = [trial.values for trial in trials if trial.values is not None]
    return [values[first] for values in found], [values[second] for values in found]


def _label(goal: Goal, rows: Sequence[CellRow]) -> str:
    if present(rows, [goal.metric]):
        return heading(rows, goal.metric)
    return f"{goal.metric} {'↑' if goal.direction == 'maximize' else '↓'}"


def _legend(search: Search, paired: bool) -> list[Line2D]:
    handles = [Line2D([], [], linestyle="", marker="o", color=_OTHER, label="complete")]
    if paired:
        label = "Pareto front (number: trial)"
        handles.insert(0, Line2D([], [], linestyle="", marker="D", color=_FRONT, label=label))
    else:
        handles.insert(0, Line2D([], [], color=_FRONT, label="best so far"))
    if paired and search.prune is not None and search.prune["metric"] in [goal.metric for goal in search.goals]:
        handles.append(Line2D([], [], linestyle="", marker="|", markersize=9, color=_PRUNED, label="pruned"))
    return handles
