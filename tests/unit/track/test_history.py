"""Reading back what was stored, as often as it was stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssvae.track.base import TrackerError
from ssvae.track.client import SQLITE, client_class
from ssvae.track.history import read_cells


def test_every_stored_point_of_cells_is_read(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    uri = f"{SQLITE}{database}"
    client = client_class(uri)(tracking_uri=uri)
    experiment = client.create_experiment("grid", artifact_location=(tmp_path / "artifacts").as_uri())
    client.create_run(experiment, tags={"role": "sweep"})
    run = client.create_run(experiment, tags={"role": "cell"}, run_name="reg=none").info.run_id
    for time, step, value in ((1, 1, 0.5), (2, 2, 0.25), (3, 2, 0.125)):
        client.log_metric(run, "base/loss", value, timestamp=time, step=step)
    client.set_terminated(run, "KILLED")
    (cell,) = read_cells(database, "grid")
    assert (cell.run_id, cell.name, cell.status) == (run, "reg=none", "KILLED")
    assert sorted(cell.points["base/loss"]) == [(1, 0.5), (2, 0.125), (2, 0.25)]
    assert read_cells(database, "another") == []


def test_what_is_not_there_is_no_cell_and_is_not_made(tmp_path: Path) -> None:
    assert read_cells(tmp_path / "mlflow.db", "grid") == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database, and long enough to be taken for one" * 30)
    with pytest.raises(TrackerError, match=r"mlflow\.db cannot be read"):
        read_cells(tmp_path / "mlflow.db", "grid")
