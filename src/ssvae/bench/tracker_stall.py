"""What tracking takes from the thread that trains while its server hangs, beside a client that is called in the step.

The measuring is done by :mod:`ssvae.track.stall`, in a process of its own: only ``track`` knows MLflow.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

LIMIT = 0.01
"""The share of the training thread's time that tracking stays under."""
REPEATS, STEPS = 15, 100
Rows = Sequence[dict[str, dict[str, float]]]


class StallError(RuntimeError):
    """The measurement did not come to its end."""


@dataclass(frozen=True)
class StallFigure:
    """rows: one a repeat: seconds of ``steps`` steps by kind (off, hanging, naive), see :mod:`ssvae.track.stall`."""

    rows: Rows
    steps: int

    def __post_init__(self) -> None:
        assert self.rows and self.steps > 0

    def share(self, clock: str) -> float:
        """Time inside the tracker's calls over all time of the training thread, all repeats together. clock: "wall",
        or "cpu" for processor time."""
        inside = sum(row["hanging"][f"inside_{clock}_s"] for row in self.rows)
        return inside / sum(row["hanging"][f"{clock}_s"] for row in self.rows)

    def ratios(self, over: str, under: str, clock: str) -> list[float]:
        """Of each repeat, the time of one kind over another's."""
        return [row[over][f"{clock}_s"] / row[under][f"{clock}_s"] for row in self.rows]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready row. ratio: how many times longer a step takes when it calls MLflow's client itself."""
        naive = self.ratios("naive", "hanging", "wall")
        worst = max(self.share("wall"), self.share("cpu"))
        return {
            "name": "tracking_stall",
            "what": f"a tiny training step ({self.steps} a segment), tracked by a server that never answers",
            "unit": "s",
            "median": self._step("hanging"),
            "reference": {
                "where": "mlflow.log_batch called in the step, SQLite on this disk",
                "median": self._step("naive"),
            },
            "ratio": statistics.median(naive),
            "ratio_min": min(naive),
            "ratio_max": max(naive),
            "pairs": len(self.rows),
            "equal": {"difference": 0.0, "tolerance": 0.0},
            "untracked_s": self._step("off"),
            "share_of_thread": {
                "inside_calls_wall": self.share("wall"),
                "inside_calls_cpu": self.share("cpu"),
                "calls_per_segment": self.rows[0]["hanging"]["calls"],
            },
            "tracked_over_untracked": {
                "thread_cpu": statistics.median(self.ratios("hanging", "off", "cpu")),
                "wall": statistics.median(self.ratios("hanging", "off", "wall")),
            },
            "naive_over_untracked": {
                "thread_cpu": statistics.median(self.ratios("naive", "off", "cpu")),
                "wall": statistics.median(self.ratios("naive", "off", "wall")),
            },
            "limit_share": LIMIT,
            "within_limit": worst < LIMIT,
        }

    def _step(self, kind: str) -> float:
        return statistics.median(row[kind]["wall_s"] for row in self.rows) / self.steps


def run_process(repeats: int, steps: int) -> str:
    """Output of the measuring process; raises :class:`StallError` with its last lines if it fails."""
    command = [sys.executable, "-m", "ssvae.track.stall", str(repeats), str(steps)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(command, env={**os.environ, **one}, capture_output=True, text=True)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise StallError(f"the measurement of tracking ended with {done.returncode}: {last}")
    return done.stdout


def measure_stall(
    run: Callable[[int, int], str] = run_process, repeats: int = REPEATS, steps: int = STEPS
) -> StallFigure:
    """Run the measurement and read it; equal logs of all kinds are checked there."""
    told = json.loads(run(repeats, steps).strip().splitlines()[-1])
    return StallFigure(told["rows"], steps)
