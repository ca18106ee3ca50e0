"""From run folders to rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sweep_folders import make_cell, make_grid, make_stage, metric_row

from ssvae.report.collect import collect


def test_rows_come_by_channels_then_regulariser_then_seed(tmp_path: Path) -> None:
    make_grid(tmp_path, seeds=2, failing=None)
    make_cell(tmp_path, "aaa", 48, {})
    got = [(row.fields["channels"], row.fields["reg"], row.fields["seed"]) for row in collect(tmp_path, "grid")]
    regs = [(reg, seed) for reg in ("none", "lcr", "lmr", "lcr_lmr") for seed in (0, 1)]
    assert got == [(48, *r) for r in regs] + [(48, "aaa", 0)] + [(128, *r) for r in regs]


def test_values_units_and_curves_are_read(tmp_path: Path) -> None:
    make_grid(tmp_path)
    row = collect(tmp_path, "grid")[1]
    assert row.cell_id == "lcr-48-0"
    metric = row.metrics["psnr_db"]
    assert (metric.value, metric.unit, metric.direction, metric.n) == (30.0 - 1 / 3, "dB", "up", 16)
    assert metric.ci95 == (29.0, 31.0)
    assert row.value("local_correlation") is None
    assert row.value("not there") is None
    assert row.curves["dct_spectrum"].y == (0.6, 0.2, 0.1, 0.0)


def test_only_finished_stages_count_and_later_ones_win(tmp_path: Path) -> None:
    stages = {
        "pretrain": make_stage(tmp_path, "p", [metric_row("psnr_db", 1.0), metric_row("zeta", 1.0)]),
        "measure": make_stage(tmp_path, "m", [metric_row("psnr_db", 2.0)]),
        "probe": make_stage(tmp_path, "q", [metric_row("psnr_db", 3.0)], done=False),
    }
    make_cell(tmp_path, "none", 48, stages, status="running")
    [row] = collect(tmp_path, "grid")
    assert (row.value("psnr_db"), row.value("zeta"), row.status) == (2.0, 1.0, "running")


def test_a_finished_cell_without_its_stage_says_so(tmp_path: Path) -> None:
    make_cell(tmp_path, "none", 48, {"measure": "runs/stages/gone"})
    [row] = collect(tmp_path, "grid")
    assert row.reason is not None
    assert "runs/stages/gone is not there" in row.reason


def test_two_protocols_of_one_metric_are_refused_by_name(tmp_path: Path) -> None:
    for reg, protocol in (("none", "ssim/1"), ("lcr", "ssim/2;window=11"), ("lmr", "ssim/1")):
        stage = make_stage(tmp_path, reg, [metric_row("ssim", 0.9, protocol=protocol), metric_row("zeta", 1.0)])
        make_cell(tmp_path, reg, 48, {"measure": stage})
    with pytest.raises(ValueError, match="ssim") as caught:
        collect(tmp_path, "grid")
    message = str(caught.value)
    assert "ssim/1 in none-48-0, lmr-48-0; ssim/2;window=11 in lcr-48-0" in message
    assert "zeta" not in message


def test_an_unknown_sweep_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no sweeps yet"):
        collect(tmp_path, "grid")
    make_grid(tmp_path)
    with pytest.raises(ValueError, match=r"'other' has no cells.*: grid"):
        collect(tmp_path, "other")


def test_broken_files_are_named(tmp_path: Path) -> None:
    make_grid(tmp_path)
    broken = tmp_path / "runs" / "stages" / "measure-lcr-48-0" / "curves.json"
    broken.write_text(json.dumps({"dct_spectrum": {"x": [0, 1], "y": [1.0], "x_label": "", "y_label": ""}}))
    with pytest.raises(ValueError, match=r"dct_spectrum in .*measure-lcr-48-0.* 2 x and 1 y"):
        collect(tmp_path, "grid")
    broken.write_text("{")
    with pytest.raises(ValueError, match=r"measure-lcr-48-0/curves\.json is not valid JSON"):
        collect(tmp_path, "grid")
