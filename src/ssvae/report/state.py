"""Where the cells of a sweep stand, read from the run folders alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssvae.report.collect import cell_paths

_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class CellState:
    """status: running, finished, failed or killed. detail: the step it is at, or why it stopped."""

    cell_id: str
    name: str
    status: str
    detail: str
    seconds: float


def sweep_state(root: Path, sweep: str) -> list[CellState]:
    """State of the sweep's cells (:func:`~ssvae.report.collect.cell_paths`), in the order of the file names.

    Raises ValueError for an unknown sweep or a listed cell that is not there.
    """
    return [_state(root, path) for path in cell_paths(root, sweep)]


def state_lines(states: Sequence[CellState]) -> list[str]:
    """One aligned line a cell and a last one with the counts."""
    widths = [max(len(getattr(s, key)) for s in states) for key in ("status", "name", "cell_id")] if states else []
    lines = []
    for s in states:
        cells = [text.ljust(width) for text, width in zip((s.status, s.name, s.cell_id), widths, strict=True)]
        lines.append("  ".join([*cells, _duration(s.seconds).rjust(8), s.detail]))
    counts = {status: sum(s.status == status for s in states) for status in sorted({s.status for s in states})}
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    return [line.rstrip() for line in [*lines, f"{len(states)} cells: {summary}"]]


def last_step(steps: Path) -> int | None:
    """The step of the last whole line of a ``steps.jsonl``, reading only its end; None where there is none."""
    if not steps.exists():
        return None
    with steps.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().split(b"\n")
    # The last piece is empty or still being written.
    for line in reversed(lines[:-1]):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            return int(record["step"])
    return None


def _state(root: Path, path: Path) -> CellState:
    cell = json.loads(path.read_text(encoding="utf-8"))
    name = " ".join(f"{key}={value}" for key, value in cell["fields"].items())
    detail = "" if cell["status"] == "finished" else _progress(root, cell["stages"])
    if cell["reason"]:
        detail = f"{cell['reason']} ({detail})" if detail else cell["reason"]
    elif cell["status"] == "finished" and cell["reused"]:
        detail = f"reused {', '.join(cell['reused'])}"
    return CellState(cell["cell_id"], name, cell["status"], detail, float(cell["seconds"] or 0.0))


def _progress(root: Path, stages: Mapping[str, Any]) -> str:
    for number, (stage, where) in enumerate(stages.items(), 1):
        folder = root / where
        if (folder / "done.json").exists():
            continue
        step = last_step(folder / "steps.jsonl")
        at = "not started" if not folder.exists() else "no step yet" if step is None else f"step {step}"
        return f"{stage}, {at}, stage {number} of {len(stages)}"
    return ""


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
