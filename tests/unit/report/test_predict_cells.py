"""Cells of several sweeps: each once, each against its own baseline, and which of them share a VAE."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from probed_cells import by_step, make_probed
from sweep_folders import make_cell, make_stage, metric_row

from ssvae.report.collect import collect
from ssvae.report.predict import predict
from ssvae.report.predict_cells import collect_sweeps, distinct_vaes, with_steps_to_baseline
from ssvae.report.predict_figure import predict_figure


def make_five(root: Path) -> None:
    for vae in range(5):
        make_probed(root, f"r{vae}", measured={"good": -vae}, scored={"probe_fd": vae})


def test_vaes_merge_by_setting_and_by_shared_stages(tmp_path: Path) -> None:
    shared = {"base": "runs/stages/base", "pretrain": "runs/stages/p"}
    make_probed(tmp_path, "a", seed=0, stages={"base": "runs/stages/base"})
    make_probed(tmp_path, "a", seed=1)
    make_probed(tmp_path, "b", stages=shared, others={"weights": "ema"})
    make_probed(tmp_path, "b", stages=shared, others={"weights": "raw"})
    make_probed(tmp_path, "c", others={"strength": "1"})
    make_probed(tmp_path, "c", others={"strength": "2"})
    rows = collect(tmp_path, "grid")
    vaes = dict(zip((row.cell_id for row in rows), distinct_vaes(rows), strict=True))
    assert vaes["a-48-0"] == vaes["a-48-1"]
    assert vaes["b-48-0-ema"] == vaes["b-48-0-raw"]
    assert len(set(vaes.values())) == 4


def test_vaes_merge_by_recorded_settings_not_by_fields(tmp_path: Path) -> None:
    """Equal fields, but another experiment: trained longer. Seeds of each are one VAE, the experiments are two."""
    for sweep, steps in (("short", 10), ("long", 90)):
        for seed in (0, 1):
            stage = make_stage(tmp_path, f"pretrain-{sweep}-{seed}", [])
            (tmp_path / stage / "config.yaml").write_text(f"train: {{steps: {steps}}}\nseed: {seed}\nparents: {{}}\n")
            make_probed(tmp_path / sweep, "none", seed=seed, stages={"pretrain": f"../{stage}"})
    rows = [row for sweep in ("short", "long") for row in collect(tmp_path / sweep, "grid")]
    vaes = distinct_vaes([replace(row, stages={"pretrain": str(k)}) for k, row in enumerate(rows)])
    assert vaes == [0, 0, 2, 2]
    assert distinct_vaes([replace(row, vae=None, stages={}) for row in rows]) == [0, 0, 0, 0]


def test_updates_to_the_baseline_are_a_score_and_never_is_last(tmp_path: Path) -> None:
    for vae in range(6):
        curve = by_step((100, 200, 300), (30, 20, 10 + 2 * vae))
        make_probed(tmp_path, f"r{vae}", measured={"a": vae}, scored={"probe_fd": 1.0 + vae}, steps={"probe_fd": curve})
    make_probed(tmp_path, "none", measured={"a": 9}, steps={"probe_fd": by_step((100, 200, 300), (30, 20, 14))})
    rows = with_steps_to_baseline(collect(tmp_path, "grid"))
    updates = [row.value("steps_to_baseline_probe_fd") for row in rows]
    # none (first in order) at 300; 10 and 12 are met before, 14 at the end, the others never.
    assert updates == [300, 260, 275, 300, math.inf, math.inf, math.inf]
    found = predict(rows, ["steps_to_baseline_probe_fd"])
    assert found.scores == ("steps_to_baseline_probe_fd",)
    assert found.relations[0].sign == "higher: worse"
    [axes, *_] = predict_figure(found, "t").axes
    assert "not reached" in [text.get_text() for text in axes.texts]


def other_sweep(root: Path, cells: dict[str, str], protocol: str) -> None:
    """A second sweep beside ``grid``, whose cells have the given measure stages; none: one of its own."""
    for reg, where in cells.items():
        measure = where or make_stage(root, f"other-{reg}", [metric_row("good", 1.0, protocol=protocol)])
        path = make_cell(root, reg, 48, {"measure": measure, "probe": f"runs/stages/probe-{reg}-48-0"})
        target = root / "runs" / "sweeps" / "second" / "cells" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)


def test_sweeps_are_joined_and_shared_work_counts_once(tmp_path: Path) -> None:
    make_five(tmp_path)
    make_probed(tmp_path, "unfinished", status="failed")
    other_sweep(tmp_path, {"r0": "runs/stages/measure-r0-48-0"}, "good/1")
    make_five(tmp_path)
    assert len(collect_sweeps(tmp_path, ["second"])) == 1
    assert len(collect_sweeps(tmp_path, ["grid", "second", "grid"])) == 5


def test_each_sweep_has_its_own_baseline_and_number(tmp_path: Path) -> None:
    for end in (20, 10):
        name = f"sweep{end}"
        for vae, reg in enumerate(("none", "a", "b", "c", "d")):
            curve = by_step((100, 200), (30, end + (0 if reg == "none" else vae - 3)))
            make_probed(
                tmp_path, reg, measured={"m": vae}, scored={"probe_fd": end + vae}, steps={"probe_fd": curve},
                others={"of": name},
            )  # fmt: skip
        (tmp_path / "runs" / "sweeps" / "grid").rename(tmp_path / "runs" / "sweeps" / name)
    for path in (tmp_path / "runs" / "sweeps").glob("*/cells/*.json"):
        record = json.loads(path.read_text())
        del record["fields"]["of"]
        path.write_text(json.dumps(record))
    rows = collect_sweeps(tmp_path, ["sweep20", "sweep10"])
    by_sweep = {(row.sweep, row.fields["reg"]): row.value("steps_to_baseline_probe_fd") for row in rows}
    assert [by_sweep[sweep, "none"] for sweep in ("sweep20", "sweep10")] == [200, 200]
    # Against the mean of both baselines, every cell of the first sweep would be late and of the second early.
    assert [by_sweep["sweep20", reg] for reg in "abcd"][2:] == [200, math.inf]
    assert [by_sweep["sweep10", reg] for reg in "abcd"][2:] == [200, math.inf]
    figure = predict_figure(predict(rows), "t")
    assert [text.get_text() for text in figure.legends[0].texts][-2:] == ["sweep20: without a number", "sweep10"]
    assert {text.get_text() for text in figure.axes[0].texts} >= {"2"}


def test_sweeps_of_other_protocols_are_not_mixed(tmp_path: Path) -> None:
    make_five(tmp_path)
    other_sweep(tmp_path, {"r9": ""}, "good/2")
    (tmp_path / "runs" / "stages" / "probe-r9-48-0").mkdir(parents=True)
    (tmp_path / "runs" / "stages" / "probe-r9-48-0" / "done.json").write_text("{}")
    with pytest.raises(ValueError, match=r"metric good was measured by 2 protocols: good/1 in .*; good/2 in r9-48-0"):
        collect_sweeps(tmp_path, ["grid", "second"])
