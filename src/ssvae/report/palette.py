"""How cells look in every figure: colour and marker by regulariser, line style by channel count, shade by setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.colors import to_hex, to_rgb

from ssvae.report.collect import REGULARIZER_ORDER, CellRow
from ssvae.report.columns import field_text

Fill = Literal["full", "none", "left", "right"]
Dash = Literal["-"] | tuple[int, tuple[float, ...]]

# Okabe and Ito's palette: told apart with every common colour-vision deficiency.
PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#A6761D")
_DASHES: tuple[Dash, ...] = ("-", (0, (4, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_FILLS: tuple[Fill, ...] = ("full", "none", "left", "right")
_PALEST = 0.6  # share of white: a paler line is lost on white paper

FIGURE_STYLE: dict[Any, Any] = {
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
"""matplotlib settings of every figure."""


@dataclass(frozen=True, slots=True)
class Look:
    """How one cell is drawn. shift: in [0, 1), where its markers begin, so that close lines do not cover each other."""

    row: CellRow
    colour: str
    dash: Dash
    marker: str
    fill: Fill
    shift: float


def looks(rows: Sequence[CellRow]) -> list[Look]:
    """Colour and marker by regulariser or VAE, the same in every sweep for the known four; dashes by channel count.

    Where a regulariser comes with several values of other fields, each has its shade of the colour and its marker fill.
    """
    known = list(REGULARIZER_ORDER)
    regs = known + sorted({row.who for row in rows} - set(known))
    counts = sorted({field_text(row, "channels") for row in rows}, key=lambda text: (len(text), text))
    found = []
    for row in rows:
        reg = regs.index(row.who)
        dash = _DASHES[counts.index(field_text(row, "channels")) % len(_DASHES)]
        settings = list(dict.fromkeys(tuple(r.others.items()) for r in rows if r.who == row.who))
        setting = settings.index(tuple(row.others.items()))
        colour = _shade(PALETTE[reg % len(PALETTE)], setting, len(settings))
        fill = _FILLS[setting % len(_FILLS)]
        # Past the last colour they begin again, each with the next one's marker.
        marker = _MARKERS[(reg + reg // len(PALETTE)) % len(_MARKERS)]
        found.append(Look(row, colour, dash, marker, fill, reg % 4 / 4))
    return found


def _shade(colour: str, index: int, count: int) -> str:
    """The colour itself first, then mixed with ever more white."""
    if index == 0:
        return colour
    white = _PALEST * index / (count - 1)
    red, green, blue = (part + (1 - part) * white for part in to_rgb(colour))
    return to_hex((red, green, blue))
