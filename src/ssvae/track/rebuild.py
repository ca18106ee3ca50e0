"""Fill a tracker again from the run folders: after it was down, lost, moved, or on another machine."""

from __future__ import annotations

import json
from pathlib import Path

from ssvae.track.base import MirrorCount, RunStatus, Tracker

_STATUS: dict[str, RunStatus] = {"finished": "FINISHED", "failed": "FAILED"}


def mirror_sweep(tracker: Tracker, root: Path, sweep: str) -> MirrorCount:
    """Mirror every cell of ``<root>/runs/sweeps/<sweep>``; idempotent. Returns the sum over cells.

    A cell noted as running or waiting is closed as KILLED: call this when nothing of the sweep runs. Raises ValueError
    for an unknown sweep, TrackerError (from an unguarded tracker, and from mirroring) when the tracker fails.
    """
    folder = root / "runs" / "sweeps" / sweep / "cells"
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ValueError(f"sweep '{sweep}' has no cells in {folder}: check the name, or run the sweep first")
    run = tracker.open_sweep(sweep, {}, {})
    total = MirrorCount()
    statuses = []
    for path in paths:
        cell = json.loads(path.read_text(encoding="utf-8"))
        params = {"overrides": " ".join(cell["overrides"])}
        tracked = run.open_cell(cell["cell_id"], cell["fields"], params, {})
        for stage, where in cell["stages"].items():
            total = _add(total, tracked.mirror(stage, root / where))
        if cell["reused"]:
            tracked.mark_reused(cell["reused"])
        tracked.finish(_STATUS.get(cell["status"], "KILLED"), cell["reason"])
        statuses.append(cell["status"])
    run.finish("FINISHED" if all(status == "finished" for status in statuses) else "FAILED")
    return total


def _add(a: MirrorCount, b: MirrorCount) -> MirrorCount:
    return MirrorCount(
        a.points + b.points,
        a.finals + b.finals,
        a.files + b.files,
        a.skipped + b.skipped,
        a.malformed + b.malformed,
    )
