"""Mirror of run folders into MLflow: one parent run a sweep, one nested run a (sweep, cell).

Only this file knows MLflow, and it imports it when a tracker is made, because the import takes seconds. Traps
that are handled here:

* processes that create the same SQLite database at once break it for good: it is made by one process, under a lock,
  in a temporary file that is renamed when complete;
* relative locations put files into the working directory: database and artifacts are absolute;
* a run whose process died stays RUNNING for ever: its owner is a tag, and :meth:`MlflowTracker.reap` closes it;
* parameters cannot be changed: on resume only missing ones are logged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ssvae.track.base import CellRun, RunStatus, SweepRun, TrackerError
from ssvae.track.cell import MirroredCell, Point
from ssvae.track.process import owner_is_gone, process_tags

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SQLITE = "sqlite:///"
PARAM_LIMIT = 6000
"""Longest parameter value MLflow stores, in characters."""
_KEY_LIMIT = 250
_NOT_ALLOWED = re.compile(r"[^\w\-. :/]")
_BATCH = 100
_PAGE = 200
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # The defaults (120 s, 7 retries) would hold a final flush for minutes when a server is down.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


def sqlite_uri(path: Path) -> str:
    """The MLflow URI of a SQLite file, absolute: MLflow resolves relative ones against the working folder."""
    return f"{_SQLITE}{path.absolute()}"


def _import_client() -> type[MlflowClient]:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise TrackerError(f"MLflow cannot be imported ({error}): install it or switch tracking off") from error
    return MlflowClient


@contextmanager
def _translated(what: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    # ValueError, KeyError, TypeError: a malformed file in a run folder.
    except (MlflowException, SQLAlchemyError, OSError, ValueError, KeyError, TypeError) as error:
        lines = str(error).strip().splitlines() or [""]
        raise TrackerError(f"{what}: {type(error).__name__}: {lines[0]}") from error


class MlflowTracker:
    """A tracker that mirrors into one MLflow experiment.

    uri: ``sqlite:////absolute/path.db`` or an ``http(s)://`` server. artifact_root: absolute folder for artifacts of a
    SQLite database (a server chooses its own). lock_timeout_s: longest wait for other processes that open runs.
    Raises ValueError for a relative location, TrackerError when the database or server cannot be used.
    """

    def __init__(self, uri: str, artifact_root: Path, experiment: str, lock_timeout_s: float = 60.0) -> None:
        self._database = Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None
        for path in (self._database, artifact_root):
            if path is not None and not path.is_absolute():
                raise ValueError(f"MLflow location {path} is relative: give an absolute path")
        self._root = artifact_root
        client_class = _import_client()
        beside = self._database if self._database is not None else artifact_root
        self._lock = FileLock(beside.with_name(beside.name + ".lock"), timeout=lock_timeout_s)
        with _translated(f"MLflow at {uri} cannot be opened"):
            beside.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:
                if self._database is not None and not self._database.exists():
                    self._create_database(self._database)
                self._client = client_class(tracking_uri=uri)
                self._experiment = self._find_experiment(experiment)

    def _create_database(self, path: Path) -> None:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        # A process that is killed during the migrations leaves only this file behind, never half a database.
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        store = SqlAlchemyStore(f"{_SQLITE}{temporary}", self._root.as_uri())
        store.engine.dispose()
        temporary.replace(path)

    def _find_experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        location = self._root.as_uri() if self._database is not None else None
        if found is None:
            return str(self._client.create_experiment(name, artifact_location=location))
        if found.lifecycle_stage != "active":
            raise TrackerError(f"MLflow experiment '{name}' was deleted: restore it or choose another track.experiment")
        if location is not None and found.artifact_location.rstrip("/") != location:
            raise TrackerError(
                f"MLflow experiment '{name}' keeps its files in {found.artifact_location}, not in {location} (was the "
                f"project moved?): remove {self._database}, it can be filled again from the run folders"
            )
        return str(found.experiment_id)

    def open_sweep(self, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> SweepRun:
        """The parent run of sweep ``name``: found again by its tag, or created."""
        with _translated(f"sweep {name} cannot be opened in MLflow"):
            run_id = self.open_run({"sweep": name, "role": "sweep"}, name, tags)
            self.log_params(run_id, params)
        return MlflowSweep(self, run_id, name)

    def open_run(self, identity: Mapping[str, str], name: str, tags: Mapping[str, str]) -> str:
        """Id of the one run with the ``identity`` tags, created if need be and set RUNNING, owned by this process."""
        assert not any("'" in value for value in identity.values()), identity
        query = " and ".join(f"tags.{key} = '{value}'" for key, value in identity.items())
        every = {**tags, **identity, **process_tags()}
        # Search and creation under one lock: two calls at once must not create twins.
        with self._lock:
            found = self._client.search_runs(
                [self._experiment], query, max_results=1, order_by=["attributes.start_time ASC"]
            )
            if not found:
                run = self._client.create_run(self._experiment, tags=every, run_name=name)
                return str(run.info.run_id)
            run_id = str(found[0].info.run_id)
            self.set_tags(run_id, every)
            self._client.update_run(run_id, status="RUNNING")
            return run_id

    def translated(self, what: str) -> AbstractContextManager[None]:
        """Turn the errors of MLflow, its database, the file system and malformed run folders into TrackerError."""
        return _translated(what)

    def key(self, name: str) -> str:
        """``name`` with characters that MLflow refuses replaced by ``_``, at most 250 characters long."""
        return _NOT_ALLOWED.sub("_", name)[:_KEY_LIMIT]

    def tags(self, run_id: str) -> Mapping[str, str]:
        """All tags of a run."""
        return dict(self._client.get_run(run_id).data.tags)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set several tags at once."""
        from mlflow.entities import RunTag

        rows = [RunTag(self.key(key), str(value)) for key, value in tags.items()]
        for start in range(0, len(rows), _BATCH):
            self._client.log_batch(run_id, tags=rows[start : start + _BATCH])

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Log parameters that the run lacks; the names of those that changed since go into tag ``params_changed``."""
        from mlflow.entities import Param

        there = self._client.get_run(run_id).data.params
        wanted = {self.key(key): str(value)[:PARAM_LIMIT] for key, value in params.items()}
        missing = [Param(key, value) for key, value in wanted.items() if key not in there]
        for start in range(0, len(missing), _BATCH):
            self._client.log_batch(run_id, params=missing[start : start + _BATCH])
        changed = sorted(key for key, value in wanted.items() if there.get(key, value) != value)
        if changed:
            self.set_tags(run_id, {"params_changed": ", ".join(changed)[:PARAM_LIMIT]})

    def latest(self, run_id: str) -> dict[str, Point]:
        """The point with the highest step of every metric."""
        # The protobuf form is the one public way to the step of the latest value without its whole history.
        rows = self._client.get_run(run_id).data.to_proto().metrics
        return {row.key: Point(row.key, row.value, int(row.timestamp), int(row.step)) for row in rows}

    def history(self, run_id: str, key: str) -> list[Point]:
        """Every point of one metric."""
        rows = self._client.get_metric_history(run_id, key)
        return [Point(row.key, row.value, int(row.timestamp), int(row.step)) for row in rows]

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """Store up to 1000 points in one transaction; points that are there already change nothing."""
        from mlflow.entities import Metric

        if points:
            self._client.log_batch(run_id, metrics=[Metric(*point) for point in points])

    def upload(self, run_id: str, file: Path, where: str) -> None:
        """Copy ``file`` into the directory ``where`` of the run's artifacts."""
        self._client.log_artifact(run_id, str(file), where)

    def close_run(self, run_id: str, status: RunStatus) -> None:
        """Set the final status."""
        self._client.set_terminated(run_id, status)

    def reap(self) -> int:
        """Set KILLED every RUNNING run whose owner, a process of this machine, is gone; returns how many."""
        count = 0
        # Under the lock, so that a run that is being opened again right now is not taken for an orphan.
        with _translated("orphaned MLflow runs cannot be closed"), self._lock:
            for run in list(self._running()):
                if owner_is_gone(run.data.tags):
                    self.set_tags(run.info.run_id, {"reason": "its process died"})
                    self._client.set_terminated(run.info.run_id, "KILLED")
                    count += 1
        return count

    def _running(self) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment], "attributes.status = 'RUNNING'", max_results=_PAGE, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return


