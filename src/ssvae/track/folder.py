"""Reading a run folder while it is being written: new step lines, final metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_GUARD_BYTES = 256
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class StepLine:
    """One whole line of ``steps.jsonl``.

    end: byte offset behind the line. tail: its last bytes. step and values (finite numbers by name), or None and {}
    for a line that is no step record. skipped: how many values were NaN, infinite or null.
    """

    end: int
    tail: bytes
    step: int | None
    values: dict[str, float]
    skipped: int


class StepTail:
    """Follows a ``steps.jsonl`` and remembers how far it has been handled.

    A last line without its newline is still being written and is left for later. When the file got shorter or the
    bytes before the remembered place changed (a resumed run cuts it back and writes on), reading starts over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._guard = b""

    def unread(self) -> Iterator[StepLine]:
        """Lines past the committed place, oldest first. Raises OSError other than a missing file."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offset - len(self._guard))
            if file.read(len(self._guard)) != self._guard:
                self._offset, self._guard = 0, b""
                file.seek(0)
            end = self._offset
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                yield StepLine(end, line[-_GUARD_BYTES:], *_parse(line))

    def commit(self, line: StepLine) -> None:
        """Remember that everything up to and with ``line`` has been handled."""
        self._offset, self._guard = line.end, line.tail


def _parse(line: bytes) -> tuple[int | None, dict[str, float], int]:
    try:
        record = json.loads(line)
    except ValueError:  # torn by a kill and continued by the next process
        return None, {}, 0
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return None, {}, 0
    values: dict[str, float] = {}
    skipped = 0
    for name, value in record.items():
        if name == "step" or isinstance(value, str | list | dict):
            continue
        if value is None or not math.isfinite(value):
            skipped += 1
        else:
            values[name] = float(value)
    return record["step"], values, skipped


def created_ms(folder: Path) -> int | None:
    """The creation time in ``run.json`` (milliseconds since the epoch), None while it is not there."""
    path = folder / "run.json"
    if not path.exists():
        return None
    return int(json.loads(path.read_text(encoding="utf-8"))["created_ms"])


def final_metrics(folder: Path) -> tuple[dict[str, float], list[str]]:
    """Finite values of ``metrics.json`` by name, and the names without one; both empty while it is not there."""
    path = folder / "metrics.json"
    if not path.exists():
        return {}, []
    values: dict[str, float] = {}
    missing: list[str] = []
    for row in json.loads(path.read_text(encoding="utf-8")):
        value = row["value"]
        if value is None or not math.isfinite(value):
            missing.append(row["name"])
        else:
            values[row["name"]] = float(value)
    return values, missing


def last_step(path: Path) -> int | None:
    """The step of the last whole line of a ``steps.jsonl``, reading only its end; None where there is none."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().split(b"\n")
    # The last piece is empty or still being written.
    steps = (_parse(line)[0] for line in reversed(lines[:-1]))
    return next((step for step in steps if step is not None), None)


def fingerprint(path: Path) -> str:
    """Size and modification time of a file: changes whenever the file is written again."""
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"
