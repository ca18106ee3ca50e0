"""Who owns an open run: a process named so that a reused process id is not taken for the owner."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import psutil


def process_tags() -> dict[str, str]:
    """Tags ``host``, ``pid`` and ``pid_start`` (seconds since the epoch, to 0.01 s) of this process."""
    start = psutil.Process().create_time()
    return {"host": socket.gethostname(), "pid": str(os.getpid()), "pid_start": f"{start:.2f}"}


def owner_is_gone(tags: Mapping[str, str]) -> bool:
    """True if the tags name a process of this machine that no longer runs.

    Runs of other machines, and runs without the tags, are never called dead: this machine cannot know.
    """
    if tags.get("host") != socket.gethostname() or "pid" not in tags or "pid_start" not in tags:
        return False
    try:
        process = psutil.Process(int(tags["pid"]))
        # The start time distinguishes the owner from a later process with the same id. Clock adjustments can shift
        # it slightly; an id is not reused within two seconds.
        same = abs(process.create_time() - float(tags["pid_start"])) < 2.0
        return not same or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
