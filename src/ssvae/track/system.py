"""Reading what each rank wrote of its machine (``system/rank_000.jsonl``, see core/system_metrics.py).

All stages of a cell share the names of these metrics, ``system/rank_0/cpu_utilization_percentage``, so that MLflow's
page "System metrics" shows one curve a rank over the whole cell. Steps are seconds since 1970, so that stages do not
collide; how much of each file is sent already is kept as a text beside the metrics.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ssvae.track.folder import StepLine, StepTail, fingerprint

Row = tuple[str, float, int, int]
"""(name, value, time in milliseconds since 1970, step)."""
ROWS_AT_ONCE = 1000


class SystemTails:
    """The files of one stage's ranks, each followed to its end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "system"
        self._tails: dict[Path, StepTail] = {}
        self._marks: dict[Path, str] = {}
        self._pending: tuple[StepTail, StepLine] | None = None

    def grown(self) -> bool:
        """Is there a file that changed since its end was reached?"""
        return any(self._marks.get(path) != fingerprint(path) for path in self._paths())

    def unread(self, known: str) -> Iterator[tuple[list[Row], str]]:
        """(rows, what is known once they are sent), in pieces of whole lines; call :meth:`commit` behind each.

        known: the text of an earlier piece, of any process; empty at first.
        """
        reached: dict[str, int] = json.loads(known) if known else {}
        for path in self._paths():
            mark = fingerprint(path)
            tail = self._tails.setdefault(path, StepTail(path))
            rows: list[Row] = []
            handled: StepLine | None = None
            for line in tail.unread():
                fresh = (
                    _rows(path.stem, line) if line.step is not None and line.step > reached.get(path.stem, -1) else []
                )
                if handled is not None and len(rows) + len(fresh) > ROWS_AT_ONCE:
                    self._pending = (tail, handled)
                    yield rows, json.dumps(reached)
                    rows = []
                rows += fresh
                handled = line
                if fresh and line.step is not None:
                    reached[path.stem] = line.step
            if handled is not None:
                self._pending = (tail, handled)
            if rows:
                yield rows, json.dumps(reached)
            else:
                self.commit()
            self._marks[path] = mark

    def commit(self) -> None:
        """Everything that was handed out so far is dealt with."""
        if self._pending is not None:
            tail, line = self._pending
            tail.commit(line)
            self._pending = None

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("rank_*.jsonl"))


def _rows(rank: str, line: StepLine) -> list[Row]:
    values = dict(line.values)
    at = int(values.pop("time_ms", (line.step or 0) * 1000))
    name = f"system/rank_{int(rank.removeprefix('rank_'))}"
    return [(f"{name}/{key}", value, at, line.step or 0) for key, value in values.items()]
