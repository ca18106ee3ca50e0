"""What a cell costs beside its stages: one tiny real cell, run as ``run.py`` runs it, in a root of its own.

Overhead is the wall time of the process less the seconds that its stages report. Where it goes is found by a look at
the clock between its steps, and by running the same cell again, finished now, with and without tracking.
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

# What run.py does, with a look at the clock in between; told in the last line of the output.
_PROGRAM = """
import json, sys, time
begun = time.perf_counter()
import ssvae.sweep.main
from ssvae.cli.run import main
imported = time.perf_counter()
from ssvae.config.compose import resolve
resolve(tuple(sys.argv[1:]))
composed = time.perf_counter()
code = main(sys.argv[1:])
ended = time.perf_counter()
times = {"imports": imported - begun, "compose": composed - imported, "run": ended - composed}
print(json.dumps({**times, "cpu": time.process_time()}))
sys.exit(code)
"""

Runner = Callable[[Sequence[str], Mapping[str, str]], tuple[float, str]]
"""(command, environment) -> (seconds, standard output)."""


class CellError(RuntimeError):
    """The tiny cell did not finish."""


@dataclass(frozen=True)
class CellFigure:
    """overhead_s: wall time less stages. stages_s: their sum. parts: where the overhead goes, in seconds.

    finished_cpu_s: processor time of the whole process when the cell is finished already. A busy machine stretches wall
    times, this one hardly: on an idle machine the overhead comes to about this and ``first_time``.
    """

    overhead_s: float
    stages_s: float
    parts: dict[str, float]
    finished_cpu_s: float

    def to_json(self) -> dict[str, Any]:
        """JSON-ready row; there is nothing to compare with, so instead of reference and ratio a limit is given."""
        return {
            "name": "cell_overhead",
            "what": "wall time of one tiny cell in a fresh root, tracked by MLflow, less the seconds of its stages",
            "unit": "s",
            "median": self.overhead_s,
            "reference": None,
            "ratio": None,
            "ratio_min": None,
            "ratio_max": None,
            "pairs": 1,
            "equal": None,
            "stages_s": self.stages_s,
            "parts_s": self.parts,
            "finished_cpu_s": self.finished_cpu_s,
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
        raise CellError(f"the tiny cell ended with {done.returncode}: {last}")
    return seconds, done.stdout


def measure_cell(run: Runner = run_process) -> CellFigure:
    """Run the tiny cell and take its overhead apart; the parts sum to it.

    start_and_exit: of the interpreter. imports, compose: until the command line is judged. plan_and_report: opening the
    data, identities, plan, table and figures, for a finished cell without tracking. tracking: what MLflow adds to that.
    first_time: what only a fresh root has to do (render the data, make the database), and mirroring while stages run.
    The last three come from three processes, so on a noisy machine one of them may come out negative.
    """
    with tempfile.TemporaryDirectory(prefix="ssvae-bench-") as root:
        environment = {**os.environ, "SSVAE_ROOT": root}
        program = [sys.executable, "-c", _PROGRAM, *TINY]
        wall, said = run([*program, "track=mlflow"], environment)
        stages = sum(float(read_json(path)["seconds"]) for path in sorted(Path(root, "runs").rglob("done.json")))
        computing = _told(said)
        finished = _told(run([*program, "track=mlflow"], environment)[1])
        untracked = _told(run([*program, "track=none"], environment)[1])["run"]
    return CellFigure(
        overhead_s=wall - stages,
        stages_s=stages,
        parts={
            "start_and_exit": wall - computing["imports"] - computing["compose"] - computing["run"],
            "imports": computing["imports"],
            "compose": computing["compose"],
            "plan_and_report": untracked,
            "tracking": finished["run"] - untracked,
            "first_time": computing["run"] - stages - finished["run"],
        },
        finished_cpu_s=finished["cpu"],
    )


def _told(output: str) -> dict[str, float]:
    """The times in the last line of the program's output."""
    return {str(name): float(seconds) for name, seconds in json.loads(output.strip().splitlines()[-1]).items()}
