"""The two figures: one line a cell, told apart, equal bytes for equal rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from sweep_folders import make_grid, make_strengths

from ssvae.report.collect import CellRow, collect
from ssvae.report.figures import dct_spectrum_figure, explained_variance_figure, save_figure
from ssvae.report.table import TableNotes
from ssvae.report.write import write_report


@pytest.fixture
def rows(tmp_path: Path) -> list[CellRow]:
    make_grid(tmp_path, failing=None)
    return collect(tmp_path, "grid")


def test_spectrum_has_one_line_a_cell_on_a_log_axis(rows: list[CellRow]) -> None:
    figure = dct_spectrum_figure(rows, "grid", "how it is defined")
    [axes] = figure.axes
    assert len(axes.lines) == 8
    for line, row in zip(axes.lines, rows, strict=True):
        expected = np.array(row.curves["dct_spectrum"].y)
        # A zero has no logarithm: it is a gap.
        np.testing.assert_array_equal(line.get_ydata(), np.where(expected > 0, expected, np.nan))
        np.testing.assert_array_equal(line.get_xdata(), row.curves["dct_spectrum"].x)
    assert axes.get_yscale() == "log"
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("Normalized energy", "Zigzag frequency index")
    assert "grid" in axes.get_title(loc="left")
    assert [text.get_text() for text in axes.texts] == ["how it is defined"]


def test_variance_runs_over_each_cells_own_channels(rows: list[CellRow]) -> None:
    [axes] = explained_variance_figure(rows, "grid").axes
    assert [len(np.asarray(line.get_xdata())) for line in axes.lines] == [48] * 4 + [128] * 4
    assert axes.get_yscale() == "linear"


def test_colour_follows_the_regulariser_and_dash_the_channels(rows: list[CellRow]) -> None:
    [axes] = dct_spectrum_figure(rows, "grid").axes
    by_cell = {row.cell_id: line for row, line in zip(rows, axes.lines, strict=True)}
    for reg in ("none", "lcr", "lmr", "lcr_lmr"):
        narrow, wide = by_cell[f"{reg}-48-0"], by_cell[f"{reg}-128-0"]
        assert narrow.get_color() == wide.get_color()
        assert narrow.get_linestyle() != wide.get_linestyle()
    assert len({line.get_color() for line in axes.lines}) == 4


def test_a_regulariser_keeps_its_colour_in_a_smaller_sweep(rows: list[CellRow]) -> None:
    few = [row for row in rows if row.fields["reg"] in ("lmr", "lcr_lmr")]
    [all_axes], [few_axes] = dct_spectrum_figure(rows, "a").axes, dct_spectrum_figure(few, "b").axes
    colours = {row.cell_id: line.get_color() for row, line in zip(rows, all_axes.lines, strict=True)}
    assert [line.get_color() for line in few_axes.lines] == [colours[row.cell_id] for row in few]


def test_the_legend_names_every_cell(rows: list[CellRow]) -> None:
    [legend] = dct_spectrum_figure(rows, "grid").legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [f"{row.fields['reg']}, {row.fields['channels']} ch" for row in rows]


def test_seeds_are_named_where_there_are_several(tmp_path: Path) -> None:
    make_grid(tmp_path, seeds=2, failing=None)
    [legend] = dct_spectrum_figure(collect(tmp_path, "grid"), "grid").legends
    names = [text.get_text() for text in legend.get_texts()]
    assert len(set(names)) == 16
    assert names[0] == "none, 48 ch, seed 0"


def test_cells_without_curves_are_left_out(tmp_path: Path) -> None:
    make_grid(tmp_path, failing="lmr-128-0")
    rows = collect(tmp_path, "grid")
    assert len(dct_spectrum_figure(rows, "grid").axes[0].lines) == 7
    nothing = [row for row in rows if row.status == "failed"]
    figure = dct_spectrum_figure(nothing, "grid")
    assert not figure.axes[0].lines
    assert "no cell has this curve yet" in [text.get_text() for text in figure.axes[0].texts]


def test_saved_figures_are_equal_bytes_and_not_empty(rows: list[CellRow], tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "deeper" / "b.png"]
    for path in paths:
        save_figure(dct_spectrum_figure(rows, "grid"), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    pixels = imread(paths[0])
    assert pixels.shape[1] > 1000
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 10


def test_a_report_is_four_files_made_again_identically(rows: list[CellRow], tmp_path: Path) -> None:
    notes = TableNotes("grid", "python run.py")
    written = write_report(rows, tmp_path / "results", notes)
    assert [path.name for path in written] == ["table.csv", "table.md", "dct_spectrum.png", "explained_variance.png"]
    before = [path.read_bytes() for path in written]
    write_report(rows, tmp_path / "results", notes)
    assert [path.read_bytes() for path in written] == before


def test_other_swept_values_are_named_and_look_different(tmp_path: Path) -> None:
    make_strengths(tmp_path)
    figure = dct_spectrum_figure(collect(tmp_path, "grid"), "grid")
    [legend], [axes] = figure.legends, figure.axes
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["none, 48 ch", "lcr, 48 ch, strength.lcr=0.05", "lcr, 48 ch, strength.lcr=0.2"]
    none, weak, strong = axes.lines
    assert (none.get_color(), weak.get_color()) == ("#000000", "#0072B2")
    assert weak.get_color() != strong.get_color()
    assert weak.get_fillstyle() != strong.get_fillstyle()
    assert weak.get_marker() == strong.get_marker() != none.get_marker()
