"""Files that are either whole or absent: atomic writes, JSON lines that survive a kill, locks that survive SIGKILL."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk and rename it over ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; results are meant to be readable like any other file of the project.
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left below ``folder``: hidden names are temporary. Call it under the folder's lock."""
    for path in sorted(folder.rglob(".*"), reverse=True):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically as UTF-8."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` atomically as indented JSON; NaN and infinities are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


class StepsLog:
    """Append-only JSON lines (``steps.jsonl``, ``samples.jsonl``): one object a logged step, no time stamps, so equal
    runs give equal files.

    Opening at ``resume_step`` drops every line past that step (and a line torn by a kill): those steps are computed
    again, identically.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        kept = [line for step, line in _whole_lines(path) if step <= resume_step]
        write_text(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Append one line for ``step``; a number that is not finite becomes null, since JSON has no word for it."""
        plain = {
            name: value if isinstance(value, str) or math.isfinite(value) else None for name, value in values.items()
        }
        self._file.write(json.dumps({"step": step, **plain}) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Force the lines to the disk: before a checkpoint that counts on them, should the machine lose power."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _whole_lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield int(json.loads(line)["step"]), line


class Busy(Exception):
    """Somebody else holds the lock."""


@contextmanager
def exclusive(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the inter-process lock ``path``; raises :class:`Busy` if it is taken and ``wait`` is false.

    The operating system releases it when its holder dies, however it dies; over NFSv4 it is a byte-range lock on
    the server.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        try:
            lock.acquire()
        except Timeout as error:
            raise Busy(str(path)) from error
        yield
    finally:
        # Also where Ctrl-C came right behind the system's answer: this process would wait for itself.
        lock.release()
