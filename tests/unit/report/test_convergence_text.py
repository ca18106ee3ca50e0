"""Convergence files: what they say, that they are made again identically, and go when nothing is scored any more."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from probed_cells import by_step, make_probed

from ssvae.report.collect import CellRow, collect
from ssvae.report.convergence import convergence
from ssvae.report.convergence_figure import convergence_figure
from ssvae.report.convergence_text import convergence_csv, convergence_markdown
from ssvae.report.table import TableNotes
from ssvae.report.write import CONVERGENCE, write_convergence, write_report

X = (100, 200, 300, 400)
NOTES = TableNotes("grid", "python run.py -m reg=none,lcr")


@pytest.fixture
def rows(tmp_path: Path) -> list[CellRow]:
    """Two seeds: lcr needs 200 and 100 (or less) of 400 updates, lmr arrives in one seed only."""
    curves = {
        "none": [(40, 30, 25, 20), (42, 32, 27, 24)],
        "lcr": [(30, 20, 22, 10), (24, 15, 14, 13)],
        "lmr": [(40, 30, 25, 20), (40, 30, 27, 25)],
    }
    for reg, seeds in curves.items():
        for seed, y in enumerate(seeds):
            steps = {"probe_fd": by_step(X, y, low=[v - 1 for v in y], high=[v + 1 for v in y], protocol="probe_fd/1")}
            make_probed(tmp_path, reg, seed=seed, scored={"probe_fd": float(y[-1])}, steps=steps)
    return collect(tmp_path, "grid")


def test_csv_has_a_line_a_cell(rows: list[CellRow]) -> None:
    lines = {line["cell_id"]: line for line in csv.DictReader(io.StringIO(convergence_csv(convergence(rows))))}
    assert len(lines) == 6
    lcr, lmr = lines["lcr-48-0"], lines["lmr-48-1"]
    assert (lcr["metric"], lcr["reg"], lcr["baseline_seed"], lcr["target"]) == ("probe_fd", "lcr", "0", "20.0")
    assert (lcr["outcome"], lcr["updates"], lcr["speed_up"], lcr["kept"]) == ("reached", "200.0", "2.0", "no")
    assert lines["lcr-48-1"]["outcome"] == "at first checkpoint"
    assert (lmr["outcome"], lmr["updates"], lmr["speed_up"], lmr["kept"]) == ("not reached", "", "", "")


def test_markdown_says_bounds_and_failures_in_words(rows: list[CellRow]) -> None:
    text = convergence_markdown(convergence(rows), NOTES, "none")
    lcr, lmr = (next(line for line in text.splitlines() if line.startswith(f"| {reg} ")) for reg in ("lcr", "lmr"))
    assert "| 2 of 2 | 200; ≤ 100 | ≥ 2.83 [0.03, 231.22] | 1 of 2 | 20.00; 24.00 |" in lcr
    assert "| 1 of 2 | 400; not reached in 400 | not reached by all | 0 of 1 |" in lmr
    assert "probe FD ↓" in text and "Protocol: probe_fd/1." in text and "baseline: `none`" in text


def test_without_a_baseline_the_files_say_so(tmp_path: Path) -> None:
    make_probed(tmp_path, "lcr", steps={"probe_fd": by_step(X, (4, 3, 2, 1)), "odd": by_step(X, (4, 3, 2, 1), None)})
    found = convergence(collect(tmp_path, "grid"))
    text = convergence_markdown(found, NOTES, "none")
    assert "No finished cell of `none`" in text
    assert "no better side" in text
    assert {line["outcome"] for line in csv.DictReader(io.StringIO(convergence_csv(found)))} == {"no target"}
    assert len(convergence_figure(found, "grid").axes) == 2


def test_finished_vaes_share_a_panel_and_the_text_says_across_what(tmp_path: Path) -> None:
    for vae, channels, end in (("wan22", 48, 2), ("wan21", 16, 1)):
        others = {"vae": vae, "weights": "finished"}
        make_probed(tmp_path, "finished", channels, others=others, steps={"fd": by_step(X, (4, 3, 2.5, end))})
    rows = collect(tmp_path, "grid")
    assert "`--baseline vae=wan21`" in convergence_markdown(convergence(rows), NOTES, "none")
    found = convergence(rows, "vae=wan22")
    text = convergence_markdown(found, NOTES, "vae=wan22")
    assert "compared across channel counts" in text and "| finished | 16 | 32 | wan21 |" in text
    lines = {line["vae"]: line for line in csv.DictReader(io.StringIO(convergence_csv(found)))}
    assert (lines["wan21"]["baseline_channels"], lines["wan21"]["target"]) == ("48", "2.0")
    [axes] = convergence_figure(found, "grid").axes
    assert axes.get_title(loc="left") == "all channels, 32 px"
    assert len([line for line in axes.lines if len(np.asarray(line.get_xdata())) == 4]) == 2
    assert "across channel counts" not in convergence_markdown(convergence(rows, "reg=finished"), NOTES, "reg=finished")


def test_figure_shows_mean_band_target_and_crossings(rows: list[CellRow]) -> None:
    [axes] = convergence_figure(convergence(rows), "grid").axes
    curves = {to_hex(line.get_color()): line for line in axes.lines if len(np.asarray(line.get_xdata())) == 4}
    np.testing.assert_allclose(np.asarray(curves["#0072b2"].get_ydata()), [27, 17.5, 18, 11.5])
    dashed = [line for line in axes.lines if line.get_linestyle() == "--" and len(np.asarray(line.get_xdata())) == 2]
    assert [np.asarray(line.get_ydata()).tolist() for line in dashed] == [[22, 22]]
    rings = [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axes.lines if len(line.get_xdata()) == 1
    ]
    assert sorted(rings) == [(100, 24), (200, 20), (400, 20), (400, 20), (400, 24)]
    assert len(axes.collections) == 3
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (20, 42)


def test_seeds_with_other_checkpoints_share_what_they_share(tmp_path: Path) -> None:
    make_probed(tmp_path, "none", seed=0, steps={"probe_fd": by_step(X, (40, 30, 25, 20))})
    make_probed(tmp_path, "none", seed=1, steps={"probe_fd": by_step((100, 250, 400), (42, 30, 22))})
    [axes] = convergence_figure(convergence(collect(tmp_path, "grid")), "grid").axes
    shared = next(line for line in axes.lines if line.get_marker() == "o" and len(np.asarray(line.get_xdata())) == 2)
    assert np.asarray(shared.get_xdata()).tolist() == [100, 400]
    assert np.asarray(shared.get_ydata()).tolist() == [41, 21]


def test_one_seed_has_the_interval_over_samples(tmp_path: Path) -> None:
    make_probed(tmp_path, "none", steps={"probe_fd": by_step(X, (4, 3, 2, 1), low=[3, 2, 1, 0], high=[9, 8, 7, 6])})
    [axes] = convergence_figure(convergence(collect(tmp_path, "grid")), "grid").axes
    [band] = axes.collections
    assert (band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()) == (0, 9)


def test_the_report_adds_three_files_made_again_identically(rows: list[CellRow], tmp_path: Path) -> None:
    folder = tmp_path / "results"
    written = write_report(rows, folder, NOTES)
    assert [path.name for path in written[-3:]] == list(CONVERGENCE)
    assert len(written) == 7
    before = [path.read_bytes() for path in written]
    write_report(rows, folder, NOTES)
    assert [path.read_bytes() for path in written] == before
    write_convergence(rows, folder, NOTES, "lmr")
    assert "baseline: `lmr`" in (folder / "convergence.md").read_text()


def test_files_of_an_earlier_use_of_the_name_go(rows: list[CellRow], tmp_path: Path) -> None:
    write_report(rows, tmp_path / "results", NOTES)
    without = [CellRow(row.cell_id, row.fields, row.status, metrics=row.metrics) for row in rows]
    assert len(write_report(without, tmp_path / "results", NOTES)) == 4
    assert not [name for name in CONVERGENCE if (tmp_path / "results" / name).exists()]
