"""A trial as a cell of the sweep: composed, planned, recorded, shown, measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ssvae.config.compose import Cell
from ssvae.config.launch import LaunchConfig
from ssvae.core.files import read_json
from ssvae.report.collect import read_cell
from ssvae.stages.plan import cell_id
from ssvae.sweep.one_cell import missing, plan
from ssvae.sweep.planned import PlannedCell
from ssvae.sweep.record import CellRecord
from ssvae.sweep.search.compose import resolve_beside
from ssvae.sweep.search.runner import Order
from ssvae.sweep.search.space import Value, overrides
from ssvae.sweep.sources import Sources
from ssvae.track.live import Live
from ssvae.track.records import STATUS


@dataclass(frozen=True)
class Trial:
    """number: of the study. planned: with all of its stages. first: the first trial with this cell."""

    number: int
    planned: PlannedCell
    first: int

    @property
    def finished(self) -> bool:
        """Was every stage there before?"""
        return all(one.finished for one in self.planned.plans.values())

    @property
    def cheap(self) -> dict[str, None]:
        """Names of the stages up to ``measure``, what comes before the probe."""
        names = list(self.planned.plans)
        return dict.fromkeys(names[: names.index("measure") + 1])


class Trials:
    """The trials of one driver. live: the tracker, None without one."""

    def __init__(
        self, root: Path, sweep: str, base: Cell, launch: LaunchConfig, sources: Sources, live: Live | None
    ) -> None:
        self._root, self._sweep, self._base, self._launch = root, sweep, base, launch
        self._sources, self._live = sources, live
        self._begun: set[int] = set()
        self._before: dict[int, CellRecord] = {}

    def open(self, number: int, params: Mapping[str, Value]) -> Trial:
        """Compose and plan a trial. Raises ValueError where its cell is refused or lacks a stage."""
        (cell,) = resolve_beside((*self._base.overrides, "search=null", *overrides(params)))
        cfg = replace(cell.cfg, launch=self._launch)
        plans = plan(cfg, self._sources, self._root)
        if gaps := missing(cfg, plans):
            raise ValueError("; ".join(gaps))
        made = cell_id(plans)
        # Two suggestions may be the same work: it keeps the number under which it was first shown.
        path = self._record(made)
        first = int(read_json(path)["fields"].get("trial", number)) if path.exists() else number
        return Trial(number, PlannedCell(replace(cell, cfg=cfg, axes=(f"trial={first}",)), plans, made), first)

    def order(self, trial: Trial, stages: Sequence[str]) -> Order:
        """What a runner needs for ``stages`` of a trial; its record, its frozen config and its run are there then."""
        path = self._record(trial.planned.cell_id)
        if trial.number in self._begun:  # its cheap part is done: what that took and reused is the trial's as well
            self._before[trial.number] = CellRecord.load(path)
        self._begun.add(trial.number)
        kept = {name: one for name, one in trial.planned.plans.items() if name in stages}
        planned = replace(trial.planned, plans=kept)
        record = CellRecord.open(self._root, self._sweep, planned)
        numbers = [*filter(None, record.tags.get("trial", "").split(", ")), str(trial.number)]
        record.status, record.reason = "running", None
        record.tags = {"trial": ", ".join(dict.fromkeys(numbers)), "trial_state": "running"}
        record.save()
        if self._live is not None:
            self._live.open_cell(self._sweep, record.path)
            for name, one in kept.items():
                self._live.watch(self._sweep, record.cell_id, name, one.folder)
        return Order(str(trial.number), planned, record.path)

    def values(self, trial: Trial, metrics: Sequence[str]) -> dict[str, float | None]:
        """Metric -> value, None where the cell has none or it is not a number."""
        row = read_cell(self._root, self._record(trial.planned.cell_id))
        return {name: row.value(name) for name in metrics}

    def close(
        self,
        trial: Trial,
        status: Literal["finished", "failed", "killed"],
        reason: str | None,
        state: str,
        values: Mapping[str, float],
    ) -> None:
        """Write down how a trial ended, in its record and its run. state, values: as the study was told."""
        record = CellRecord.load(self._record(trial.planned.cell_id))
        record.status, record.reason = status, reason
        if (before := self._before.pop(trial.number, None)) is not None:
            record.seconds += before.seconds
            record.reused = [name for name in record.reused if name in before.reused or name not in before.stages]
        record.tags |= {"trial_state": state, **{f"objective.{name}": repr(value) for name, value in values.items()}}
        record.save()
        if self._live is None:
            return
        # Closed and opened again: the run is found anew, and takes the tags over.
        self._live.close_cell(self._sweep, record.cell_id, STATUS[status], reason, record.reused)
        self._live.open_cell(self._sweep, record.path)
        self._live.close_cell(self._sweep, record.cell_id, STATUS[status], reason, record.reused)

    def _record(self, cell: str) -> Path:
        return self._root / "runs" / "sweeps" / self._sweep / "cells" / f"{cell}.json"
