"""Mirror of run folders into MLflow: one parent run a sweep, one nested run a (sweep, cell).

Only this package knows MLflow, and this file imports it when a tracker is made, because the import takes a second.
Traps that are handled here:

* processes that create the same SQLite database at once break it for good: it is made by one process, under a lock,
  in a temporary file that is renamed when complete;
* a database without a server puts files into the working directory unless the experiment says where: it does;
* a run whose process died stays RUNNING for ever: its owner is a tag, and :meth:`MlflowTracker.reap` closes it;
* parameters cannot be changed: on resume only missing ones are logged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ssvae.core.tracking_uri import chosen_uri, masked
from ssvae.track.base import Lives, RunStatus, TrackerError, nobody
from ssvae.track.cell import Point
from ssvae.track.client import SQLITE, client_class, translated
from ssvae.track.limits import (
    KEY_LIMIT,
    PARAMS_PER_CALL,
    POINTS_PER_CALL,
    calls,
    cut_param,
    cut_tag,
    row_bytes,
    store_key,
    unique_keys,
)
from ssvae.track.process import owner_is_gone, process_tags
from ssvae.track.runs import MlflowSweep

if TYPE_CHECKING:
    from mlflow.entities import Run

_PAGE = 200


def sqlite_uri(path: Path) -> str:
    """The MLflow URI of a SQLite file, absolute: MLflow resolves relative ones against the working folder."""
    return f"{SQLITE}{path.absolute()}"


def prepare(root: Path, uri: str | None) -> None:
    """Import what MLflow needs for ``uri`` (as of :class:`MlflowTracker`), before work begins; nothing is opened.

    Raises TrackerError where MLflow is not installed.
    """
    client_class(_address(root, uri))


def _address(root: Path, uri: str | None) -> str:
    return chosen_uri(uri)[0] or sqlite_uri(root / "runs" / "mlflow.db")


class MlflowTracker:
    """A tracker that mirrors into one MLflow experiment.

    root: project whose ``runs/`` are mirrored. uri: None for ``<root>/runs/mlflow.db``, unless $MLFLOW_TRACKING_URI
    names another place. lives: asked before a run is taken for dead. lock_timeout_s: longest wait for other processes
    that open or write the same run. Files of a SQLite database lie beside it in ``mlartifacts``, of another database in
    ``<root>/runs/mlartifacts``; a server chooses its own place. Raises TrackerError when it cannot be used.
    """

    def __init__(
        self,
        root: Path,
        experiment: str,
        uri: str | None = None,
        lives: Lives = nobody,
        lock_timeout_s: float = 60.0,
    ) -> None:
        self._lives, self._timeout = lives, lock_timeout_s
        runs = root.absolute() / "runs"
        self.uri = _address(root, uri)
        self._database = Path(self.uri.removeprefix(SQLITE)) if self.uri.startswith(SQLITE) else None
        here = self._database.parent if self._database is not None else runs
        direct = self.uri.partition(":")[0] not in ("http", "https", "databricks")
        self._files = (here / "mlartifacts") if direct else None
        self._locks = here / ".track"
        make = client_class(self.uri)
        with translated(f"MLflow at {masked(self.uri)} cannot be opened"):
            here.mkdir(parents=True, exist_ok=True)
            with self._held("tracker"):
                if self._database is not None and not self._database.exists():
                    self._create_database(self._database)
                self._client = make(tracking_uri=self.uri)
                self._experiment = self._find_experiment(experiment)

    def _held(self, name: str) -> FileLock:
        """A lock between the processes of all machines that see the folder; the system frees it when one dies."""
        self._locks.mkdir(parents=True, exist_ok=True)
        return FileLock(self._locks / f"{name}.lock", timeout=self._timeout)

    def _create_database(self, path: Path) -> None:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        # A process that is killed during the migrations leaves only this file behind, never half a database.
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        store = SqlAlchemyStore(f"{SQLITE}{temporary}", path.with_name("mlartifacts").as_uri())
        store.engine.dispose()
        temporary.replace(path)

    def _find_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        location = self._files.as_uri() if self._files is not None else None
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=location))
            except MlflowException:
                # Another machine, whose lock this one does not see, may have been faster.
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise TrackerError(f"MLflow experiment '{name}' was deleted: restore it or choose another track.experiment")
        if self._database is not None and location is not None and found.artifact_location.rstrip("/") != location:
            raise TrackerError(
                f"MLflow experiment '{name}' keeps its files in {found.artifact_location}, not in {location} (was the "
                f"project moved?): remove {self._database}, `python -m ssvae track sync` fills it again from the run "
                "folders; or choose another track.experiment"
            )
        return str(found.experiment_id)

    def open_sweep(
        self, name: str, params: Mapping[str, str], tags: Mapping[str, str], *, own: bool = True
    ) -> MlflowSweep:
        """The parent run of sweep ``name``: found again by its tag, or created."""
        with translated(f"sweep {name} cannot be opened in MLflow"):
            run_id = self.open_run({"sweep": name, "role": "sweep"}, name, tags, params, own=own)
        return MlflowSweep(self, run_id, name)

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
        """Id of the one run with the ``identity`` tags, created if need be.

        own: it is set RUNNING, owned by this process, and forgets why it stopped before; otherwise one that is there
        keeps its status and owner.
        """
        assert not any("'" in value for value in identity.values()), identity
        query = " and ".join(f"tags.{key} = '{value}'" for key, value in identity.items())
        every = {**tags, **identity, **(process_tags() if own else {})}
        # Search and creation under one lock: two calls at once must not create twins.
        with self._held("tracker"):
            found = self._client.search_runs(
                [self._experiment], query, max_results=1, order_by=["attributes.start_time ASC"]
            )
            if found:
                run_id = str(found[0].info.run_id)
                self.set_tags(run_id, {**every, "reason": "", "mlflow.note.content": ""} if own else every)
                if own:
                    self._client.update_run(run_id, status="RUNNING")
            else:
                cut = {store_key(key): cut_tag(value) for key, value in every.items()}
                run = self._client.create_run(
                    self._experiment, start_time=started_ms, tags=cut, run_name=cut_tag(name)[:KEY_LIMIT]
                )
                run_id = str(run.info.run_id)
            self._log_params(run_id, params)
        return run_id

    def translated(self, what: str) -> AbstractContextManager[None]:
        """Turn the errors of MLflow, its database, the file system and malformed run folders into TrackerError."""
        return translated(what)

    def exclusive(self, run_id: str) -> AbstractContextManager[object]:
        """Keep other processes from writing the run meanwhile."""
        return self._held(run_id)

    def key(self, name: str) -> str:
        """``name`` as MLflow takes it."""
        return store_key(name)

    def tags(self, run_id: str) -> Mapping[str, str]:
        """All tags of a run."""
        return dict(self._client.get_run(run_id).data.tags)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set several tags at once; values that are too long are cut."""
        from mlflow.entities import RunTag

        rows = [RunTag(store_key(key), cut_tag(str(value))) for key, value in tags.items()]
        for part in calls(rows, PARAMS_PER_CALL, lambda row: row_bytes(row.key, row.value)):
            self._client.log_batch(run_id, tags=part)

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Log parameters that the run lacks; the names of those that changed since go into tag ``params_changed``.

        A value that is too long is cut, and its whole text is kept as an artifact.
        """
        from mlflow.entities import Param

        there = self._client.get_run(run_id).data.params
        wanted: dict[str, str] = {}
        missing = []
        for name, key in unique_keys(list(params)).items():
            wanted[key], file = cut_param(key, str(params[name]))
            if key in there:
                continue
            missing.append(Param(key, wanted[key]))
            if file is not None:
                self._upload_text(run_id, str(params[name]), file)
        for part in calls(missing, PARAMS_PER_CALL, lambda row: row_bytes(row.key, row.value)):
            self._client.log_batch(run_id, params=part)
        changed = sorted(key for key, value in wanted.items() if there.get(key, value) != value)
        if changed:
            self.set_tags(run_id, {"params_changed": ", ".join(changed)})

    def _upload_text(self, run_id: str, text: str, name: str) -> None:
        with TemporaryDirectory(prefix="ssvae-track-") as folder:
            file = Path(folder) / name
            file.write_text(text, encoding="utf-8")
            self._client.log_artifact(run_id, str(file), "params")

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
        """Store points, each request in one transaction; points that are there already change nothing."""
        from mlflow.entities import Metric

        for part in calls(points, POINTS_PER_CALL, lambda point: row_bytes(point.key)):
            self._client.log_batch(run_id, metrics=[Metric(*point) for point in part])

    def upload(self, run_id: str, file: Path, where: str, name: str) -> None:
        """Copy ``file`` into the directory ``where`` of the run's artifacts as ``name``."""
        if file.name == name:
            self._client.log_artifact(run_id, str(file), where)
            return
        with TemporaryDirectory(prefix="ssvae-track-") as folder:
            link = Path(folder) / name
            link.symlink_to(file.absolute())
            self._client.log_artifact(run_id, str(link), where)

    def run(self, run_id: str) -> Run:
        """The run as MLflow has it."""
        return self._client.get_run(run_id)

    def close_run(self, run_id: str, status: RunStatus, ended_ms: int | None = None) -> None:
        """Set the final status; one that is closed with it already keeps its end."""
        info = self._client.get_run(run_id).info
        if info.status != status or info.end_time is None:
            self._client.set_terminated(run_id, status, ended_ms)

    def reap(self) -> int:
        """Set KILLED every RUNNING run whose owner, a process of this machine, is gone; returns how many.

        A run whose cell is still being worked on, by a job elsewhere, is left alone.
        """
        count = 0
        # Under the lock, so that a run that is being opened again right now is not taken for an orphan.
        with translated("orphaned MLflow runs cannot be closed"), self._held("tracker"):
            for run in list(self._running()):
                tags = run.data.tags
                if owner_is_gone(tags) and not self._lives(tags.get("sweep", ""), tags.get("cell_id")):
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
