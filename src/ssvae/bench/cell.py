"""What a cell costs beside its stages: one tiny real cell through ``run.py`` in a root of its own.

Overhead is the wall time of the process less the seconds that its stages report. Where it goes is found by asking again:
the same command with everything finished, with and without tracking, and the start of the interpreter alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssvae.core.paths import PROJECT
from ssvae.core.files import read_json

LIMIT_S = 5.0
"""The overhead of a cell stays under this."""

TINY = (
    "reg=lcr",
    "data.synthetic.clips=16",
    "data.synthetic.shard_size=16",
    "data.synthetic.frames=12",
    "data.synthetic.size=32",
    "stages.base=null",
    "train.steps=2",
    "train.warmup=1",
    "train.batch=2",
    "score.clips=4",
    "score.batch=4",
    "latents.windows=1",
    "probe.train.steps=2",
    "probe.train.warmup=1",
    "probe.train.batch=2",
    "probe.validation_draws=1",
    "probe.sample.clips=4",
    "probe.sample.steps=2",
)
"""A cell with every stage, each as short as it can be."""

# What the process does before its first own line of work, told by itself; the interpreter's start is the rest.
_STARTUP = """
import json, sys, time
begun = time.perf_counter()
import ssvae.cli.run, ssvae.sweep.main
imported = time.perf_counter()
from ssvae.config.compose import resolve
resolve(tuple(sys.argv[1:]))
print(json.dumps({"imports": imported - begun, "compose": time.perf_counter() - imported}))
"""

Runner = Callable[[Sequence[str], Mapping[str, str]], tuple[float, str]]
"""(command, environment) -> (seconds, standard output)."""


class CellError(RuntimeError):
    """The tiny cell did not finish."""


@dataclass(frozen=True)
class CellFigure:
    """overhead_s: wall time less stages. stages_s: their sum. parts: where the overhead goes, in seconds."""

    overhead_s: float
    stages_s: float
    parts: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready row; there is nothing to compare with, so reference and ratio are null and a limit stands there."""
        return {
            "name": "cell_overhead",
            "what": "wall time of one tiny cell in a fresh root, tracked by MLflow, less the seconds of its stages",
            "unit": "s",
            "median": self.overhead_s,
            "reference": None,
            "ratio": None,
            "pairs": 1,
            "equal": None,
            "stages_s": self.stages_s,
            "parts_s": self.parts,
            "limit_s": LIMIT_S,
            "within_limit": self.overhead_s < LIMIT_S,
        }


def run_process(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, str]:
    """Seconds and output of a process; raises :class:`CellError` with its last lines if it fails."""
    begun = time.perf_counter()
    done = subprocess.run(list(command), env=dict(environment), capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise CellError(f"{' '.join(command[:3])} ... ended with {done.returncode}: {last}")
    return seconds, done.stdout


def measure_cell(run: Runner = run_process) -> CellFigure:
    """Run the tiny cell and take its overhead apart; parts that are differences may come out slightly negative.

    interpreter, imports, compose: until the command line is judged. plan_and_report: opening the data, identities,
    plan, table and figures. tracking: MLflow, for a finished cell. first_time: what only a fresh root has to do
    (render the data, make the database) and mirroring while stages run.
    """
    with tempfile.TemporaryDirectory(prefix="ssvae-bench-") as root:
        environment = {**os.environ, "SSVAE_ROOT": root}
        cell = [sys.executable, str(PROJECT / "run.py"), *TINY]
        computing, _ = run([*cell, "track=mlflow"], environment)
        stages = sum(float(read_json(path)["seconds"]) for path in sorted(Path(root, "runs").rglob("done.json")))
        again, _ = run([*cell, "track=mlflow"], environment)
        untracked, _ = run([*cell, "track=none"], environment)
        whole, told = run([sys.executable, "-c", _STARTUP, *TINY], environment)
    overhead = computing - stages
    parts = {str(name): float(seconds) for name, seconds in json.loads(told).items()}
    return CellFigure(
        overhead_s=overhead,
        stages_s=stages,
        parts={
            "interpreter": whole - sum(parts.values()),
            **parts,
            "plan_and_report": untracked - whole,
            "tracking": again - untracked,
            "first_time": overhead - again,
        },
    )
