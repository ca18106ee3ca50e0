"""Trackers that are down, hang or refuse, which stop nothing; weights that are missing, which do."""

from __future__ import annotations

import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from preflight_jobs import QUICK, config, job

from ssvae.preflight.base import Facts
from ssvae.preflight.outside import database_reason, measure_networks, measure_tracker


@contextmanager
def server(answers: dict[str, int]) -> Iterator[str]:
    """A server on this machine: path -> status, 404 for others."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers.get(self.path, 404))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return None

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def tracked(root: Path, uri: str | None) -> Facts:
    cfg = config()
    cfg.track.enabled = True
    return measure_tracker(job(root, cfg, tracking=uri), True)


def warning(facts: Facts) -> str:
    ((what, remedy),) = facts["warnings"]
    assert "problems" not in facts, "a tracker never stops a job"
    assert "nothing is lost" in remedy and "track sync" in remedy
    return str(what)


@pytest.mark.parametrize("answers", [{"/health": 200}, {"/version": 200}, {"/health": 200, "/version": 500}])
def test_a_server_that_answers(tmp_path: Path, answers: dict[str, int]) -> None:
    with server(answers) as uri:
        assert tracked(tmp_path, uri) == {"note": f"{uri} answers"}
        assert tracked(tmp_path, f"{uri}/") == {"note": f"{uri}/ answers"}


@pytest.mark.parametrize(("answers", "code"), [({"/health": 500}, "500"), ({"/health": 401}, "401"), ({}, "404")])
def test_a_server_that_refuses(tmp_path: Path, answers: dict[str, int], code: str) -> None:
    with server(answers) as uri:
        assert warning(tracked(tmp_path, uri)).startswith(f"{uri} answers {code}")


def test_a_server_that_hangs_or_is_gone(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://user:secret@127.0.0.1:{silent.getsockname()[1]}"
        what = warning(tracked(tmp_path, uri))
        assert "does not answer within 0.5 s (timed out)" in what and "secret" not in what
    assert "does not answer within 0.5 s ([Errno 111]" in warning(tracked(tmp_path, uri))


def test_addresses_that_make_no_sense(tmp_path: Path) -> None:
    assert "is no address of a server" in warning(tracked(tmp_path, "http://127.0.0.1:notaport"))
    assert "four slashes" in warning(tracked(tmp_path, "sqlite:///relative.db"))


def test_the_variable_of_mlflow_counts_where_nothing_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server({"/health": 200}) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert tracked(tmp_path, None) == {"note": f"{uri} answers"}


def test_the_database_of_the_run_folders(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "mlflow.db"
    assert tracked(tmp_path, None) == {"note": f"sqlite:///{path} answers"}
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE x (y)")
        assert database_reason(path, QUICK) is None
        database.execute("BEGIN EXCLUSIVE")
        assert "locked" in warning(tracked(tmp_path, None))
    path.write_text("no database, but a text that is long enough to be looked at. " * 20)
    assert "not a database" in warning(tracked(tmp_path, None))


def test_a_database_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    assert "is no folder that can be written" in warning(tracked(tmp_path, None))


def test_no_tracker_and_others(tmp_path: Path) -> None:
    assert measure_tracker(job(tmp_path), True) == {"skipped": "track=none"}
    cfg = config()
    cfg.track.enabled = True
    assert "skipped" in measure_tracker(job(tmp_path, cfg), False)
    assert "not tried" in tracked(tmp_path, "databricks://profile")["note"]


def test_networks_that_are_missing_are_named(tmp_path: Path) -> None:
    cfg = config("stages.base=null")
    assert measure_networks(job(tmp_path, cfg), True)["problems"] == []
    cfg.stages.pretrain.init = str(tmp_path / "nothing")
    ((what, remedy),) = measure_networks(job(tmp_path, cfg), True)["problems"]
    assert "stages.pretrain.init" in what and str(tmp_path / "nothing") in what and remedy
    assert "skipped" in measure_networks(job(tmp_path, cfg), False)
