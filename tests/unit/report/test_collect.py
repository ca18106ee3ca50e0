"""From run folders to rows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from sweep_folders import list_cells, make_cell, make_grid, make_stage, make_strengths, metric_row

from ssvae.report.collect import CellRow, cell_paths, collect, read_cell
from ssvae.report.palette import looks


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


def test_only_the_listed_cells_belong_to_the_sweep(tmp_path: Path) -> None:
    make_grid(tmp_path)
    # An earlier use of the name left a cell behind that could not even share a table with these.
    old = make_stage(tmp_path, "old", [metric_row("psnr_db", 1.0, protocol="psnr_db/0")])
    make_cell(tmp_path, "none", 16, {"measure": old})
    with pytest.raises(ValueError, match="none-16-0"):
        collect(tmp_path, "grid")
    list_cells(tmp_path, ["lcr-48-0", "none-48-0", "none-128-0"])
    assert [row.cell_id for row in collect(tmp_path, "grid")] == ["none-48-0", "lcr-48-0", "none-128-0"]
    assert [path.name for path in cell_paths(tmp_path, "grid")] == [
        "lcr-48-0.json",
        "none-128-0.json",
        "none-48-0.json",
    ]


def test_a_sweep_without_a_list_has_every_cell(tmp_path: Path) -> None:
    make_grid(tmp_path)
    (tmp_path / "runs" / "sweeps" / "grid" / "sweep.json").write_text('{"command": "python run.py", "notes": []}')
    assert len(collect(tmp_path, "grid")) == 8


def test_a_listed_cell_that_is_gone_and_a_wrong_list_are_told(tmp_path: Path) -> None:
    make_grid(tmp_path)
    list_cells(tmp_path, ["none-48-0", "gone-1", "gone-0"])
    with pytest.raises(ValueError, match=r"sweep\.json are not in .*: gone-0, gone-1; run the sweep's command again"):
        collect(tmp_path, "grid")
    for wrong in ("none-48-0", [1]):
        list_cells(tmp_path, wrong)
        with pytest.raises(ValueError, match="must be a list of cell ids"):
            collect(tmp_path, "grid")


def test_one_cell_is_read_whatever_the_others_measured(tmp_path: Path) -> None:
    paths = {}
    for reg, protocol in (("none", "ssim/1"), ("lcr", "ssim/2")):
        stage = make_stage(tmp_path, reg, [metric_row("ssim", 0.9, protocol=protocol)])
        paths[reg] = make_cell(tmp_path, reg, 48, {"measure": stage})
    with pytest.raises(ValueError, match="2 protocols"):
        collect(tmp_path, "grid")
    row = read_cell(tmp_path, paths["lcr"])
    assert (row.cell_id, row.metrics["ssim"].protocol) == ("lcr-48-0", "ssim/2")


def test_other_fields_order_and_name_the_rows(tmp_path: Path) -> None:
    # As numbers 5 < 10, as text "10" < "5"; seeds of one strength stay together.
    make_strengths(tmp_path, ("5", "10"), seeds=2)
    rows = collect(tmp_path, "grid")
    assert [(row.label, row.fields["seed"]) for row in rows] == [
        (label, seed)
        for label in ("none, 48 ch", "lcr, 48 ch, strength.lcr=5", "lcr, 48 ch, strength.lcr=10")
        for seed in (0, 1)
    ]


def test_a_vae_that_was_not_trained_here_is_called_by_its_name() -> None:
    fields = {"reg": "-", "channels": 48, "resolution": "256", "seed": 0, "weights": "given", "vae": "wan22"}
    row, own = CellRow("a", fields, "finished"), CellRow("b", {**fields, "reg": "lcr", "vae": "ssvae"}, "finished")
    assert (row.who, row.label) == ("wan22", "wan22, 48 ch")
    assert (own.who, own.label) == ("lcr", "lcr, 48 ch, vae=ssvae, weights=given")
    other = CellRow("c", {**fields, "vae": "ssvae48"}, "finished")
    assert len({look.colour for look in looks([row, own, other])}) == 3


def test_curves_may_carry_intervals_direction_and_protocol(tmp_path: Path) -> None:
    plain = {"x": [1, 2], "y": [3.0, None], "x_label": "a", "y_label": "b"}
    full = {**plain, "low": [2.0, None], "high": [4.0, 5.0], "direction": "down", "protocol": "p/1"}
    stage = make_stage(tmp_path, "s", [], curves={"old": plain, "by_step/fvd": full})
    make_cell(tmp_path, "none", 48, {"probe": stage})
    [row] = collect(tmp_path, "grid")
    old, new = row.curves["old"], row.curves["by_step/fvd"]
    assert (old.low, old.high, old.direction, old.protocol) == (None, None, None, None)
    assert new.low is not None and new.low[0] == 2.0 and math.isnan(new.low[1]) and math.isnan(new.y[1])
    assert (new.high, new.direction, new.protocol) == ((4.0, 5.0), "down", "p/1")
    (tmp_path / stage / "curves.json").write_text(json.dumps({"by_step/fvd": {**full, "high": [4.0]}}))
    with pytest.raises(ValueError, match=r"by_step/fvd in .* has 2 x and 1 high values"):
        collect(tmp_path, "grid")


def test_rows_know_which_stage_measured_what_and_how_the_probe_was_told(tmp_path: Path) -> None:
    texts = ("probe: {steps: 1}\nseed: 0\n", "probe: {steps: 1}\nseed: 1\nparents: {a: b}\n", "probe: {steps: 2}\n", "")
    for reg, text in zip(("a", "b", "c", "d"), texts, strict=True):
        stages = {
            "measure": make_stage(tmp_path, f"m-{reg}", [metric_row("zeta", 1.0)]),
            "probe": make_stage(tmp_path, f"p-{reg}", [metric_row("probe_reward", 1.0)]),
        }
        if text:
            (tmp_path / stages["probe"] / "config.yaml").write_text(text)
        make_cell(tmp_path, reg, 48, stages)
    a, b, c, d = collect(tmp_path, "grid")
    assert a.origins == {"zeta": "measure", "probe_reward": "probe"}
    assert a.stages["measure"] == "runs/stages/m-a"
    # Neither seed nor what it was trained on is a setting of the probe.
    assert a.probe == b.probe != c.probe and d.probe is None
    (tmp_path / "runs" / "stages" / "p-c" / "config.yaml").write_text("probe: [")
    with pytest.raises(ValueError, match=r"p-c/config\.yaml is not valid YAML"):
        collect(tmp_path, "grid")
