"""The benchmark from the list of figures to one JSON value."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from ssvae.bench import NAMES, cell, decode, frechet, local_corr, spectrum, tracker_stall, vae_step
from ssvae.bench.machine import hardware, load_average, versions
from ssvae.bench.pair import Pair, measure
from ssvae.core.identity import git_state
from ssvae.core.paths import PROJECT
from ssvae.core.progress import Progress

SCHEMA = "ssvae-bench/1"

PAIRS: dict[str, Callable[[], list[Pair]]] = {
    "vae_step": vae_step.pairs,
    "decode": decode.pairs,
    "local_corr": local_corr.pairs,
    "frechet": frechet.pairs,
    "spectrum": spectrum.pairs,
}
APART: dict[str, Callable[[], dict[str, Any]]] = {
    "tracking": lambda: tracker_stall.measure_stall().to_json(),
    "cell": lambda: cell.measure_cell().to_json(),
}
"""Figures that are measured in processes of their own."""
assert {*PAIRS, *APART} == set(NAMES)


def run_bench(names: Sequence[str], budget_s: float, progress: Progress) -> dict[str, Any]:
    """Measure the figures of the modules ``names`` (out of ``bench.NAMES``), about ``budget_s`` seconds each.

    Every pair is checked for equal results before the first one is timed. Returns the JSON-ready report. Raises
    NotEqualError for a pair that is not, CellError and StallError when what is measured apart does not come to its end.
    """
    begun, load = time.perf_counter(), load_average()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    pairs = [pair for name in names if name in PAIRS for pair in PAIRS[name]()]
    progress.start("equal results", len(pairs))
    differences = []
    for done, pair in enumerate(pairs, 1):
        differences.append(pair.check())
        progress.advance(done, pair.name)
    rows: list[dict[str, Any]] = []
    apart = [name for name in names if name in APART]
    progress.start("times", len(pairs) + len(apart))
    for pair, difference in zip(pairs, differences, strict=True):
        rows.append(measure(pair, difference, budget_s=budget_s).to_json())
        progress.advance(len(rows), pair.name)
    for name in apart:
        rows.append(APART[name]())
        progress.advance(len(rows), name)
    return {
        "schema": SCHEMA,
        "started": started,
        "seconds": time.perf_counter() - begun,
        "machine": {**hardware(), "threads": torch.get_num_threads(), "load": [load, load_average()]},
        "versions": versions(),
        **git_state(PROJECT),
        "method": "fast and reference in turns in one process, equally many threads; ratio = median over pairs of "
        "reference seconds / fast seconds",
        "figures": rows,
    }
