"""The cells a prediction stands on: of several sweeps, each once, with updates to the baseline; which share a VAE."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

from ssvae.core.types import MetricValue
from ssvae.report.collect import CellRow, check_protocols, collect
from ssvae.report.convergence import convergence

STEPS = "steps_to_baseline_"
"""Scores made of updates to the baseline's final score; never reaching it ranks last."""

_NO_VAE = ("base", "dit_base", "dit", "probe")
"""Stages whose folder does not tell one VAE from another."""


def collect_sweeps(root: Path, sweeps: Sequence[str]) -> list[CellRow]:
    """Finished cells of all sweeps with updates to the baseline of their own sweep (:func:`with_steps_to_baseline`).

    Each piece of work is there once, though several sweeps may share it: with the first sweep that has a baseline for
    it. Raises ValueError for an unknown sweep, and for a metric with two protocols, naming it and the cells.
    """
    found: dict[Hashable, CellRow] = {}
    for sweep in dict.fromkeys(sweeps):
        finished = [row for row in collect(root, sweep) if row.status == "finished" and row.reason is None]
        for row in with_steps_to_baseline(finished):
            work = tuple(sorted(row.stages.items()))
            if work not in found or (_compared(row) and not _compared(found[work])):
                found[work] = row
    check_protocols(list(found.values()))
    return list(found.values())


def with_steps_to_baseline(rows: Sequence[CellRow]) -> list[CellRow]:
    """The rows with a metric ``steps_to_baseline_<metric>`` for each score at checkpoints that has a target.

    Infinite where the target is never reached: of ranks, only that it is the last.
    """
    added: dict[int, dict[str, float]] = {}
    place = {id(row): index for index, row in enumerate(rows)}
    for one in convergence(rows):
        if one.crossing is not None:
            updates = math.inf if one.crossing.updates is None else one.crossing.updates
            added.setdefault(place[id(one.row)], {})[STEPS + one.metric] = updates
    return [_with_updates(row, added.get(index, {})) for index, row in enumerate(rows)]


def distinct_vaes(rows: Sequence[CellRow]) -> list[int]:
    """One number a cell, equal for cells whose VAEs differ by seed alone, or that share the VAE.

    They share it where they share a stage other than base, dit and probe.

    By the settings that the VAE's stages recorded; cells without such a record are compared by their swept values.
    """
    parent = list(range(len(rows)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    seen: dict[Hashable, int] = {}
    for index, row in enumerate(rows):
        fields = tuple(sorted((name, str(value)) for name, value in row.fields.items() if name != "seed"))
        folders = [where for stage, where in row.stages.items() if stage not in _NO_VAE]
        for key in (row.vae or fields, *folders):
            first = seen.setdefault(key, index)
            parent[max(root(first), root(index))] = min(root(first), root(index))
    return [root(index) for index in range(len(rows))]


def _compared(row: CellRow) -> bool:
    return any(name.startswith(STEPS) for name in row.metrics)


def _with_updates(row: CellRow, updates: dict[str, float]) -> CellRow:
    protocol = "first_crossing/1;baseline=none;linear between checkpoints"
    metrics = {name: MetricValue(name, value, "updates", "down", 1, None, protocol) for name, value in updates.items()}
    return replace(
        row,
        metrics={**row.metrics, **metrics},
        origins={**row.origins, **dict.fromkeys(metrics, "probe")},
    )
