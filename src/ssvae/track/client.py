"""MLflow's client, imported late and set up for a background thread, and its errors in our words."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ssvae.core.tracking_uri import masked
from ssvae.track.base import TrackerError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SQLITE = "sqlite:///"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # The defaults (120 s, 7 tries that wait in between) would keep the background thread in one call for minutes. It
    # tries again by itself, with pauses, and looks at everything anew each time.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
_OURS = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")
"""Codes that answer one request; any other says that the tracker itself is in trouble."""

_STORES = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("boto3.exceptions", "Boto3Error"),
    ("google.api_core.exceptions", "GoogleAPIError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)
"""Errors of the places where a server may keep artifacts: clients send files there themselves."""


def client_class(uri: str) -> type[MlflowClient]:
    """MLflow's client, and what it imports when it is first used with ``uri``.

    Call it before work begins: processes that a data loader forks while another thread imports may wait for ever.
    Raises TrackerError where MLflow is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Not left to the user: nothing is sent to third parties, and no address, with its password, is printed.
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true")
    try:
        import mlflow.store.artifact.artifact_repository_registry
        import mlflow.store.tracking.rest_store
        from mlflow.tracking import MlflowClient

        if not uri.startswith(("http", "databricks")):
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - as above
    except ImportError as error:
        raise TrackerError(f"MLflow cannot be imported ({error}): install it or switch tracking off") from error
    return MlflowClient


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Errors of MLflow, its database, the file system and malformed run folders as TrackerError, without passwords."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (*_of_tracker(), *_of_folder()) as error:
        lines = str(error).strip().splitlines() or [""]
        text = masked(f"{what}: {type(error).__name__}: {lines[0]}")
        answered = isinstance(error, MlflowException) and error.error_code in _OURS
        # The cause is not kept: its text, and so every trace, may hold a password.
        raise TrackerError(text, unreachable=isinstance(error, _of_tracker()) and not answered) from None


def _of_folder() -> tuple[type[Exception], ...]:
    """What reading a run folder raises; the last three where a file in it is malformed."""
    return OSError, ValueError, KeyError, TypeError


def _of_tracker() -> tuple[type[Exception], ...]:
    """What a tracker raises. Of the artifact stores those in use: one that was never imported cannot have failed."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    found = [getattr(sys.modules.get(module), name, None) for module, name in _STORES]
    stores = [kind for kind in found if isinstance(kind, type)]
    return MlflowException, SQLAlchemyError, RequestException, TimeoutError, *stores
