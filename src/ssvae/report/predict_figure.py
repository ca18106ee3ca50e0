"""The main statistics against a score: one small panel each, a point a cell, seeds of one setting joined."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ssvae.report.collect import CellRow
from ssvae.report.columns import field_text, groups, heading, other_fields
from ssvae.report.palette import FIGURE_STYLE, Fill, Look, looks
from ssvae.report.predict import Prediction, Relation
from ssvae.report.predict_text import strongest

PANELS = 12
_COLUMNS = 4
_WIDTH = 3.3
_FILLS: tuple[Fill, ...] = ("full", "none", "left", "right")
_NEVER = 0.12  # how far above the largest score "not reached" stands, in its range


def predict_figure(prediction: Prediction, title: str) -> Figure:
    """Small multiples of the headline score: the main family; without one, the strongest of each family of names.

    Colour and marker: regulariser; filling: channel count; where there are several sweeps, a number: sweep. Equal
    input gives equal bytes through
    :func:`~ssvae.report.figures.save_figure`.
    """
    score = prediction.scores[0]
    main = prediction.of(score, main=True)[:PANELS]
    relations = main or strongest(prediction.of(score), PANELS)
    what = "the main family" if main else "the strongest of each family of statistics"
    columns = max(1, min(_COLUMNS, len(relations)))
    rows = [row for row in prediction.rows if row.value(score) is not None]
    fills = _fills(rows)
    styles = {id(row): look for row, look in zip(prediction.rows, looks(prediction.rows), strict=True)}
    numbers = {sweep: str(k) for k, sweep in enumerate(dict.fromkeys(row.sweep for row in prediction.rows), 1)}
    lines = max(1, math.ceil(len(relations) / columns))
    with mpl.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(max(_WIDTH * columns, 3 * _WIDTH), 3.0 * lines + 1.2), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
        for axes, relation in zip(panels, relations, strict=False):
            _panel(axes, relation, rows, styles, fills, numbers)
        for axes in panels[len(relations) :]:
            axes.set_axis_off()
        for axes in panels[::columns]:
            axes.set_ylabel(heading(rows, score))
        figure.suptitle(
            f"{title}\nSpearman's ρ with 95 % interval; {what}. A line joins the seeds of a setting.",
            x=0.01, ha="left", fontsize=9,
        )  # fmt: skip
        figure.legend(handles=_legend(rows, styles, fills, numbers), loc="outside lower center", ncols=5)
    return figure


def _panel(
    axes: Axes,
    relation: Relation,
    rows: Sequence[CellRow],
    styles: dict[int, Look],
    fills: dict[str, Fill],
    numbers: dict[str, str],
) -> None:
    scores = [value for row in rows if (value := row.value(relation.score)) is not None and math.isfinite(value)]
    top = max(scores) + _NEVER * ((max(scores) - min(scores)) or 1.0) if scores else 1.0
    never = False
    settings = groups(rows, ["reg", "channels", "resolution", *other_fields(rows)]).values()
    # Cells of two sweeps are no seeds of one setting, whatever their fields.
    apart = [[row for row in alike if row.sweep == sweep] for alike in settings for sweep in numbers]
    for members in filter(None, apart):
        points = []
        for row in members:
            x, y = row.value(relation.statistic), row.value(relation.score)
            if x is not None and y is not None and math.isfinite(x):
                never = never or math.isinf(y)
                points.append((x, y if math.isfinite(y) else top))
        look = styles[id(members[0])]
        axes.plot(
            [x for x, _ in points], [y for _, y in points], color=look.colour, linewidth=0.8, marker=look.marker,
            markersize=6, fillstyle=fills[field_text(members[0], "channels")],
        )  # fmt: skip
        number = numbers[members[0].sweep]
        # The first sweep goes without: a number at every point would hide the points.
        for point in points if number != "1" else ():
            axes.annotate(number, point, xytext=(4, 3), textcoords="offset points", fontsize=6, color="#555555")
    if never:
        axes.axhline(top, color="#999999", linewidth=0.6, linestyle=":")
        axes.text(1.0, top, "not reached", transform=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=7)
    found = relation.spearman
    ends = "" if found.interval is None else f" [{found.interval[0]:+.2f}, {found.interval[1]:+.2f}]"
    text = f"ρ {found.value:+.2f}{ends}, {found.clusters} VAEs\n{relation.verdict}"
    axes.set_title(text.replace("-", "−"), loc="left", fontsize=8)
    axes.set_xlabel(relation.statistic)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _fills(rows: Sequence[CellRow]) -> dict[str, Fill]:
    counts = sorted({field_text(row, "channels") for row in rows}, key=lambda text: (len(text), text))
    return {count: _FILLS[index % len(_FILLS)] for index, count in enumerate(counts)}


def _legend(
    rows: Sequence[CellRow], styles: dict[int, Look], fills: dict[str, Fill], numbers: dict[str, str]
) -> list[Line2D]:
    """Regularisers and other settings by colour, in the first channel count's filling; the fillings; the sweeps."""
    handles = []
    for members in groups(rows, ["reg", *other_fields(rows)]).values():
        look = styles[id(members[0])]
        more = "".join(f", {name}={value}" for name, value in members[0].unusual.items())
        label = field_text(members[0], "reg") + more
        handles.append(Line2D([], [], linestyle="", color=look.colour, marker=look.marker, label=label))
    if len(fills) > 1:
        for count, fill in fills.items():
            handles.append(
                Line2D([], [], linestyle="", color="#555555", marker="o", fillstyle=fill, label=f"{count} channels")
            )
    if len(numbers) > 1:
        for sweep, number in numbers.items():
            handles.append(Line2D([], [], linestyle="", color="#555555", marker=f"${number}$", label=sweep))
            if number == "1":
                handles[-1].set(marker="", label=f"{sweep}: without a number")
    return handles
