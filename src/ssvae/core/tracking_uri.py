"""Where runs are tracked: which of MLflow's URIs make sense, and what of them may be shown.

Judged from the text alone, before anything is computed: a tracker is opened late, in the background, where a mistyped
address would only be one more server that does not answer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

ENVIRONMENT = "MLFLOW_TRACKING_URI"
"""MLflow's own variable, honoured where the config names no URI."""
SERVERS = ("http", "https", "databricks")
_DRIVERS = {
    "postgresql": "psycopg2",
    "postgresql+psycopg2": "psycopg2",
    "postgresql+psycopg": "psycopg",
    "mysql": "MySQLdb",
    "mysql+mysqldb": "MySQLdb",
    "mysql+pymysql": "pymysql",
    "mssql": "pyodbc",
    "mssql+pyodbc": "pyodbc",
    "mssql+pymssql": "pymssql",
}
"""The module that SQLAlchemy needs for a database; none of them comes with MLflow."""
_INSTALL = {"psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
_USER = re.compile(r"(?P<head>://[^/\s:@]*):[^/\s]*@")
_QUERY = re.compile(r"(?i)(?P<name>[?&;][\w.-]*(?:pass(?:word|wd)?|pwd|token|secret|key)=)[^&;\s'\"]+")
_FILES = (
    "MLflow's file store is no longer developed and loses points: use a database, sqlite:////absolute/path/mlflow.db "
    "(or null for one under runs/); `mlflow migrate-filestore --source FOLDER --target sqlite:////absolute/new.db` "
    "takes old runs along"
)


def chosen_uri(given: str | None, environment: Mapping[str, str] = os.environ) -> tuple[str | None, str]:
    """The URI to use and where it comes from: ``given``, else $MLFLOW_TRACKING_URI, else None (sqlite under runs/)."""
    if given is not None:
        return given, "track.uri"
    return (environment.get(ENVIRONMENT) or "").strip() or None, ENVIRONMENT


def uri_problem(uri: str) -> str | None:
    """Why MLflow cannot use ``uri``, with the remedy; None for one that makes sense. Nothing is opened."""
    scheme = uri.partition("://")[0] if "://" in uri else uri.partition(":")[0] if ":" in uri else ""
    kind = scheme.partition("+")[0]
    if uri == "databricks" or kind == "databricks":
        return None
    if kind == "file" or (not scheme and uri):
        return _FILES
    if kind == "sqlite":
        return _sqlite_problem(uri)
    if kind in ("http", "https"):
        return _server_problem(uri)
    if kind in ("postgresql", "mysql", "mssql"):
        return _database_problem(scheme, uri)
    return (
        "no address that MLflow knows: sqlite:////absolute/path/mlflow.db, http(s)://host:port, databricks, "
        "postgresql://user@host/database, mysql+pymysql://... or null"
    )


def _sqlite_problem(uri: str) -> str | None:
    path = uri.partition("://")[2]
    if path.startswith("//") and not path.endswith("/") and len(path) > 2:
        return None
    return (
        "needs the absolute path of a file, so four slashes: sqlite:////absolute/path/mlflow.db (a relative path would "
        "mean another file in every folder)"
    )


def _server_problem(uri: str) -> str | None:
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        return f"is no address of a server ({error}): http://host:5000"
    if not parts.hostname or " " in uri or port == 0:
        return "names no host: http://host:5000"
    return None


def _database_problem(scheme: str, uri: str) -> str | None:
    driver = _DRIVERS.get(scheme)
    if driver is None:
        return f"no driver of that name is known: {', '.join(sorted(_DRIVERS))}"
    if not urlsplit(uri).path.strip("/"):
        return f"names no database: {scheme}://user@host/database"
    if find_spec(driver) is None:
        return f"needs the Python package {driver}, which is not installed: pip install {_INSTALL.get(driver, driver)}"
    return None


def holds_secret(uri: str) -> bool:
    """Is there a password or token in it?"""
    return masked(uri) != uri


def masked(text: str) -> str:
    """``text`` with the passwords of all URIs in it as ``***``: in ``user:password@`` and in query values."""
    return _QUERY.sub(r"\g<name>***", _USER.sub(r"\g<head>:***@", text))


def writes_from_jobs(uri: str | None, environment: Mapping[str, str] = os.environ) -> bool:
    """May jobs on other machines write into ``uri`` (None: as :func:`chosen_uri` says) while the sweep runs?

    Into a server or a database server any number of processes may. A database in a file is left to one process: the
    one that waits for the sweep, or ``track sync``.
    """
    found, _ = chosen_uri(uri, environment)
    return found is not None and not found.startswith("sqlite")