class MlflowSweep:
    """The parent run of a sweep."""

    def __init__(self, tracker: MlflowTracker, run_id: str, name: str) -> None:
        self._tracker = tracker
        self.run_id = run_id
        self.name = name

    def open_cell(
        self, cell_id: str, fields: Mapping[str, object], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> CellRun:
        """The nested run of a cell, named by its fields; found again by its tags (sweep, cell_id).

        fields become tags and, where the config has no parameter of that name, parameters (the columns of MLflow's
        comparison view).
        """
        named = {key: str(value) for key, value in fields.items()}
        name = " ".join(f"{key}={value}" for key, value in named.items()) or cell_id
        identity = {"sweep": self.name, "cell_id": cell_id}
        with _translated(f"cell {cell_id} cannot be opened in MLflow"):
            extra = {**named, **tags, "role": "cell", "mlflow.parentRunId": self.run_id}
            run_id = self._tracker.open_run(identity, name, extra)
            self._tracker.log_params(run_id, {**named, **params})
        return MirroredCell(self._tracker, run_id)

    def log_artifacts(self, folder: Path) -> int:
        """Copy the files of ``folder`` (table, figures; no sub-folders) to the run's ``report/``."""
        with _translated(f"{folder} cannot be copied to MLflow"):
            files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
            for path in files:
                self._tracker.upload(self.run_id, path, "report")
        return len(files)

    def finish(self, status: RunStatus) -> None:
        """Close the sweep's run."""
        with _translated(f"sweep {self.name} cannot be closed in MLflow"):
            self._tracker.close_run(self.run_id, status)
