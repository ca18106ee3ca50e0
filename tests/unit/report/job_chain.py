"""A cell whose stages are two jobs in a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweep_folders import make_cell

from job_folders import PRETRAIN, PROBE, make_job


def make_chain(root: Path, *pretrain: Any, log: str | None = None) -> None:
    """One cell of two submitted jobs, the second of which needs the first. pretrain: further events of the first."""
    make_cell(root, "a", 48, {"pretrain": PRETRAIN, "probe": PROBE}, status="running", seconds=0.0)
    first, second = ([("submitted", {"scheduler_id": number})] for number in ("7_0", "8_0"))
    make_job(root, "pretrain-1", {"pretrain": PRETRAIN}, [*first, *pretrain], log=log)
    make_job(root, "probe-1", {"probe": PROBE}, second, needs=["pretrain-1"])
