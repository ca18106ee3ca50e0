"""The parent run of a sweep, from which the runs of its cells are opened."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from ssvae.track.base import CellRun, RunStatus
from ssvae.track.cell import MirroredCell, Store
from ssvae.track.folder import fingerprint


class Runs(Store, Protocol):
    """What a sweep needs of its tracker: the store of a cell, and a way to open runs."""

    def open_run(
        self,
        identity: Mapping[str, str],
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        *,
        own: bool,
        started_ms: int | None = None,
    ) -> str:
        """Id of the one run with the ``identity`` tags, created if need be."""
        ...


class MlflowSweep:
    """The parent run of a sweep."""

    def __init__(self, tracker: Runs, run_id: str, name: str) -> None:
        self._tracker = tracker
        self.run_id = run_id
        self.name = name

    def open_cell(
        self,
        cell_id: str,
        fields: Mapping[str, object],
        params: Mapping[str, str],
        tags: Mapping[str, str],
        *,
        own: bool = True,
        started_ms: int | None = None,
    ) -> CellRun:
        """The nested run of a cell, named by its fields; found again by its tags (sweep, cell_id).

        fields become tags and, where the config has no parameter of that name, parameters (the columns of MLflow's
        comparison view).
        """
        named = {key: str(value) for key, value in fields.items()}
        name = " ".join(f"{key}={value}" for key, value in named.items()) or cell_id
        identity = {"sweep": self.name, "cell_id": cell_id}
        extra = {**named, **tags, "role": "cell", "mlflow.parentRunId": self.run_id}
        with self._tracker.translated(f"cell {cell_id} cannot be opened in MLflow"):
            run_id = self._tracker.open_run(identity, name, extra, {**named, **params}, own=own, started_ms=started_ms)
        return MirroredCell(self._tracker, run_id)

    def log_artifacts(self, folder: Path) -> int:
        """Copy the files of ``folder`` (table, figures; no sub-folders) to the run's ``report/``, unless they are there
        as they are; returns how many were copied."""
        with self._tracker.translated(f"{folder} cannot be copied to MLflow"):
            files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
            digest = sha256("\n".join(f"{path.name} {fingerprint(path)}" for path in files).encode()).hexdigest()
            if not files or self._tracker.tags(self.run_id).get("uploaded.report") == digest:
                return 0
            for path in files:
                self._tracker.upload(self.run_id, path, "report", path.name)
            self._tracker.set_tags(self.run_id, {"uploaded.report": digest})
        return len(files)

    def finish(self, status: RunStatus) -> None:
        """Close the sweep's run."""
        with self._tracker.translated(f"sweep {self.name} cannot be closed in MLflow"):
            self._tracker.close_run(self.run_id, status, None)
