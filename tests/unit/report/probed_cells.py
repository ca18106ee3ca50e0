"""Makes cells whose probe was scored, also at checkpoints, for the tests of prediction and convergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweep_folders import make_cell, make_stage, metric_row

SCORES = {"probe_fd": "down", "diffusion_loss": "down", "probe_reward": "up"}


def by_step(
    x: Sequence[float], y: Sequence[float | None], direction: str | None = "down", **more: Any
) -> dict[str, Any]:
    curve = {"x": list(x), "y": list(y), "x_label": "updates", "y_label": "score", **more}
    return curve if direction is None else {**curve, "direction": direction}


def make_probed(
    root: Path,
    reg: str,
    channels: int = 48,
    *,
    seed: int = 0,
    measured: Mapping[str, float | None] | None = None,
    scored: Mapping[str, float | None] | None = None,
    steps: Mapping[str, dict[str, Any]] | None = None,
    stages: Mapping[str, str] | None = None,
    probe_config: str | None = None,
    protocol: str | None = None,
    **more: Any,
) -> None:
    """A finished cell: statistics from stage ``measure``, scores and ``by_step/`` curves from stage ``probe``."""
    name = "-".join(map(str, [reg, channels, seed, *more.get("others", {}).values()]))
    change = {} if protocol is None else {"protocol": protocol}
    statistics = [metric_row(metric, value, **change) for metric, value in (measured or {}).items()]
    scores = [metric_row(m, value, direction=SCORES.get(m, "none")) for m, value in (scored or {}).items()]
    curves = {f"by_step/{metric}": curve for metric, curve in (steps or {}).items()}
    made = {
        "measure": make_stage(root, f"measure-{name}", statistics),
        "probe": make_stage(root, f"probe-{name}", scores, curves=curves),
    }
    if probe_config is not None:
        (root / made["probe"] / "config.yaml").write_text(probe_config)
    make_cell(root, reg, channels, {**(stages or {}), **made}, seed=seed, **more)
