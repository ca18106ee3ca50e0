"""Is a process that somebody wrote down still there? Standard library only.

Numbers of processes are used again, so a process is known by machine, number and start.
"""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it was written down; start: see :func:`start_of`."""

    host: str
    pid: int
    start: str

    def alive(self) -> bool | None:
        """Does it live? None where that cannot be seen from here: it is another machine's."""
        return start_of(self.pid) == self.start if self.host == socket.gethostname() else None


def this_process() -> dict[str, object]:
    """``host``, ``pid`` and ``pid_start`` of this process, to be written down."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "pid_start": start_of(os.getpid())}


def start_of(pid: int) -> str | None:
    """When the process started, in a form that only equality means something of; None for one that is not there.

    A process that has ended and was not reaped yet is not there.
    """
    try:
        # The second field is the program's name in brackets, which may hold blanks and brackets itself.
        state, *rest = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _start_by_ps(pid)
    return None if state in "ZX" else rest[18]


def _start_by_ps(pid: int) -> str | None:
    """For systems without ``/proc``."""
    try:
        said = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() or None
