"""Two calls of one grid at once share the work: every stage is computed by exactly one of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ssvae.core.files import read_json
from tiny_runs import command, environment, records

pytestmark = pytest.mark.system
GRID = ("-m", "reg=none,lcr")


@pytest.mark.parametrize("second", [GRID, ("-m", "reg=lcr,none,lmr")], ids=["the same", "an overlapping one"])
def test_no_stage_is_computed_twice(second: tuple[str, ...], tmp_path: Path) -> None:
    """From nothing: the data are also rendered once."""
    started = [
        subprocess.Popen(
            command(*overrides), env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for overrides in (GRID, second)
    ]
    outputs = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    folders = [*tmp_path.glob("runs/stages/*/run.json"), *tmp_path.glob("runs/latents/*/run.json")]
    cells = 2 if second == GRID else 3
    assert len(folders) == 1 + 5 * cells
    assert {str(path): read_json(path)["attempts"] for path in folders if read_json(path)["attempts"] != 1} == {}
    assert {record["status"] for record in records(tmp_path)} == {"finished"}
    assert len(list(tmp_path.glob("runs/data/synthetic-*"))) == 1
    tables = sorted(tmp_path.glob("results/*/table.csv"))
    assert len(tables) == (1 if second == GRID else 2)
    for table in tables:
        assert table.read_text().count(",finished,") == (2 if second == GRID or "reg2" in str(table) else 3)
