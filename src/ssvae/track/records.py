"""What a sweep's record says of a cell, in the words of a tracker: the same for the process that runs the cell, for a
job, and for whoever fills a tracker from the folders later."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ssvae.core.tracking_uri import masked
from ssvae.track.base import RunStatus

STATUS: Mapping[str, RunStatus] = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


@dataclass(frozen=True, slots=True)
class CellFile:
    """A cell as ``<cell_id>.json`` and ``.yaml`` tell it.

    stages: name -> run folder, in order. params: the resolved config as dotted keys. status: waiting, running,
    finished, failed or killed. written_ms: when the record was last written.
    """

    path: Path
    cell_id: str
    fields: Mapping[str, object]
    stages: Mapping[str, Path]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    status: str
    reason: str | None
    reused: Sequence[str]
    written_ms: int

    @property
    def figures(self) -> Path:
        """The folder of the cell's own figures."""
        return self.path.with_suffix("")

    @property
    def started_ms(self) -> int | None:
        """When the first of its stages was begun; None before."""
        records = [folder / "run.json" for folder in self.stages.values()]
        found = [int(json.loads(one.read_text(encoding="utf-8"))["created_ms"]) for one in records if one.exists()]
        return min(found, default=None)


def cell_paths(root: Path, sweep: str) -> list[Path]:
    """Records of all cells of a sweep, those of earlier calls too; raises ValueError where there are none."""
    folder = root / "runs" / "sweeps" / sweep / "cells"
    paths = sorted(folder.glob("*.json"))
    if not paths:
        there = ", ".join(sweeps(root)) or "none yet"
        raise ValueError(f"sweep '{sweep}' has no cells in {folder}: check the name (there are: {there})")
    return paths


def sweeps(root: Path) -> list[str]:
    """Names of all sweeps with cells, sorted."""
    return sorted({path.parent.parent.name for path in (root / "runs" / "sweeps").glob("*/cells/*.json")})


def read_cell(root: Path, path: Path) -> CellFile:
    """The cell of a record. Raises OSError, KeyError and ValueError for one that is not there or damaged."""
    record = json.loads(path.read_text(encoding="utf-8"))
    config = path.with_suffix(".yaml")
    values = yaml.safe_load(config.read_text(encoding="utf-8")) if config.exists() else {}
    overrides = masked(" ".join(record["overrides"]))
    exp = {"exp": str(values["exp"])} if "exp" in values else {}
    exp = {"exp": str(values["exp"])} if "exp" in values else {}
    return CellFile(
        path=path,
        cell_id=record["cell_id"],
        fields=record["fields"],
        stages={name: root / where for name, where in record["stages"].items()},
        params=flat(values),
        tags={"overrides": overrides, **exp, **record.get("tags", {})},
        status=record["status"],
        reason=record["reason"],
        reused=record["reused"],
        written_ms=int(path.stat().st_mtime * 1000),
    )


def flat(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested values as dotted keys and texts, without passwords."""

    def walk(value: Any, prefix: str) -> dict[str, str]:
        if isinstance(value, Mapping):
            found: dict[str, str] = {}
            for key, item in value.items():
                found.update(walk(item, f"{prefix}.{key}" if prefix else str(key)))
            return found
        return {prefix: masked(str(value))}

    return walk(values, "") if values else {}


def track_settings(root: Path, sweep: str) -> tuple[str | None, str | None]:
    """(experiment, URI) that the sweep's cells were run with; None for what they do not say."""
    for path in sorted((root / "runs" / "sweeps" / sweep / "cells").glob("*.yaml")):
        track = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("track") or {}
        if track.get("experiment"):
            return str(track["experiment"]), track.get("uri")
    return None, None
