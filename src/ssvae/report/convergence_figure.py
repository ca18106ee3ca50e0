"""Score against updates of the DiT: a panel for each score and size, a line a setting, dashed the baseline's last."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ssvae.report.collect import CellRow, Curve
from ssvae.report.columns import field_text, groups, heading, is_part, other_fields
from ssvae.report.convergence import PREFIX, Convergence
from ssvae.report.palette import FIGURE_STYLE, Look, looks

DEFINITION = (
    "Dashed: the baseline's score at its last checkpoint, mean over seeds. Ring: first crossing of the baseline's "
    "score at equal seed, interpolated. Line: mean over seeds, band: their range; for one seed the 95 % interval over "
    "samples, where it is known."
)
_WIDTH = 3.9
_HEIGHT = 2.9
_LETTERS = 16  # characters of the heading an inch
_LEGEND_INCH = 2.3


def convergence_figure(found: Sequence[Convergence], sweep: str) -> Figure:
    """A row of panels for each score, a column for each channel count and resolution (one for all channel counts where
    the baseline is compared across them).

    ``found`` comes from :func:`~ssvae.report.convergence.convergence` and holds at least one entry. Equal input gives
    equal bytes through :func:`~ssvae.report.figures.save_figure`.
    """
    everything = list(dict.fromkeys(one.metric for one in found))
    # Parts of a score are in the tables: beside the whole they would make a figure that nobody can take in.
    metrics = [name for name in everything if not is_part(name)] or everything
    rows = list({one.row.cell_id: one.row for one in found}.values())
    # Where a baseline is compared across channel counts, one panel shows them all.
    across = any(field_text(base, "channels") != field_text(one.row, "channels") for one in found for base in one.bases)
    sizes = list(dict.fromkeys(_size(row, across) for row in rows))
    styles = {look.row.cell_id: look for look in looks(rows)}
    width = max(_WIDTH * len(sizes), 1.7 * _WIDTH)
    with mpl.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(width, _HEIGHT * len(metrics) + 1.3), layout="constrained")
        grid = figure.subplots(len(metrics), len(sizes), squeeze=False)
        for line, metric in zip(grid, metrics, strict=True):
            for axes, size in zip(line, sizes, strict=True):
                mine = [one for one in found if one.metric == metric and _size(one.row, across) == size]
                _panel(axes, mine, styles, across)
                axes.set_title(f"{size[0]} channels, {size[1]} px", loc="left")
                axes.set_xlabel("DiT updates")
            measured = [one.row for one in found if one.metric == metric and metric in one.row.metrics]
            line[0].set_ylabel(heading(measured, metric) if measured else metric)
        title = f"Score against updates, sweep {sweep}"
        below = "\n".join(textwrap.wrap(DEFINITION, int(width * _LETTERS)))
        figure.suptitle(f"{title}\n{below}", x=0.01, ha="left", fontsize=9)
        columns = max(1, min(4, int(width / _LEGEND_INCH)))
        figure.legend(
            handles=_legend(rows, styles, across), loc="outside lower center", ncols=columns, handlelength=3.2
        )
    return figure


def _size(row: CellRow, across: bool) -> tuple[str, str]:
    return "all" if across else field_text(row, "channels"), field_text(row, "resolution")


def _panel(axes: Axes, found: Sequence[Convergence], styles: dict[str, Look], across: bool) -> None:
    if not found:
        axes.text(0.5, 0.5, "not scored", transform=axes.transAxes, ha="center")
        return
    used = {base.cell_id for one in found for base in one.bases}
    for setting in _settings([one for one in found if one.row.cell_id in used]):
        level = math.fsum(one.final for one in setting) / len(setting)
        axes.axhline(level, color=styles[setting[0].row.cell_id].colour, linestyle="--", linewidth=1.0)
    for setting in _settings(found):
        look = styles[setting[0].row.cell_id]
        x, middle, low, high = _mean_and_band([one.row.curves[PREFIX + one.metric] for one in setting])
        dash = look.dash if across else "-"
        axes.plot(x, middle, color=look.colour, linestyle=dash, marker=look.marker, fillstyle=look.fill, markersize=3.8)
        if low is not None and high is not None:
            axes.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0)
        for one in setting:
            if one.crossing is not None and one.crossing.updates is not None and one.target is not None:
                axes.plot(
                    one.crossing.updates, one.target, marker="o", markersize=8, color=look.colour, fillstyle="none"
                )


def _settings(found: Sequence[Convergence]) -> list[list[Convergence]]:
    """Cells that are equal but for the seed, in order of appearance."""
    alike: dict[tuple[object, ...], list[Convergence]] = {}
    for one in found:
        key = (field_text(one.row, "reg"), field_text(one.row, "channels"), *one.row.others.items())
        alike.setdefault(key, []).append(one)
    return list(alike.values())


def _mean_and_band(
    curves: Sequence[Curve],
) -> tuple[list[float], list[float], list[float] | None, list[float] | None]:
    """Updates that all seeds share, mean, and band (:data:`DEFINITION`)."""
    if len(curves) == 1:
        only = curves[0]
        low, high = (None if ends is None else list(ends) for ends in (only.low, only.high))
        return list(only.x), list(only.y), low, high
    shared = sorted(set.intersection(*(set(curve.x) for curve in curves)))
    at = [dict(zip(curve.x, curve.y, strict=True)) for curve in curves]
    values = [[scores[x] for scores in at] for x in shared]
    middle = [math.fsum(some) / len(some) for some in values]
    return shared, middle, [min(some) for some in values], [max(some) for some in values]


def _legend(rows: Sequence[CellRow], styles: dict[str, Look], across: bool) -> list[Line2D]:
    """One entry a regulariser and value of other fields; channel counts too where a panel does not tell them apart."""
    handles = []
    for members in groups(rows, ["reg", *other_fields(rows), *(["channels"] if across else [])]).values():
        look = styles[members[0].cell_id]
        channels = [f"{field_text(look.row, 'channels')} channels"] if across else []
        label = ", ".join([field_text(look.row, "reg"), *channels, *(f"{k}={v}" for k, v in look.row.unusual.items())])
        handle = Line2D([], [], color=look.colour, marker=look.marker, fillstyle=look.fill, markersize=3.8, label=label)
        handle.set_linestyle(look.dash if across else "-")
        handles.append(handle)
    return handles
