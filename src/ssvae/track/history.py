"""What an MLflow database in a file holds of cells: statuses, and every stored point of every metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssvae.track.client import SQLITE, client_class, translated


@dataclass(frozen=True)
class TrackedCell:
    """The run of a cell. points: (step, value) of every metric, each as often as it was stored."""

    run_id: str
    name: str
    status: str
    points: dict[str, Sequence[tuple[int, float]]]


def read_cells(database: Path, experiment: str) -> list[TrackedCell]:
    """The runs of all cells in ``experiment``, oldest first; none where there is no such file or experiment.

    Nothing is written. Raises TrackerError for a file that is no database of MLflow's.
    """
    if not database.exists():
        return []
    uri = f"{SQLITE}{database.absolute()}"
    opened = client_class(uri)
    with translated(f"{database} cannot be read"):
        client = opened(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return []
        # A page holds 1000 runs, which is more cells than anyone reads the points of at once.
        runs = client.search_runs(
            [found.experiment_id], "tags.role = 'cell'", max_results=1000, order_by=["attributes.start_time ASC"]
        )
        return [
            TrackedCell(
                run_id=run.info.run_id,
                name=run.info.run_name,
                status=run.info.status,
                points={
                    key: [(int(row.step), float(row.value)) for row in client.get_metric_history(run.info.run_id, key)]
                    for key in run.data.metrics
                },
            )
            for run in runs
        ]
