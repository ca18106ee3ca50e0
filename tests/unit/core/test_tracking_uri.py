"""Which tracking URIs are taken, and that no password in one is ever shown."""

from __future__ import annotations

import pytest
from mlflow.store.db.db_types import DATABASE_ENGINES

from ssvae.core import tracking_uri
from ssvae.core.tracking_uri import chosen_uri, holds_secret, masked, uri_problem, writes_from_jobs


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////data/mlflow.db",
        "http://127.0.0.1:5000",
        "https://tracking.example.org/mlflow",
        "http://[::1]:5000",
        "databricks",
        "databricks://profile",
    ],
)
def test_what_mlflow_can_open_is_taken(uri: str) -> None:
    assert uri_problem(uri) is None


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("./mlruns", "migrate-filestore"),
        ("/data/mlruns", "migrate-filestore"),
        ("file:/data/mlruns", "migrate-filestore"),
        ("file:///data/mlruns", "migrate-filestore"),
        ("mlruns", "migrate-filestore"),
        ("sqlite:///mlflow.db", "four slashes"),
        ("sqlite://", "four slashes"),
        ("sqlite:///:memory:", "four slashes"),
        ("sqlite:////", "four slashes"),
        ("http://", "names no host"),
        ("http://:5000", "names no host"),
        ("http://host:port", "no address of a server"),
        ("http://host:99999", "no address of a server"),
        ("htp://host", "no address that MLflow knows"),
        ("", "no address that MLflow knows"),
        ("postgresql+nosuch://u@h/db", "no driver of that name"),
    ],
)
def test_what_it_cannot_is_refused_with_a_remedy(uri: str, remedy: str) -> None:
    assert remedy in str(uri_problem(uri))


def test_a_database_needs_its_driver_and_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_uri, "find_spec", lambda name: None)
    assert "pip install psycopg2-binary" in str(uri_problem("postgresql://u@h:5432/mlflow"))
    assert "pip install pymysql" in str(uri_problem("mysql+pymysql://u@h/mlflow"))
    monkeypatch.setattr(tracking_uri, "find_spec", lambda name: object())
    assert uri_problem("postgresql://u@h:5432/mlflow") is None
    assert "names no database" in str(uri_problem("postgresql://u@h:5432"))


def test_every_kind_of_database_that_mlflow_knows_is_judged() -> None:
    for kind in DATABASE_ENGINES:
        assert "no address that MLflow knows" not in str(uri_problem(f"{kind}://h/db"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pa55@host:5000", "http://me:***@host:5000"),
        ("http://me:p@55@host:5000/x", "http://me:***@host:5000/x"),
        ("postgresql://me:pa55@h/db?sslmode=require", "postgresql://me:***@h/db?sslmode=require"),
        ("postgresql://h/db?user=me&password=pa55", "postgresql://h/db?user=me&password=***"),
        ("https://h/x?access_token=pa55&a=1", "https://h/x?access_token=***&a=1"),
        ("API request to http://me:pa55@h/api failed; http://me:pa55@h", "API request to http://me:***@h/api failed; "
         "http://me:***@h"),
        ("databricks://profile:scope", "databricks://profile:scope"),
        ("http://me@host:5000", "http://me@host:5000"),
        ("sqlite:////a/mlflow.db", "sqlite:////a/mlflow.db"),
    ],
)  # fmt: skip
def test_passwords_are_masked_and_nothing_else(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert masked(shown) == shown
    assert holds_secret(text) == (text != shown)


def test_the_config_comes_before_the_environment() -> None:
    there = {"MLFLOW_TRACKING_URI": " http://env:5000 "}
    assert chosen_uri("http://mine:1", there) == ("http://mine:1", "track.uri")
    assert chosen_uri(None, there) == ("http://env:5000", "MLFLOW_TRACKING_URI")
    assert chosen_uri(None, {"MLFLOW_TRACKING_URI": ""}) == (None, "MLFLOW_TRACKING_URI")


@pytest.mark.parametrize(
    ("uri", "environment", "answer"),
    [
        (None, {}, False),
        ("sqlite:////a.db", {"MLFLOW_TRACKING_URI": "http://h"}, False),
        (None, {"MLFLOW_TRACKING_URI": "http://h"}, True),
        ("https://h", {}, True),
        ("databricks", {}, True),
        ("postgresql://u@h/db", {}, True),
    ],
)
def test_only_one_process_writes_a_database_in_a_file(
    uri: str | None, environment: dict[str, str], answer: bool
) -> None:
    assert writes_from_jobs(uri, environment) is answer
