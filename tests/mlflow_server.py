"""MLflow's own REST server in this process, behind a door that can refuse, hang or answer 500."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

Mode = Literal["works", "hangs", "errs", "errs on paths with"]


class Door:
    """A WSGI application around MLflow's. mode: how it behaves; seen: paths of the requests it let pass; ``reached`` is
    set by every request that it does not."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.mode: Mode = "works"
        self.seen: list[str] = []
        self.refused = 0
        self.reached, self.release = threading.Event(), threading.Event()
        self.bad_path = ""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if self.mode == "works" or (self.mode == "errs on paths with" and self.bad_path not in path):
            self.seen.append(path)
            return self._inner(environ, start_response)
        self.refused += 1
        self.reached.set()
        if self.mode == "hangs":
            self.release.wait(60)
        start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
        return [b"trouble"]

    def set(self, mode: Mode, bad_path: str = "") -> None:
        self.mode, self.bad_path = mode, bad_path
        self.reached.clear()
        self.release.clear()

    def mend(self) -> None:
        """Work again, and let go of what hangs."""
        self.mode = "works"
        self.release.set()


@contextmanager
def mlflow_server(folder: Path) -> Iterator[tuple[str, Door]]:
    """(URI, door) of a server whose database and artifacts lie in ``folder``."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder.mkdir(parents=True, exist_ok=True)
    SqlAlchemyStore(f"sqlite:///{folder}/server.db", "mlflow-artifacts:/").engine.dispose()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")  # the server sets it for its whole process: put back at the end
        patch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{folder}/server.db")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "mlflow-artifacts:/")
        patch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(folder / "artifacts"))
        from mlflow.server import app, handlers
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, type: str, message: str, *args: Any) -> None:
                return None

        patch.setattr(handlers, "_tracking_store", None)
        door = Door(app)
        server = make_server("127.0.0.1", 0, door, threaded=True, request_handler=Quiet)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", door
        finally:
            door.mend()
            server.shutdown()
            thread.join(10)


@contextmanager
def silent_server() -> Iterator[str]:
    """URI of a server that takes every connection and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def refused_uri() -> str:
    """URI of a port where nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}"
