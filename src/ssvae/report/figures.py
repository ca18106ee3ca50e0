"""The two figures of a sweep: DCT spectrum and explained variance of the latents, one line a cell."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ssvae.core.files import write_atomic
from ssvae.report.collect import REGULARIZER_ORDER, CellRow
from ssvae.report.columns import field_text

SPECTRUM_DEFINITION = "3-D DCT-II of normalised latents, mean squared coefficient by index, divided by the sum"
VARIANCE_DEFINITION = "cumulative share of the k largest eigenvalues of the channel covariance"

_Fill = Literal["full", "none", "left", "right"]

# Okabe and Ito's palette: told apart with every common colour-vision deficiency.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#A6761D")
_DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (4, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_FILLS: tuple[_Fill, ...] = ("full", "none", "left", "right")
_PALEST = 0.6  # share of white: a paler line is lost on white paper
_DEFINITION_WIDTH = 115
_LEGEND_WIDTH = 105  # characters
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True, slots=True)
class _Line:
    row: CellRow
    colour: str
    dash: str | tuple[int, tuple[float, ...]]
    marker: str
    fill: _Fill
    shift: float


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
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.6, 4.9), layout="constrained")
        axes = figure.add_subplot()
        lines = [line for line in _styles(rows) if curve in line.row.curves]
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


def _styles(rows: Sequence[CellRow]) -> list[_Line]:
    """Colour and marker by regulariser, the same in every sweep for the known four; line style by channel count.

    Where a regulariser comes with several values of other fields, each has its shade of the colour and its marker fill.
    """
    known = list(REGULARIZER_ORDER)
    regs = known + sorted({field_text(row, "reg") for row in rows} - set(known))
    counts = sorted({field_text(row, "channels") for row in rows}, key=lambda text: (len(text), text))
    found = []
    for row in rows:
        reg = regs.index(field_text(row, "reg"))
        dash = _DASHES[counts.index(field_text(row, "channels")) % len(_DASHES)]
        settings = list(
            dict.fromkeys(tuple(r.others.items()) for r in rows if r.fields.get("reg") == row.fields.get("reg"))
        )
        setting = settings.index(tuple(row.others.items()))
        colour = _shade(_COLOURS[reg % len(_COLOURS)], setting, len(settings))
        fill = _FILLS[setting % len(_FILLS)]
        found.append(_Line(row, colour, dash, _MARKERS[reg % len(_MARKERS)], fill, reg % 4 / 4))
    return found


def _shade(colour: str, index: int, count: int) -> str:
    """The colour itself first, then mixed with ever more white."""
    if index == 0:
        return colour
    white = _PALEST * index / (count - 1)
    red, green, blue = (part + (1 - part) * white for part in to_rgb(colour))
    return to_hex((red, green, blue))


def _label(row: CellRow, rows: Sequence[CellRow]) -> str:
    size = f", {field_text(row, 'resolution')} px" if len({field_text(r, "resolution") for r in rows}) > 1 else ""
    seed = f", seed {field_text(row, 'seed')}" if len({field_text(r, "seed") for r in rows}) > 1 else ""
    return f"{row.label}{size}{seed}"
