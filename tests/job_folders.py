"""Makes jobs of a small sweep, for tests of what is said of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ssvae.core.jobs import JobFile, append_event, job_folder, sweep_jobs, write_job, write_sweep_jobs
from ssvae.core.queue import GONE, QueueState

PRETRAIN, PROBE = "runs/stages/pretrain-1", "runs/stages/probe-1"
STARTED = ("started", {"attempt": 1, "host": "n1"})
REQUEUED = ("ended", {"how": "interrupted", "reason": "signal SIGTERM", "next": "requeue"})
RETRIED = ("ended", {"how": "failed", "reason": "OSError: disk", "next": "retry"})
FAILED = ("ended", {"how": "failed", "reason": "ValueError: no clips", "next": "none", "rank": 0})


class FakeQueue:
    """Knows what it is told; counts how often, and for which, it is asked."""

    def __init__(self, states: Mapping[str, str | QueueState] | None = None) -> None:
        self.known = dict(states or {})
        self.asked: list[list[str]] = []

    def states(self, ids: Iterable[str]) -> dict[str, QueueState]:
        self.asked.append(list(ids))
        told = {job: self.known.get(job, GONE) for job in self.asked[-1]}
        return {job: state if isinstance(state, QueueState) else QueueState(state) for job, state in told.items()}


def make_job(root: Path, job_id: str, stages: Mapping[str, str], events: Iterable[Any] = (), **more: Any) -> Path:
    """A Slurm job of the sweep ``grid``. events: names, or names with values; ``log=`` is what its rank 0 said."""
    folder = job_folder(root, job_id)
    log = more.pop("log", None)
    values: dict[str, Any] = {
        "job_id": job_id, "kind": job_id.partition("-")[0], "stages": dict(stages), "cell": "c", "cells": ["c"],
        "config": "c.yaml", "sweeps": ["grid"], "label": "c", "root": str(root), "code": "code", "launcher": "slurm",
    }  # fmt: skip
    write_job(folder, JobFile(**{**values, **more}))
    write_sweep_jobs(root, "grid", [*sweep_jobs(root, "grid"), job_id])
    for event in events:
        name, told = (event, {}) if isinstance(event, str) else event
        append_event(folder, name, **told)
    if log is not None:
        (folder / "log").mkdir()
        (folder / "log" / "rank_0_log.err").write_text(log)
    return folder


def age(root: Path, seconds: float) -> None:
    """Let everything that is known of jobs, stages and cells have happened so long ago."""
    then = time.time() - seconds
    for path in (root / "runs").rglob("*"):
        if path.name == "events.jsonl":
            events = [json.loads(line) for line in path.read_text().splitlines()]
            for event in events:
                event["time_ms"] -= int(seconds * 1000)
            path.write_text("".join(json.dumps(event) + "\n" for event in events))
        elif path.name == "progress.json":
            values = json.loads(path.read_text())
            path.write_text(json.dumps({**values, "time_ms": values["time_ms"] - int(seconds * 1000)}))
        os.utime(path, (then, then))


def make_pace(root: Path, where: str, done: int, total: int, rate: float | None, what: str = "train VAE") -> None:
    """The heartbeat of a running stage."""
    (root / where).mkdir(parents=True, exist_ok=True)
    values = {"what": what, "done": done, "total": total, "rate": rate, "time_ms": int(time.time() * 1000)}
    (root / where / "progress.json").write_text(json.dumps(values))
