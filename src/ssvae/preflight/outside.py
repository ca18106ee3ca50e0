"""What the job wants from outside: weights and networks that must be there, and a tracker that may be missing."""

from __future__ import annotations

import os
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing
from http.client import HTTPException
from pathlib import Path

from ssvae.core.tracking_uri import chosen_uri, masked, uri_problem
from ssvae.preflight.base import Facts, Limits, Needs
from ssvae.stages.foreign import foreign_problems, reward_problems

_SQLITE = "sqlite:///"
_LATER = "nothing is lost: the run folders keep everything, and `python -m ssvae track sync` sends it later"
_NOT_FOUND = 404


def measure_networks(needs: Needs, first_here: bool) -> Facts:
    """Weights to start from, networks of losses and metrics, text encoders, prompts, reward servers: each is tried as
    the job would. first_here: one rank a host looks."""
    if not first_here:
        return {"skipped": "another rank of this host looked"}
    found = foreign_problems(needs.cells)
    if "probe" in needs.stages:
        found += reward_problems([cfg for cfg in needs.cells if "probe" in needs.stages_of(cfg)])
    problems = []
    for text in found:
        told, _, remedy = text.rpartition("; ")
        problems.append([told or remedy, remedy if told else "name one that is there on every node, or null"])
    return {"problems": problems, "note": "all that the config names can be had"}


def measure_tracker(needs: Needs, first: bool) -> Facts:
    """Does the tracker answer? Only the first rank speaks to it; its absence never stops a job."""
    if not any(cfg.track.enabled for cfg in needs.cells):
        return {"skipped": "track=none"}
    if not first:
        return {"skipped": "only the first rank tracks"}
    uri = chosen_uri(needs.tracking)[0] or f"{_SQLITE}{needs.runs.absolute() / 'mlflow.db'}"
    reason, note = uri_problem(uri), "answers"
    if reason is None and uri.startswith(("http://", "https://")):
        reason = server_reason(uri, needs.limits)
    elif reason is None and uri.startswith(_SQLITE):
        reason = database_reason(Path(uri.removeprefix(_SQLITE)), needs.limits)
    elif reason is None:
        note = "is not tried: it is neither a server nor a SQLite file"
    if reason is not None:
        return {"warnings": [[f"{masked(uri)} {reason}", _LATER]]}
    return {"note": f"{masked(uri)} {note}"}


def server_reason(uri: str, limits: Limits) -> str | None:
    """Why an MLflow server cannot be used; None if it answers on /health or /version."""
    parts = urllib.parse.urlsplit(uri)
    # What answers here needs no user, and a request does not take one from the address.
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    reason = None
    for path in ("health", "version"):
        try:
            with urllib.request.urlopen(f"{place}/{path}", timeout=limits.tracker_s):
                return None
        except urllib.error.HTTPError as error:
            reason = f"answers {error.code} {error.reason}"
            error.close()
            if error.code != _NOT_FOUND:
                return reason
        except (OSError, HTTPException, ValueError) as error:  # URLError and time-outs are OSErrors
            told = error.reason if isinstance(error, urllib.error.URLError) else error
            return f"does not answer within {limits.tracker_s:g} s ({str(told) or type(error).__name__})"
    return reason


def database_reason(path: Path, limits: Limits) -> str | None:
    """Why a SQLite database cannot be written; None if it can, or can be made."""
    if not path.exists():
        folder = next(parent for parent in path.parents if parent.exists())
        usable = folder.is_dir() and os.access(folder, os.W_OK)
        return None if usable else f"cannot be made: {folder} is no folder that can be written"
    try:
        with closing(sqlite3.connect(path.as_uri() + "?mode=rw", timeout=limits.tracker_s, uri=True)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            database.rollback()
    except sqlite3.Error as error:
        return f"cannot be used ({error})"
    return None
