"""Read a sweep's cells and the run folders of their stages into rows: the one input of tables and figures."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssvae.core.types import Direction, MetricValue
from ssvae.report.collect_settings import probe_settings, vae_settings

logger = logging.getLogger(__name__)

FIELDS = ("reg", "channels", "resolution", "seed")
"""What every cell has; other fields are further swept values, such as ``strength.lcr``."""

USUAL_WEIGHTS = ("weights", "pretrain raw")
"""Which weights were measured (stage and kind): a column of the table, named elsewhere only where it is not this."""

UNTRAINED = "-"
"""In place of a regulariser: the VAE was not trained here, and the field ``vae`` names it."""

REGULARIZER_ORDER = ("none", "lcr", "lmr", "lcr_lmr")
"""Rows come in this order; other regularisers follow alphabetically."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a figure: ``y`` over ``x``, equally long, with axis labels.

    low, high: ends of each value's 95 % interval over samples, where it has one. direction, protocol: as of a metric,
    None where the curve does not say.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    x_label: str
    y_label: str
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    direction: Direction | None = None
    protocol: str | None = None


@dataclass(frozen=True, slots=True)
class CellRow:
    """One cell of a sweep with everything its finished stages measured.

    fields: the swept values, :data:`FIELDS` and others. status: running, finished, failed or killed; reason: why it is
    not finished. metrics, curves: by name; where two stages give the same name, the later stage counts. stages: name ->
    folder. origins: metric -> the stage that measured it. probe, vae: identities of their settings but for the seed
    (:mod:`ssvae.report.collect_settings`), None where they are not recorded. sweep: the one it was read from.
    """

    cell_id: str
    fields: Mapping[str, Any]
    status: str
    reason: str | None = None
    metrics: Mapping[str, MetricValue] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    probe: str | None = None
    vae: str | None = None
    sweep: str = ""

    def value(self, metric: str) -> float | None:
        """The metric's value, None where it was not measured or is NaN."""
        found = self.metrics.get(metric)
        return None if found is None or math.isnan(found.value) else found.value

    @property
    def others(self) -> dict[str, str]:
        """Swept values beyond :data:`FIELDS` as text, by name in alphabetical order."""
        return {name: str(self.fields[name]) for name in sorted(set(self.fields) - set(FIELDS))}

    @property
    def unusual(self) -> dict[str, str]:
        """:attr:`others` without the weights that are measured anyway, and without what :attr:`who` says."""
        said = {USUAL_WEIGHTS} if self.fields.get("reg") != UNTRAINED else {("weights", "given"), ("vae", self.who)}
        return {name: value for name, value in self.others.items() if (name, value) not in said}

    @property
    def who(self) -> str:
        """The regulariser, or the name of a VAE that was not trained here."""
        reg = str(self.fields.get("reg", "?"))
        return reg if reg != UNTRAINED else str(self.fields.get("vae", "?"))

    @property
    def label(self) -> str:
        """Short name such as ``lcr, 48 ch`` or ``lcr, 48 ch, strength.lcr=0.2``: no resolution, no seed."""
        known = [self.who, f"{self.fields.get('channels', '?')} ch"]
        return ", ".join([*known, *(f"{name}={value}" for name, value in self.unusual.items())])


def sweep_folder(root: Path, sweep: str) -> Path:
    """``<root>/runs/sweeps/<sweep>``; raises ValueError, naming the sweeps that exist, when it holds no cells."""
    parent = root / "runs" / "sweeps"
    folder = parent / sweep
    if not any((folder / "cells").glob("*.json")):
        known = sorted(path.parent.name for path in parent.glob("*/cells"))
        there = f"the sweeps there are: {', '.join(known)}" if known else "there are no sweeps yet"
        raise ValueError(f"sweep '{sweep}' has no cells in {folder}: {there}")
    return folder


def cell_paths(root: Path, sweep: str) -> list[Path]:
    """Files of a sweep's cells, by name: those that ``cells`` in its ``sweep.json`` lists, else (older sweeps) all.

    A name can be used again with other settings: what an earlier use left behind is no cell of the sweep any more.
    Raises ValueError for an unknown sweep, an unreadable list, or a listed cell that is not there.
    """
    folder = sweep_folder(root, sweep)
    there = {path.stem: path for path in sorted((folder / "cells").glob("*.json"))}
    record = folder / "sweep.json"
    listed = _read(record).get("cells") if record.exists() else None
    if listed is None:
        return list(there.values())
    if not isinstance(listed, list) or not all(isinstance(cell, str) for cell in listed):
        raise ValueError(f"cells in {record} is {listed!r}: it must be a list of cell ids")
    if missing := sorted(set(listed) - set(there)):
        raise ValueError(
            f"cells of {record} are not in {folder / 'cells'}: {', '.join(missing)}; run the sweep's command again"
        )
    return [there[cell] for cell in sorted(set(listed))]


