"""The overhead of a cell: arithmetic with a runner that only pretends, and settings that really compose."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from ssvae.bench import cell
from ssvae.config.compose import resolve


class Pretender:
    """12 s with 7.5 s of stages, then runs of a finished cell: 2 s tracked, 1.25 s untracked."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.roots: set[str] = set()

    def __call__(self, command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, str]:
        self.commands.append(list(command))
        root = Path(environment["SSVAE_ROOT"])
        self.roots.add(str(root))
        if len(self.commands) > 1:
            run = 1.25 if command[-1] == "track=none" else 2.0
            return 99.0, self._said(imports=50.0, compose=40.0, run=run, cpu=run + 1.5)
        for place, seconds in (("stages/pretrain-a", 5.0), ("stages/probe-b", 2.0), ("latents/c", 0.5)):
            folder = root / "runs" / place
            folder.mkdir(parents=True)
            (folder / "done.json").write_text(json.dumps({"seconds": seconds}))
        return 12.0, self._said(imports=1.5, compose=0.25, run=9.75, cpu=11.0)

    @staticmethod
    def _said(**times: float) -> str:
        return f"a table\nresults: somewhere\n{json.dumps(times)}\n"


def test_overhead_and_its_parts() -> None:
    run = Pretender()
    figure = cell.measure_cell(run)
    assert figure.stages_s == 7.5
    assert figure.overhead_s == 4.5
    assert figure.parts == {
        "start_and_exit": 0.5,
        "imports": 1.5,
        "compose": 0.25,
        "plan_and_report": 1.25,
        "tracking": 0.75,
        "first_time": 0.25,
    }
    assert sum(figure.parts.values()) == figure.overhead_s
    assert figure.finished_cpu_s == 3.5
    assert [command[-1] for command in run.commands] == ["track=mlflow", "track=mlflow", "track=none"]
    (root,) = run.roots
    assert not Path(root).exists()


def test_row_has_a_limit_instead_of_a_reference() -> None:
    row = cell.CellFigure(4.5, 7.5, {"imports": 4.5}, 3.5).to_json()
    assert row["median"] == 4.5 and row["limit_s"] == 5.0 and row["within_limit"] is True
    assert row["reference"] is None and row["ratio"] is None
    assert cell.CellFigure(5.0, 7.5, {}, 3.5).to_json()["within_limit"] is False


def test_tiny_settings_compose_into_one_cell_with_all_stages() -> None:
    (only,) = resolve(cell.TINY)
    assert only.cfg.stages.base is None
    assert only.cfg.stage.value == "all"
    assert only.cfg.stages.pretrain.train.steps == 2 and only.cfg.stages.probe.probe.train.steps == 2


def test_failing_process_is_named_with_its_last_words() -> None:
    command = [sys.executable, "-c", "import sys; print('on its way'); sys.exit('it broke')"]
    with pytest.raises(cell.CellError, match=r"cell ended with 1: on its way\nit broke"):
        cell.run_process(command, {})
    seconds, said = cell.run_process([sys.executable, "-c", "print('fine')"], {})
    assert seconds > 0 and said == "fine\n"
