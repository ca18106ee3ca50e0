"""The measurement itself, as short as it can be: what is measured really hangs, and changes no number."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssvae.track import stall
from ssvae.track.stall import Spent, compare


def test_all_kinds_write_the_same_and_only_the_tracked_one_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(stall, "SIZE", 8)
    rows = compare(tmp_path, 2, 3)
    assert len(rows) == 2
    for row in rows:
        assert set(row) == {"off", "hanging", "naive"}
        assert {kind: spent["calls"] for kind, spent in row.items()} == {"off": 0, "hanging": 4, "naive": 0}
        assert 0 < row["hanging"]["inside_wall_s"] < row["hanging"]["wall_s"]
        assert row["off"]["inside_wall_s"] == 0.0
    assert len((tmp_path / "runs" / "stages" / "pretrain-naive1" / "steps.jsonl").read_text().splitlines()) == 3


def test_a_call_that_waits_is_seen() -> None:
    """Wall time where it sleeps, processor time where it works."""
    spent = Spent()
    spent.inside(lambda: sum(range(300_000)))
    assert 0 < spent.inside_cpu_s <= spent.inside_wall_s * 1.5
    working = spent.inside_cpu_s
    spent.inside(stall.time.sleep, 0.05)
    assert spent.inside_wall_s >= 0.05
    assert spent.inside_cpu_s < working + 0.04
    assert spent.calls == 2
