"""Bring the records of a sweep's cells up to date with what its jobs did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssvae.core.files import exclusive, read_json, write_json
from ssvae.report.cell_state import CellState

_RECORDED = {"stopped": "killed", "lost": "killed"}
"""A record knows no more than that the cell was ended from outside; its reason says how."""


def refresh_records(root: Path, sweep: str, rows: Sequence[CellState]) -> list[str]:
    """Write status, reason and seconds of ``rows`` into ``runs/sweeps/<sweep>/cells``, where they differ.

    Several of these may run at once, beside jobs and the call that waits for them: every file is whole at all times,
    and the last look counts. Returns the ids of the cells whose record changed.
    """
    folder = root / "runs" / "sweeps" / sweep / "cells"
    changed = []
    with exclusive(folder.parent / ".refresh.lock", wait=True):
        for row in rows:
            path = folder / f"{row.cell_id}.json"
            if not path.exists():
                continue  # the sweep was started again with other cells
            record = read_json(path)
            if row.status in ("running", "waiting") and not row.jobs:
                continue  # the process that runs it writes the record itself
            status = _RECORDED.get(row.status, row.status)
            new: dict[str, object] = {"status": status, "reason": row.reason if status != "finished" else None}
            if row.status == "finished" and not record["seconds"]:
                new["seconds"] = row.seconds
            if any(record[name] != value for name, value in new.items()):
                write_json(path, {**record, **new})
                changed.append(row.cell_id)
    return changed
