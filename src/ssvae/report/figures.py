"""The two figures of a sweep: DCT spectrum and explained variance of the latents, one line a cell."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ssvae.core.files import write_atomic
from ssvae.report.collect import CellRow
from ssvae.report.columns import field_text
from ssvae.report.palette import FIGURE_STYLE, looks

SPECTRUM_DEFINITION = "3-D DCT-II of normalised latents, mean squared coefficient by index, divided by the sum"
VARIANCE_DEFINITION = "cumulative share of the k largest eigenvalues of the channel covariance"

_DEFINITION_WIDTH = 115
_LEGEND_WIDTH = 105  # characters


def dct_spectrum_figure(rows: Sequence[CellRow], sweep: str, definition: str = SPECTRUM_DEFINITION) -> Figure:
    """Normalized energy (log) over zigzag index, from the curves ``dct_spectrum``."""
    figure, axes = _draw(rows, "dct_spectrum", f"Latent DCT spectrum, sweep {sweep}", definition)
    axes.set_yscale("log")
    axes.set_ylabel("Normalized energy")
    axes.set_xlabel("Zigzag frequency index")
    return figure


def explained_variance_figure(rows: Sequence[CellRow], sweep: str, definition: str = VARIANCE_DEFINITION) -> Figure:
    """Cumulative explained variance over the number of principal channels k, from ``explained_variance``."""
    figure, axes = _draw(
        rows, "explained_variance", f"Explained variance of latent channels, sweep {sweep}", definition
    )
    axes.set_ylabel("Cumulative explained variance")
    axes.set_xlabel("Number of principal channels k")
    axes.set_ylim(None, 1.0 + 0.02)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG atomically; equal figures give equal bytes (no date, no version in it)."""
    FigureCanvasAgg(figure)
    write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=160, metadata={"Software": None}))


def _draw(rows: Sequence[CellRow], curve: str, title: str, definition: str) -> tuple[Figure, Axes]:
    with mpl.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(7.6, 4.9), layout="constrained")
        axes = figure.add_subplot()
        lines = [line for line in looks(rows) if curve in line.row.curves]
        for line in lines:
            data = line.row.curves[curve]
            # Log axes cannot show zeros; a gap is more honest than a clipped value.
            y = [value if value > 0 else math.nan for value in data.y]
            every = max(1, len(data.x) // 8)
            # Shifted by regulariser, so that markers of close lines do not cover each other.
            first = int(line.shift * every)
            axes.plot(
                data.x, y, color=line.colour, linestyle=line.dash, marker=line.marker, markersize=3.8,
                fillstyle=line.fill, markevery=(first, every), label=_label(line.row, rows),
            )  # fmt: skip
        below = textwrap.wrap(definition, _DEFINITION_WIDTH)
        axes.set_title(title + "\n" * len(below), loc="left", fontweight="bold")
        axes.text(0.0, 1.02, "\n".join(below), transform=axes.transAxes, fontsize=8, color="#555555")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if lines:
            columns = len({field_text(line.row, "channels") for line in lines})
            fitting = _LEGEND_WIDTH // (max(len(_label(line.row, rows)) for line in lines) + 7)
            columns = max(1, min(max(2, columns), 4, fitting))
            figure.legend(loc="outside lower center", ncols=columns, handlelength=3.6)
        else:
            axes.text(0.5, 0.5, "no cell has this curve yet", transform=axes.transAxes, ha="center")
    return figure, axes


def _label(row: CellRow, rows: Sequence[CellRow]) -> str:
    size = f", {field_text(row, 'resolution')} px" if len({field_text(r, "resolution") for r in rows}) > 1 else ""
    seed = f", seed {field_text(row, 'seed')}" if len({field_text(r, "seed") for r in rows}) > 1 else ""
    return f"{row.label}{size}{seed}"
