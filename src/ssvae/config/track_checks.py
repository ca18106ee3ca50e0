"""Rules of the group ``track``: an address that makes sense, and no password where it would be written down."""

from __future__ import annotations

from collections.abc import Iterator

from ssvae.config.problem import Problem
from ssvae.config.run import TrackConfig
from ssvae.core.tracking_uri import ENVIRONMENT, chosen_uri, holds_secret, masked, uri_problem

_SECRET = (
    "holds a password, which would be written into frozen configs: put the whole URI into the environment variable "
    f"{ENVIRONMENT} and leave track.uri=null (for a server MLFLOW_TRACKING_USERNAME and ..._PASSWORD will do)"
)


def track_problems(track: TrackConfig) -> Iterator[Problem]:
    """Problems of ``track``; nothing is opened, and no password is shown."""
    every = track.system_every_s
    if every is not None and 0 < every < 1:
        yield Problem("track.system_every_s", f"{every:g}", "must be at least 1, or null for no system metrics")
    if not track.experiment.strip() or len(track.experiment) > 500:
        yield Problem("track.experiment", repr(track.experiment[:40]), "must be a name of 1 to 500 characters")
    if not track.enabled and track.uri is None:
        return
    if track.uri is not None and holds_secret(track.uri):
        yield Problem("track.uri", masked(track.uri), _SECRET)
        return
    uri, key = chosen_uri(track.uri)
    if uri is None:
        return
    if remedy := uri_problem(uri):
        yield Problem(key, masked(uri), remedy)
    elif uri.startswith("databricks") and not track.experiment.startswith("/"):
        yield Problem("track.experiment", track.experiment, "Databricks wants a path: /Users/you@example.org/ssvae")
