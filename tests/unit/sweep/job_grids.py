"""Planned cells for tests of jobs: a command line's stages, with nothing computed."""

from __future__ import annotations

from pathlib import Path

from ssvae.config.compose import resolve
from ssvae.core.files import write_json
from ssvae.stages.plan import cell_id, plan_cell
from ssvae.sweep.planned import PlannedCell
from tiny_runs import TINY


def planned(root: Path, *overrides: str) -> list[PlannedCell]:
    """The cells of ``TINY overrides``."""
    found = []
    for cell in resolve((*TINY, *overrides)):
        plans = plan_cell(
            cell.cfg, root, lambda data: "content", worlds=lambda stage, jobs=cell.cfg.launch.jobs: jobs.of(stage).world
        )
        found.append(PlannedCell(cell, plans, cell_id(plans)))
    return found


def finish(one: PlannedCell, *stages: str) -> None:
    """Mark stages as done."""
    for stage in stages:
        write_json(one.plans[stage].folder / "done.json", {"seconds": 1.0, "id": one.plans[stage].id})
