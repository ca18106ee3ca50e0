"""One figure that says what the latents of a VAE look like: four panels of curves, and rows of pictures.

Spectra of latent and clip, explained variance, PSNR after chopping, mode strengths; below them whatever rows of
pictures are given (original, reconstruction, PCA-RGB of the latent, chopping).

Dimension legend: a row of pictures (n,H,W,3) uint8: n tiles side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from ssvae.report.palette import FIGURE_STYLE, PALETTE

WIDTH = 10.0
PANEL_HEIGHT = 3.1
"""Inches."""
GAP = 2
"""White pixels between tiles of a row."""
CAP = 100.0
"""A PSNR that was cut off at this many dB is of two equal clips: no point of a curve."""
_BLACK, _BLUE, _ORANGE, _GREEN = PALETTE[:4]


@dataclass(frozen=True, slots=True)
class _Series:
    """One line of a panel: a curve's name, what the legend calls it, its colour, dashes and marker."""

    curve: str
    label: str
    colour: str
    dash: str
    marker: str


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    x_label: str
    y_label: str
    series: tuple[_Series, ...]
    log: bool = False
    whole: bool = True
    """Are the places on the x axis whole numbers?"""


PANELS = (
    _Panel(
        "Where the energy lies",
        "Zigzag frequency index",
        "Share of DCT energy",
        (
            _Series("dct_spectrum", "latent", _BLUE, "-", "o"),
            _Series("rgb_dct_spectrum", "clip (RGB)", _BLACK, "--", "s"),
        ),
        log=True,
    ),
    _Panel(
        "How many channels carry it",
        "Number of principal channels k",
        "Cumulative explained variance",
        (
            _Series("explained_variance", "raw latent", _BLUE, "-", "o"),
            _Series("explained_variance_normalized", "normalised per channel", _ORANGE, "--", "s"),
        ),
    ),
    _Panel(
        "What high frequencies are worth",
        "Share of DCT coefficients removed",
        "PSNR in dB",
        (
            _Series("psnr_chop_rgb", "clip chopped", _BLACK, "--", "s"),
            _Series("psnr_chop_latent", "latent chopped, decoded", _BLUE, "-", "o"),
            _Series("psnr_chop_latent_reconstruction", "same, against reconstruction", _GREEN, ":", "^"),
        ),
        whole=False,
    ),
    _Panel(
        "Mode strengths (own derivation)",
        "Channel mode, strongest first",
        "Singular value of E[v xᵀ]",
        (
            _Series("mode_strength_flow", "t = 1/2 (flow) or α = σ (VP)", _BLUE, "-", "o"),
            _Series("mode_strength_flow_time_mean", "flow, mean over t", _ORANGE, "--", "s"),
        ),
    ),
)


def latents_figure(
    curves: Mapping[str, Mapping[str, Any]],
    pictures: Mapping[str, np.ndarray] | None = None,
    title: str = "Latents",
) -> Figure:
    """The figure; write it with :func:`ssvae.report.figures.save_figure`, equal input gives equal bytes.

    curves: the content of ``curves.json``: name -> {"x", "y", ...}; a panel without any of its curves says so.
    pictures: row's name -> (n,H,W,3) uint8, drawn in the order given; rows may differ in tiles and sizes.
    Raises ValueError for a row of another shape or type.
    """
    rows = {name: _strip(name, tiles) for name, tiles in (pictures or {}).items()}
    # Room for its caption, and as high as the picture at the figure's width, within reason.
    heights = [0.25 + min(3.6, max(0.7, 0.92 * WIDTH * row.shape[0] / row.shape[1])) for row in rows.values()]
    charts = 2 * PANEL_HEIGHT
    with mpl.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(WIDTH, charts + sum(heights) + 0.4), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        if rows:
            above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[charts, sum(heights)])).flat
            _draw_panels(above, curves)
            _draw_rows(below, rows, heights)
        else:
            _draw_panels(figure, curves)
    return figure


def _draw_panels(parent: Figure | SubFigure, curves: Mapping[str, Mapping[str, Any]]) -> None:
    places = parent.subplots(2, 2)
    for axes, panel in zip(places.flat, PANELS, strict=True):
        _draw_panel(axes, panel, curves)


def _draw_panel(axes: Axes, panel: _Panel, curves: Mapping[str, Mapping[str, Any]]) -> None:
    found = [series for series in panel.series if series.curve in curves]
    for series in found:
        x, y = curves[series.curve]["x"], [float(value) for value in curves[series.curve]["y"]]
        if panel.log:
            y = [value if value > 0 else math.nan for value in y]  # no logarithm: a gap
        if series.curve.startswith("psnr_"):
            y = [value if value < CAP else math.nan for value in y]
        axes.plot(
            x, y, color=series.colour, linestyle=series.dash, marker=series.marker, markersize=3.8,
            markevery=max(1, len(x) // 12), label=series.label,
        )  # fmt: skip
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if panel.log:
        axes.set_yscale("log")
    if panel.whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if found:
        axes.legend()
    else:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center")


def _draw_rows(parent: SubFigure, rows: Mapping[str, np.ndarray], heights: Sequence[float]) -> None:
    places = parent.subplots(len(rows), 1, height_ratios=list(heights), squeeze=False)
    for axes, (name, strip) in zip(places.flat, rows.items(), strict=True):
        axes.imshow(strip, interpolation="nearest")
        axes.set_title(name, loc="left")
        axes.set_axis_off()


def _strip(name: str, tiles: np.ndarray) -> np.ndarray:
    """(n,H,W,3) -> (H,n·W + gaps,3), tiles side by side with white between them."""
    if tiles.ndim != 4 or tiles.shape[-1] != 3 or tiles.shape[0] < 1 or tiles.dtype != np.uint8:
        raise ValueError(
            f"pictures of {name!r} must be (n,H,W,3) uint8 with n >= 1, got {tiles.shape} {tiles.dtype}: "
            f"convert them first (metrics/pictures.py, frames_row)"
        )
    white = np.full((tiles.shape[1], GAP, 3), 255, dtype=np.uint8)
    pieces = [piece for tile in tiles for piece in (white, tile)]
    return np.concatenate(pieces[1:], axis=1)
