"""What tracking costs the thread that trains while its server hangs: tiny steps, tracked and untracked in turns.

Run as a program of its own (``python -m ssvae.track.stall REPEATS STEPS``); the last line of its output is JSON. Each
repeat runs the same steps three times, each time as a cell of its own that writes ``steps.jsonl`` as training does:

* ``off``: no tracker;
* ``hanging``: a tracker of ours, whose server on the loopback takes every connection and never answers;
* ``naive``: MLflow's client called in the step, into a SQLite database.

Wall times of steps on a busy machine say little, so the time inside calls of the tracker is measured as well, as wall
time and as processor time of this thread alone.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ssvae.core.files import StepsLog, write_json, write_text
from ssvae.track.base import Problems
from ssvae.track.live import Live
from ssvae.track.mlflow import MlflowTracker, prepare, sqlite_uri

SIZE = 384
"""Side of the two matrices that a step multiplies: a few milliseconds, far below any real training step."""
_METRICS = ("loss", "nll", "kl", "lr", "grad_norm", "logscale")


@dataclass
class Spent:
    """Seconds of one segment of steps: wall and processor time of the thread that trains, and the part of each that was
    inside calls of the tracker. calls: how many. log: the ``steps.jsonl`` that was written."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    inside_wall_s: float = 0.0
    inside_cpu_s: float = 0.0
    calls: int = 0
    log: str = ""

    def inside(self, call: Callable[..., object], *given: object, **named: object) -> None:
        """Make one call of the tracker, on the clock."""
        wall, cpu = time.perf_counter(), time.thread_time()
        call(*given, **named)
        self.inside_wall_s += time.perf_counter() - wall
        self.inside_cpu_s += time.thread_time() - cpu
        self.calls += 1


def segment(
    root: Path, cell: str, steps: int, live: Live | None, each: Callable[[int, dict[str, float]], Any]
) -> Spent:
    """One cell of one stage with ``steps`` steps, told to ``live`` as the scheduler tells; ``each`` is called in every
    step, as a client of the naive kind is."""
    record, folder = _cell(root, cell)
    spent = Spent()
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIZE, SIZE, generator=generator) / SIZE**0.5 for _ in range(2))
    wall, cpu = time.perf_counter(), time.thread_time()
    if live is not None:
        spent.inside(live.open_cell, "bench", record)
        spent.inside(live.watch, "bench", cell, "pretrain", folder)
    log = StepsLog(folder / "steps.jsonl", 0)
    for step in range(1, steps + 1):
        left = torch.tanh(left @ right)
        values = {name: float(left[index, index]) for index, name in enumerate(_METRICS)}
        log.write(step, values)
        each(step, values)
    log.close()
    if live is not None:
        spent.inside(live.stage_done, "bench", cell, "pretrain", folder)
        spent.inside(live.close_cell, "bench", cell, "FINISHED", None, [])
    spent.cpu_s, spent.wall_s = time.thread_time() - cpu, time.perf_counter() - wall
    spent.log = (folder / "steps.jsonl").read_text(encoding="utf-8")
    return spent


def compare(root: Path, repeats: int, steps: int) -> list[dict[str, Any]]:
    """``repeats`` times the three kinds of segment, in turns; one row a repeat, seconds by kind."""
    naive = NaiveClient(root)
    problems = Problems()
    rows = []
    with silent_server() as uri:
        prepare(root, uri)
        live = Live(root, lambda: MlflowTracker(root, "bench", uri), problems, every_s=0.05)
        live.open_sweep("bench", {})

        def nothing(step: int, values: dict[str, float]) -> None:
            return None

        segment(root, "warm", steps, None, nothing)
        for repeat in range(repeats):
            kinds = {
                "off": segment(root, f"off{repeat}", steps, None, nothing),
                "hanging": segment(root, f"hanging{repeat}", steps, live, nothing),
                "naive": segment(root, f"naive{repeat}", steps, None, naive.log),
            }
            assert len({spent.log for spent in kinds.values()}) == 1, "tracking must not change a number"
            rows.append({kind: {k: v for k, v in asdict(s).items() if k != "log"} for kind, s in kinds.items()})
        missing = live.close(0.0)
    assert len(missing) == repeats + 1, "the server answered after all"
    return rows


class NaiveClient:
    """What most training code does: log every step when it is made."""

    def __init__(self, root: Path) -> None:
        from mlflow.tracking import MlflowClient

        tracker = MlflowTracker(root / "naive", "bench", sqlite_uri(root / "naive" / "mlflow.db"))
        self._client = MlflowClient(tracking_uri=tracker.uri)
        experiment = self._client.get_experiment_by_name("bench")
        assert experiment is not None
        self._run = self._client.create_run(experiment.experiment_id).info.run_id

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log the values of one step, and wait for it."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in values.items()])


@contextmanager
def silent_server() -> Iterator[str]:
    """URI of a server on the loopback that takes every connection and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _cell(root: Path, cell: str) -> tuple[Path, Path]:
    folder = root / "runs" / "stages" / f"pretrain-{cell}"
    record = root / "runs" / "sweeps" / "bench" / "cells" / f"{cell}.json"
    values: dict[str, Any] = {
        "cell_id": cell,
        "fields": {"reg": "none"},
        "overrides": [],
        "status": "running",
        "reason": None,
    }
    write_json(record, {**values, "stages": {"pretrain": str(folder.relative_to(root))}, "reused": []})
    write_text(record.with_suffix(".yaml"), "seed: 0\n")
    write_json(folder / "run.json", {"created_ms": int(time.time() * 1000)})
    return record, folder


def main(argv: list[str]) -> int:
    """REPEATS STEPS -> rows as JSON on the last line."""
    repeats, steps = (int(word) for word in argv)
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="ssvae-stall-"))
    try:
        rows = compare(root, repeats, steps)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    sys.stdout.write(json.dumps({"rows": rows, "timeout_s": os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT")}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
