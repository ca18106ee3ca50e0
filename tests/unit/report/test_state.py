"""What ``status`` says of a sweep, from the folders alone."""

from __future__ import annotations

from pathlib import Path

from sweep_folders import list_cells, make_cell, make_grid, make_stage

from ssvae.report.state import last_step, state_lines, sweep_state


def test_every_state_is_told(tmp_path: Path) -> None:
    done = make_stage(tmp_path, "done", [])
    half = make_stage(tmp_path, "half", [], done=False)
    (tmp_path / half / "steps.jsonl").write_text('{"step": 10, "a": 1}\n{"step": 20, "a": 1}\n{"step": 30, "a')
    make_cell(tmp_path, "a", 48, {"pretrain": done, "probe": half}, status="running")
    make_cell(tmp_path, "b", 48, {"pretrain": done}, reused=["pretrain"])
    make_cell(tmp_path, "c", 128, {"pretrain": half}, status="failed", reason="disk full", seconds=4000.0)
    make_cell(tmp_path, "d", 48, {"pretrain": "runs/stages/nowhere"}, status="waiting", seconds=0.0)
    states = sweep_state(tmp_path, "grid")
    assert [(s.status, s.detail) for s in states] == [
        ("running", "probe, step 20, stage 2 of 2"),
        ("finished", "reused pretrain"),
        ("failed", "disk full (pretrain, step 20, stage 1 of 1)"),
        ("waiting", "pretrain, not started, stage 1 of 1"),
    ]
    lines = state_lines(states)
    assert (
        lines[0] == "running   reg=a channels=48 resolution=32 seed=0   a-48-0      1 min  probe, step 20, stage 2 of 2"
    )
    assert "1.1 h  disk full" in lines[2]
    assert lines[-1] == "4 cells: 1 failed, 1 finished, 1 running, 1 waiting"
    assert len({line.index("reg=") for line in lines[:-1]}) == 1


def test_the_last_step_is_the_last_whole_one_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    assert last_step(path) is None
    path.write_text('{"st')
    assert last_step(path) is None
    path.write_text("".join(f'{{"step": {i}, "loss": {i / 7}}}\n' for i in range(5000)) + '{"step": 5000, "lo')
    assert path.stat().st_size > 1 << 16
    assert last_step(path) == 4999


def test_only_the_listed_cells_have_a_state(tmp_path: Path) -> None:
    make_grid(tmp_path)
    assert len(sweep_state(tmp_path, "grid")) == 8
    list_cells(tmp_path, ["none-48-0", "lmr-128-0"])
    assert [state.cell_id for state in sweep_state(tmp_path, "grid")] == ["lmr-128-0", "none-48-0"]
