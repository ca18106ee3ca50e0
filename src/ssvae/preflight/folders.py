"""Can every rank write where it will, do all see the same files, and do locks keep two from holding one?"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from ssvae.core.files import Busy, exclusive, write_text
from ssvae.preflight.base import Crew, Facts, Limits, Verdict
from ssvae.preflight.board import Board

_PLACES = ("", "stages", "latents", "cache", "data", "sweeps", "jobs")
"""Below ``runs/``; those that are not there yet are made in it when they are needed."""
_TEXT = "ssvae preflight\n"
_ELSEWHERE = "make it writable for this user, or set SSVAE_ROOT to another folder"
_LOCKS = (
    "mount the file system with locks that hold between nodes (Lustre: -o flock; NFS: neither nolock nor local_lock), "
    "or set SSVAE_ROOT to one that has them"
)
_SHARED = "runs/ must be one folder for all ranks: set SSVAE_ROOT to a file system that all nodes share"


def measure_writable(runs: Path, rank: int) -> Facts:
    """Write, flush, read and remove a file in each folder of results that is there, and in the temporary one."""
    problems = []
    try:
        runs.mkdir(parents=True, exist_ok=True)
        places = [runs / name for name in _PLACES]
    except OSError as error:
        problems.append([f"{runs} cannot be made ({_reason(error)})", _ELSEWHERE])
        places = []
    tried = [place for place in places if place.exists()]
    for place in tried:
        if (reason := _write_here(place, rank)) is not None:
            problems.append([f"{place} cannot be written ({reason})", _ELSEWHERE])
    temporary = Path(tempfile.gettempdir())
    if (reason := _write_here(temporary, rank)) is not None:
        problems.append([f"{temporary} cannot be written ({reason})", "set TMPDIR to a folder with room on that node"])
    return {"problems": problems, "note": f"{runs} ({len(tried)} folders) and {temporary}"}


def _write_here(folder: Path, rank: int) -> str | None:
    """Why no file can be written in ``folder``; None if one can."""
    path = folder / f".preflight-{rank}-{uuid4().hex}"
    try:
        with path.open("w") as file:
            file.write(_TEXT)
            file.flush()
            os.fsync(file.fileno())
        same = path.read_text() == _TEXT
        path.unlink()
    except OSError as error:
        return _reason(error)
    return None if same else "what was read is not what was written"


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def measure_shared(runs: Path, board: Board, crew: Crew, limits: Limits) -> Facts:
    """The first rank writes a file while it holds a lock; all others look for the file, then try to take the lock."""
    others = [rank for rank in crew.hosts if rank != 0]
    if not board.ranks.first:
        return _look(runs, board, limits)
    name = f".preflight-{uuid4().hex}"
    lock, file = runs / f"{name}.lock", runs / f"{name}.txt"
    try:
        with exclusive(lock, wait=False):
            write_text(file, name)
            board.post("shared/name", name)
            taken = _takes(lock)
            board.collect("shared/looked", others, limits.visible_s + limits.patience_s)
    except (OSError, NotImplementedError) as error:  # the second: a file system without locks
        board.post("shared/name", "")
        return {"problems": [[f"{runs} takes no lock or file ({_reason(error)})", _ELSEWHERE]]}
    finally:
        for path in (file, lock):
            # It may never have been made, nor its folder.
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
    return {"problems": [[f"{runs}: one process holds the same file lock twice", _LOCKS]] if taken else []}


def _look(runs: Path, board: Board, limits: Limits) -> Facts:
    name = board.read("shared/name", 0, limits.reading_s)
    if not name:
        return {"skipped": "the first rank could not write"}
    begun, problems = time.monotonic(), []
    try:
        while not (seen := _reads(runs / f"{name}.txt", name)) and time.monotonic() < begun + limits.visible_s:
            time.sleep(0.02)
        seconds = time.monotonic() - begun
        if not seen:
            text = f"a file that the first rank wrote in {runs} is not seen within {limits.visible_s:g} s"
            problems.append([text, _SHARED])
        elif _takes(runs / f"{name}.lock"):
            problems.append([f"{runs}: a file lock that the first rank holds was given to a second one", _LOCKS])
    finally:
        board.post("shared/looked", True)
    return {"problems": problems, "seconds": seconds}


def _reads(file: Path, text: str) -> bool:
    return file.exists() and file.read_text(encoding="utf-8") == text


def _takes(lock: Path) -> bool:
    """Can this process take a lock that is held?"""
    try:
        with exclusive(lock, wait=False):
            return True
    except Busy:
        return False


def judge_shared(answers: Mapping[int, Facts], crew: Crew) -> Verdict:
    """How long the slowest rank waited for the file. Faults are each rank's own."""
    slowest = max((facts["seconds"] for facts in answers.values() if "seconds" in facts), default=0.0)
    seen = f"seen by all ranks after {slowest:.2f} s, " if crew.world > 1 else ""
    return Verdict(f"{seen}locks hold", [], [])
