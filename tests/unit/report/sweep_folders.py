"""Makes run folders of a small sweep for the report's tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METRICS: dict[str, tuple[str, str]] = {
    "zeta": ("1", "none"),
    "probe_reward": ("1", "up"),
    "psnr_db": ("dB", "up"),
    "diffusion_loss": ("1", "down"),
    "local_correlation": ("1", "none"),
    "psnr_mean_colour_db": ("dB", "none"),
}


def metric_row(name: str, value: float | None, **changes: Any) -> dict[str, Any]:
    unit, direction = METRICS.get(name, ("1", "none"))
    row = {"name": name, "value": value, "unit": unit, "direction": direction, "n": 16, "ci95": None}
    return {**row, "protocol": f"{name}/1", **changes}


def curves(channels: int, level: float) -> dict[str, Any]:
    spectrum = {"x": [0, 1, 2, 3], "y": [level, 0.2, 0.1, 0.0], "x_label": "index", "y_label": "energy"}
    shares = [min(1.0, level + k / channels) for k in range(1, channels + 1)]
    variance = {"x": list(range(1, channels + 1)), "y": shares, "x_label": "k", "y_label": "share"}
    return {"dct_spectrum": spectrum, "explained_variance": variance}


def make_stage(root: Path, name: str, metrics: list[dict[str, Any]], done: bool = True, **files: Any) -> str:
    folder = root / "runs" / "stages" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for file, value in files.items():
        (folder / f"{file}.json").write_text(json.dumps(value))
    if done:
        (folder / "done.json").write_text('{"seconds": 1.0}')
    return f"runs/stages/{name}"


def make_cell(
    root: Path,
    reg: str,
    channels: int,
    stages: Mapping[str, str],
    *,
    seed: int = 0,
    status: str = "finished",
    others: Mapping[str, str] | None = None,
    **more: Any,
) -> Path:
    folder = root / "runs" / "sweeps" / "grid" / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    others = others or {}
    cell_id = "-".join([reg, str(channels), str(seed), *others.values()])
    fields = {"reg": reg, "channels": channels, "resolution": 32, "seed": seed, **others}
    record = {"cell_id": cell_id, "fields": fields, "overrides": [], "stages": stages, "status": status}
    path = folder / f"{cell_id}.json"
    path.write_text(json.dumps({**record, "reason": None, "seconds": 75.0, "reused": [], **more}))
    return path


def make_grid(root: Path, *, seeds: int = 1, failing: str | None = "lmr-128-0") -> None:
    """Eight cells a seed; PSNR falls and the probe rises with the strength of the regulariser; one cell fails."""
    strength = {"none": 0.0, "lcr": 1.0, "lmr": 2.0, "lcr_lmr": 3.0}
    for channels in (128, 48):
        for reg, s in strength.items():
            for seed in range(seeds):
                name = f"{reg}-{channels}-{seed}"
                rows = [
                    metric_row("psnr_db", 30.0 - s / 3 + seed * 0.5, ci95=[29.0, 31.0]),
                    metric_row("zeta", 1.5),
                    metric_row("probe_reward", 0.25 * s + seed * 0.001),
                    metric_row("diffusion_loss", 0.5),
                    metric_row("local_correlation", None),
                    metric_row("psnr_mean_colour_db", 12.25),
                ]
                bad = name == failing
                stage = make_stage(root, f"measure-{name}", rows, not bad, curves=curves(channels, 0.5 + s / 10))
                more: dict[str, Any] = {"status": "failed", "reason": "ValueError: loss is\nnot finite"} if bad else {}
                make_cell(root, reg, channels, {"measure": stage}, seed=seed, **more)


def list_cells(root: Path, cells: object) -> None:
    """Write the sweep's own record with its list of cells."""
    record = {"command": "python run.py", "notes": [], "cells": cells}
    (root / "runs" / "sweeps" / "grid" / "sweep.json").write_text(json.dumps(record))


def make_strengths(root: Path, strengths: tuple[str, ...] = ("0.05", "0.2"), *, seeds: int = 1) -> None:
    """``none`` and, at each strength, ``lcr``; PSNR 30 for none, 29 and 27 for lcr, 0.5 more a seed."""
    levels = {("none", ""): 30.0, ("lcr", strengths[0]): 29.0, ("lcr", strengths[1]): 27.0}
    for (reg, strength), level in levels.items():
        for seed in range(seeds):
            rows = [metric_row("psnr_db", level + 0.5 * seed)]
            stage = make_stage(root, f"m-{reg}-{strength}-{seed}", rows, curves=curves(48, level / 100))
            others = {"strength.lcr": strength} if strength else {}
            make_cell(root, reg, 48, {"measure": stage}, seed=seed, others=others)
