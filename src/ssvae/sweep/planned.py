"""A cell with its stages and identity, and the name of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ssvae.config.compose import Cell
from ssvae.core.identity import fingerprint
from ssvae.stages.plan import StagePlan


@dataclass(frozen=True)
class PlannedCell:
    """plans: its stages by name, in order. alike: other cells of the grid that are the same work, and run once."""

    cell: Cell
    plans: dict[str, StagePlan]
    cell_id: str
    alike: tuple[Cell, ...] = ()

    @property
    def label(self) -> str:
        """The swept values, without the quotes that Hydra needs."""
        return " ".join(self.cell.axes).replace("'", "") or self.cell_id


def distinct(cells: Sequence[PlannedCell]) -> list[PlannedCell]:
    """Each cell once: axes that do not reach a cell (a strength of a term that it lacks) give equal cells."""
    groups: dict[str, list[PlannedCell]] = {}
    for planned in cells:
        groups.setdefault(planned.cell_id, []).append(planned)
    return [replace(first, alike=tuple(one.cell for one in others)) for first, *others in groups.values()]


def command_line(overrides: Sequence[str], several: bool) -> str:
    """What the user typed, without the quotes that only Hydra needs."""
    return " ".join(["python run.py", *(["-m"] if several else []), *overrides]).replace("'", "")


def sweep_name(cells: Sequence[PlannedCell]) -> str:
    """The given name, or one derived from axes and cells: the same grid finds its results again."""
    given = cells[0].cell.cfg.sweep.name
    if given is not None:
        return given
    axes: dict[str, set[str]] = {}
    for planned in cells:
        for text in planned.cell.axes:
            key, _, value = text.partition("=")
            axes.setdefault(key.replace("/", ".").replace("@", "-").lstrip("+"), set()).add(value)
    words = [f"{key}{len(values)}" for key, values in axes.items()] or ["cell"]
    return "-".join([*words, fingerprint(sorted(planned.cell_id for planned in cells), 8)])
