"""What a sweep knows of each cell, on disk: ``runs/sweeps/<sweep>/cells/<cell_id>.json`` and its frozen config."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import yaml

from ssvae.config.compose import CONF, Cell
from ssvae.config.reg import RegConfig
from ssvae.config.tree import Config
from ssvae.core.files import read_json, write_json, write_text
from ssvae.report.collect import UNTRAINED
from ssvae.stages.plan import plain
from ssvae.sweep.planned import PlannedCell

Status = Literal["waiting", "running", "finished", "failed", "killed"]


@dataclass
class CellRecord:
    """The state of one cell of one sweep. seconds: of this call; stages: name -> folder, relative to the root; tags:
    for the tracker, beside the fields."""

    path: Path
    cell_id: str
    label: str
    fields: dict[str, object]
    overrides: list[str]
    stages: dict[str, str]
    status: Status = "waiting"
    reason: str | None = None
    seconds: float = 0.0
    reused: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> CellRecord:
        """The record as it lies on disk."""
        return cls(path=path, **read_json(path))

    @classmethod
    def open(cls, root: Path, sweep: str, planned: PlannedCell) -> CellRecord:
        """Make the record of a cell; what an earlier call wrote of a finished cell is kept until this one says more."""
        folder = root / "runs" / "sweeps" / sweep / "cells"
        cell, cell_id, plans = planned.cell, planned.cell_id, planned.plans
        cfg = cell.cfg
        score = cfg.stages.measure.score
        record = cls(
            path=folder / f"{cell_id}.json",
            cell_id=cell_id,
            label=" ".join(cell.axes).replace("'", "") or cell_id,
            fields={
                "reg": combination(cfg.reg),
                "channels": cfg.vae.channels,
                "resolution": cfg.resolution.name,
                "seed": cfg.seed,
                "weights": f"{score.trained.value} {score.weights.value}",
                **_other_axes(planned),
                **_finished(cfg),
            },
            overrides=list(cell.overrides),
            stages={name: str(plan.folder.relative_to(root)) for name, plan in plans.items()},
        )
        write_text(folder / f"{cell_id}.yaml", yaml.safe_dump(resolved_values(cell), sort_keys=False))
        if record.path.exists():
            before = read_json(record.path)
            record.seconds, record.tags = float(before["seconds"]), dict(before.get("tags", {}))
            # A finished cell stays finished, also when the call that only looks at it again is interrupted.
            if before["status"] == "finished" and all(plan.finished for plan in plans.values()):
                record.status = "finished"
        record.save()
        return record

    def reload(self) -> None:
        """Take over what others have found out about the cell."""
        now = read_json(self.path)
        self.status, self.reason, self.seconds = now["status"], now["reason"], float(now["seconds"])

    def save(self) -> None:
        """Write the record atomically."""
        names = ("cell_id", "label", "fields", "overrides", "stages", "status", "reason", "seconds", "reused", "tags")
        write_json(self.path, {name: getattr(self, name) for name in names})


def _finished(cfg: Config) -> dict[str, object]:
    """A finished VAE is no combination of regularisers, and no stage of ours trained it."""
    return {} if cfg.vae.weights is None else {"reg": UNTRAINED, "weights": "given", "vae": cfg.vae.name}


def combination(reg: RegConfig) -> str:
    """Name of a combination of regularisers: of its file, and the terms that were added or taken away, ``lcr+se``."""
    listed = yaml.safe_load((CONF / "reg" / f"{reg.name}.yaml").read_text(encoding="utf-8"))["defaults"]
    named = {key.partition("@terms.")[2] for entry in listed if isinstance(entry, dict) for key in entry}
    present = {field.name: getattr(reg.terms, field.name) is not None for field in fields(reg.terms)}
    added = [f"+{name}" for name, there in present.items() if there and name not in named]
    gone = [f"-{name}" for name, there in present.items() if not there and name in named]
    return "".join([reg.name, *added, *gone])


def _other_axes(planned: PlannedCell) -> dict[str, object]:
    """Swept values that are none of the table's own fields: without them rows would look alike.

    A value in which cells of equal work differ does not reach them, and says nothing about the row.
    """
    named = _axis_values(planned.cell)
    for other in planned.alike:
        named = {key: value for key, value in named.items() if _axis_values(other).get(key) == value}
    return {key: value for key, value in named.items() if key not in ("reg", "channels", "resolution", "seed")}


def _axis_values(cell: Cell) -> dict[str, str]:
    pairs = (text.lstrip("+~").partition("=") for text in cell.axes)
    return {key: value.replace("'", "") for key, _, value in pairs}


def resolved_values(cell: Cell) -> object:
    """The whole resolved config, names included."""
    from dataclasses import asdict

    return _values(asdict(cell.cfg))


def _values(value: object) -> object:
    if isinstance(value, dict):
        return {key: _values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_values(item) for item in value]
    return plain(value)


def flat_config(cell: Cell) -> dict[str, str]:
    """The resolved config as dotted keys and texts, for a tracker's parameters."""

    def walk(value: object, prefix: str) -> dict[str, str]:
        if isinstance(value, dict):
            found: dict[str, str] = {}
            for key, item in value.items():
                found.update(walk(item, f"{prefix}.{key}" if prefix else str(key)))
            return found
        return {prefix: str(value)}

    return walk(resolved_values(cell), "")
