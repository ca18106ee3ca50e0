"""``predict`` and the convergence files of ``report``, as commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssvae.cli.main import main
from ssvae.cli.predict import FILES


def metric(name: str, value: float, direction: str) -> dict[str, Any]:
    row = {"name": name, "value": value, "unit": "1", "direction": direction, "n": 4, "ci95": None}
    return {**row, "protocol": f"{name}/1"}


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Makes a sweep of finished cells; FD falls as the statistic ``a`` rises, and is scored at two checkpoints."""
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path))

    def make(name: str, cells: int) -> None:
        folder = tmp_path / "runs" / "sweeps" / name
        (folder / "cells").mkdir(parents=True)
        (folder / "sweep.json").write_text(json.dumps({"command": "python run.py -m reg=none,lcr", "notes": []}))
        for k in range(cells):
            reg = "none" if k == 0 else f"r{k}"
            values = {"measure": [metric("a", k, "none")], "probe": [metric("probe_fd", 9.0 - k, "down")]}
            curve = {"x": [100, 200], "y": [20.0, 9.0 - k], "x_label": "updates", "y_label": "FD", "direction": "down"}
            for stage, metrics in values.items():
                where = tmp_path / "runs" / "stages" / f"{stage}-{name}-{k}"
                where.mkdir(parents=True)
                (where / "metrics.json").write_text(json.dumps(metrics))
                (where / "done.json").write_text('{"seconds": 1.0}')
                if stage == "probe":
                    (where / "curves.json").write_text(json.dumps({"by_step/probe_fd": curve}))
            record = {
                "cell_id": f"{name}-{reg}",
                "fields": {"reg": reg, "channels": 48, "resolution": "32", "seed": 0},
                "status": "finished",
                "reason": None,
                "stages": {stage: f"runs/stages/{stage}-{name}-{k}" for stage in values},
            }
            (folder / "cells" / f"{reg}.json").write_text(json.dumps(record))

    return make


def test_predict_writes_beside_the_table(
    sweep: Callable[[str, int], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep("grid", 8)
    assert main(["predict", "grid", "--scores", "probe_fd"]) == 0
    folder = tmp_path / "results" / "grid"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert "probe_fd,down,a,exploratory,8,8,-1.0" in (folder / "predict.csv").read_text()
    assert "`python -m ssvae predict grid --scores probe_fd`" in (folder / "predict.md").read_text()
    said = capsys.readouterr().out
    assert "higher: better" in said
    assert all(str(folder / name) in said for name in FILES)


def test_predict_joins_sweeps(sweep: Callable[[str, int], None], tmp_path: Path) -> None:
    sweep("one", 3)
    sweep("two", 6)
    assert main(["predict", "one", "two"]) == 0
    assert (tmp_path / "results" / "predict" / "one+two" / "predict.md").exists()
    assert main(["predict", "one", "two", "--out", str(tmp_path / "there")]) == 0
    assert (tmp_path / "there" / "predict.png").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["few"], "finish 2 more settings"),
        (["unknown"], "sweep 'unknown' has no cells"),
        (["few", "--scores", ","], "names no score"),
        (["few", "--scores", "fvd"], "score 'fvd' is in no finished cell: choose from probe_fd"),
    ],
)
def test_predict_refuses_in_one_line_and_writes_nothing(
    sweep: Callable[[str, int], None], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    sweep("few", 3)
    assert main(["predict", *words]) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_report_writes_convergence_against_the_named_baseline(
    sweep: Callable[[str, int], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep("grid", 3)
    assert main(["report", "grid"]) == 0
    text = tmp_path / "results" / "grid" / "convergence.md"
    assert "baseline: `none`" in text.read_text()
    assert str(text) in capsys.readouterr().out
    assert main(["report", "grid", "--baseline", "r2"]) == 0
    assert "baseline: `r2`" in text.read_text()
    before = text.read_bytes()
    assert main(["report", "grid", "--baseline", "typo"]) == 2
    assert "choose one of none, r1, r2" in capsys.readouterr().err
    assert text.read_bytes() == before


def test_a_main_family_by_name(
    sweep: Callable[[str, int], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep("grid", 8)
    assert main(["predict", "grid", "--scores", "probe_fd", "--statistics", "a"]) == 0
    folder = tmp_path / "results" / "grid"
    assert "probe_fd,down,a,main,8,8,-1.0" in (folder / "predict.csv").read_text()
    assert "`python -m ssvae predict grid --scores probe_fd --statistics a`" in (folder / "predict.md").read_text()
    assert "main family, with probe_fd" in capsys.readouterr().out
    for wrong, reason in (("typo", "no finished cell has typo"), (",", "names no statistic")):
        assert main(["predict", "grid", "--statistics", wrong]) == 2
        assert reason in capsys.readouterr().err


def test_several_sweeps_are_told_apart(sweep: Callable[[str, int], None], tmp_path: Path) -> None:
    """Regulariser ``none`` of the one and of the other sweep: each its own baseline, and both are named."""
    sweep("one", 3)
    sweep("two", 6)
    assert main(["predict", "one", "two", "--out", str(tmp_path / "there")]) == 0
    text = (tmp_path / "there" / "predict.md").read_text()
    assert "| one | none | 3 |" in text and "| two | 2 | 6 |" in text