def collect(root: Path, sweep: str) -> list[CellRow]:
    """Rows of the cells of a sweep (:func:`cell_paths`), sorted by :func:`sort_key`.

    Raises ValueError for an unknown sweep, an unreadable file, or a metric with two protocols.
    """
    rows = sorted((read_cell(root, path) for path in cell_paths(root, sweep)), key=sort_key)
    check_protocols(rows)
    return rows


def read_cell(root: Path, path: Path) -> CellRow:
    """The cell of the file ``<root>/runs/sweeps/<sweep>/cells/<cell_id>.json``, without a look at its sweep's others.

    Of its stages only finished ones (with ``done.json``) are read. Raises ValueError for an unreadable file.
    """
    cell = _read(path)
    metrics: dict[str, MetricValue] = {}
    curves: dict[str, Curve] = {}
    origins: dict[str, str] = {}
    reason = cell["reason"]
    for stage, where in cell["stages"].items():
        folder = root / where
        if (folder / "done.json").exists():
            measured = _metrics(folder / "metrics.json")
            metrics.update(measured)
            origins.update(dict.fromkeys(measured, stage))
            curves.update(_curves(folder / "curves.json"))
        elif cell["status"] == "finished":
            reason = f"{where} is not there or not finished: run the sweep's command again to make stage {stage}"
            logger.warning("cell %s: %s", cell["cell_id"], reason)
    stages = cell["stages"]
    folders = {name: root / where for name, where in stages.items()}
    return CellRow(
        cell["cell_id"],
        cell["fields"],
        cell["status"],
        reason,
        metrics,
        curves,
        stages,
        origins,
        probe_settings(folders),
        vae_settings(folders),
        path.parent.parent.name,
    )


def check_protocols(rows: Sequence[CellRow]) -> None:
    """Raise ValueError, naming metric or curve, cells and protocols, if one was measured in two ways."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        named = {f"metric {name}": metric.protocol for name, metric in row.metrics.items()}
        named |= {f"curve {name}": curve.protocol for name, curve in row.curves.items() if curve.protocol is not None}
        for name, protocol in named.items():
            found.setdefault(name, {}).setdefault(protocol, []).append(row.cell_id)
    problems = []
    for name, cells in sorted(found.items()):
        if len(cells) > 1:
            ways = "; ".join(f"{protocol} in {', '.join(ids)}" for protocol, ids in cells.items())
            problems.append(f"{name} was measured by {len(cells)} protocols: {ways}")
    if problems:
        remedy = "numbers of different protocols cannot share a table: measure these cells again, or report them apart"
        raise ValueError("\n".join([*problems, remedy]))


def sort_key(row: CellRow) -> tuple[Any, ...]:
    """Order of rows: channels, resolution, regulariser (:data:`REGULARIZER_ORDER` first), other fields, seed, id."""
    reg = str(row.fields.get("reg", ""))
    rank = REGULARIZER_ORDER.index(reg) if reg in REGULARIZER_ORDER else len(REGULARIZER_ORDER)
    numbers = [_number_first(row.fields.get(name)) for name in ("channels", "resolution")]
    others = tuple((name, _number_first(text)) for name, text in row.others.items())
    return (*numbers, rank, reg, others, _number_first(row.fields.get("seed")), row.cell_id)


def _number_first(value: Any) -> tuple[int, float, str]:
    """Sort numbers, also those written as text, by size and before any other text."""
    try:
        number = float(str(value))
    except ValueError:
        return (1, 0.0, str(value))
    # NaN has no place in an order.
    return (1, 0.0, str(value)) if math.isnan(number) else (0, number, "")


def _metrics(path: Path) -> dict[str, MetricValue]:
    if not path.exists():
        return {}
    found = {}
    for row in _read(path):
        ci95 = tuple(row["ci95"]) if row["ci95"] is not None else None
        value = math.nan if row["value"] is None else float(row["value"])
        found[row["name"]] = MetricValue(
            row["name"], value, row["unit"], row["direction"], row["n"], ci95, row["protocol"]
        )
    return found


def _curves(path: Path) -> dict[str, Curve]:
    if not path.exists():
        return {}
    found = {}
    for name, curve in _read(path).items():
        for values in ("y", "low", "high"):
            if curve.get(values) is not None and len(curve["x"]) != len(curve[values]):
                raise ValueError(
                    f"curve {name} in {path} has {len(curve['x'])} x and {len(curve[values])} {values} values"
                )
        found[name] = Curve(
            x=tuple(map(float, curve["x"])),
            y=_numbers(curve["y"]),
            x_label=curve["x_label"],
            y_label=curve["y_label"],
            low=_numbers(curve["low"]) if curve.get("low") is not None else None,
            high=_numbers(curve["high"]) if curve.get("high") is not None else None,
            direction=curve.get("direction"),
            protocol=curve.get("protocol"),
        )
    return found


def _numbers(values: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(math.nan if value is None else float(value) for value in values)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): remove it and run the sweep's command again") from error
