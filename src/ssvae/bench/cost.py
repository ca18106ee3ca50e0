"""What a grid of runs would cost: parameters, memory, arithmetic and device-hours, before anything is launched.

An update's arithmetic is counted on the update itself (bench/cost_step.py), not taken from a formula: convolutions and
matrix products, forward and backward, of generator and critic, with the extra passes of adaptive weights, frozen
networks and recomputed activations. Hours are that over an assumed share of the device's peak.

The decoder computes an upsampling and the convolution behind it as one transposed convolution with merged kernels: at
full width 7.9 TFLOP for 17 x 256 x 256, where repeating pixels first takes 8.8. The encoder takes 5.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssvae.bench.cost_dinov2 import OTHERWISE, published_size
from ssvae.bench.cost_grid import ELSEWHERE, PROBES, TO_BE_GIVEN, GridStage, grid_stages, node_of
from ssvae.bench.cost_stage import (
    DRAWS,
    SHAPES_VARY,
    StageCost,
    cost_key,
    has_images,
    load_of,
    spread,
    stage_cost,
)
from ssvae.bench.cost_step import TEXT_WIDTH, known_text_width
from ssvae.config.probe import Condition
from ssvae.config.tree import Config
from ssvae.core.progress import Progress

SCHEMA = "ssvae-cost/1"
DEVICES: dict[str, dict[str, float] | None] = {
    "h100": {"bf16": 989.0, "fp32": 494.5},
    "h200": {"bf16": 989.0, "fp32": 494.5},
    "a100": {"bf16": 312.0, "fp32": 156.0},
    "cpu": None,
}
"""Peak TFLOP/s of dense products, as the maker states it (SXM modules), by precision; float32 runs as TF32. What a CPU
reaches depends on the CPU: None, so its hours need a peak of the user's."""
ROOM = {"h100": 80e9, "h200": 141e9, "a100": 80e9}
"""Bytes of a device's memory, as its maker states them."""


@dataclass(frozen=True)
class Assumed:
    """device: key of :data:`DEVICES`. utilization: share of the peak, in (0, 1]. tflops: peak in place of the device's.

    ranks: devices that share a batch; None: for a VAE as many as get one clip each, for the transformer the fewest
    whose memory it fits in, and one for either where the device is a CPU.
    Raises ValueError, in terms of the command line, for values out of range.
    """

    device: str
    utilization: float
    tflops: float | None = None
    ranks: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.utilization <= 1:
            raise ValueError(f"--utilization {self.utilization:g}: is a share of the peak, in (0, 1]")
        if self.tflops is not None and not 0 < self.tflops < math.inf:
            raise ValueError(f"--tflops {self.tflops:g}: must be a number above 0")
        if self.ranks is not None and self.ranks < 1:
            raise ValueError(f"--ranks {self.ranks}: must be at least 1")

    def hours(self, cost: StageCost) -> float | None:
        """Device-hours of a stage, or None where the device's peak is not known."""
        peaks = DEVICES[self.device]
        peak = self.tflops if self.tflops is not None else None if peaks is None else peaks[cost.precision]
        return None if peak is None else cost.flops / (peak * 1e12 * self.utilization) / 3600


@dataclass(frozen=True)
class Row:
    """A stage with its numbers. hours: device-hours, None where the device's peak is not known."""

    stage: GridStage
    cost: StageCost
    hours: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-ready dictionary."""
        cfg = self.stage.cfg
        which = {"stage": self.stage.name, "regs": list(self.stage.regs), "channels": cfg.vae.channels}
        more = {"memory": self.cost.memory, "device_hours": self.hours}
        return {**which, "seed": cfg.seed, "cells": len(self.stage.cells), **asdict(self.cost), **more}


@dataclass(frozen=True)
class GridCost:
    """cells: how many. rows: every stage once, in the order in which they run. notes: what was assumed."""

    cells: int
    assumed: Assumed
    rows: list[Row]
    notes: list[str]

    @property
    def flops(self) -> float:
        return math.fsum(row.cost.flops for row in self.rows)

    @property
    def hours(self) -> float | None:
        """Device-hours of all stages, or None where the device's peak is not known."""
        known = [row.hours for row in self.rows if row.hours is not None]
        return math.fsum(known) if len(known) == len(self.rows) else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-ready dictionary; sizes in bytes, arithmetic in FLOP."""
        return {
            "schema": SCHEMA,
            "estimate": True,
            "assumed": {**asdict(self.assumed), "peaks_tflops": DEVICES[self.assumed.device]},
            "cells": self.cells,
            "stages": [row.to_json() for row in self.rows],
            "total": {"flops": self.flops, "device_hours": self.hours},
            "notes": self.notes,
        }


def grid_cost(cells: Sequence[Config], assumed: Assumed, absent: Sequence[str], progress: Progress) -> GridCost:
    """What the cells that were resolved without the paths ``absent`` cost.

    Raises ValueError when ``assumed.ranks`` does not divide a VAE's batch, or the transformer's where no VAE is
    trained, before anything is counted, and when a package that a regulariser's network needs is missing.
    """
    stages = grid_stages(cells)
    # Ranks that suit a VAE may be too many for the transformer, which can be trained by a command of its own.
    fewer = any(stage.name not in PROBES for stage in stages)
    one_clip = assumed.device != "cpu"
    loads = [load_of(stage, assumed.ranks, one_clip=one_clip, fewer=fewer) for stage in stages]
    known: dict[str, StageCost] = {}
    rows = []
    progress.start("count", len(stages))
    for done, (stage, load) in enumerate(zip(stages, loads, strict=True), 1):
        key = cost_key(stage, load)
        if key not in known:
            known[key] = stage_cost(stage, load)
            if stage.name in PROBES and assumed.ranks is None and one_clip:
                known[key] = spread(stage, known[key], ROOM[assumed.device])
        rows.append(Row(stage, known[key], assumed.hours(known[key])))
        progress.advance(done, stage.name)
    return GridCost(len(cells), assumed, rows, notes(rows, assumed, absent))


def default_device(cells: Sequence[Config]) -> str:
    """``cpu`` for a grid of laptop experiments (``exp=cpu*``), ``h100`` for any other."""
    return "cpu" if all(cfg.exp.startswith("cpu") for cfg in cells) else "h100"


def notes(rows: Sequence[Row], assumed: Assumed, absent: Sequence[str]) -> list[str]:
    """What the numbers rest on, a sentence or two each."""
    nodes = [getattr(row.stage.cfg.stages, row.stage.name) for row in rows if row.stage.name not in PROBES]
    found = [
        _on_hours(assumed),
        "FLOP: convolutions and matrix products of whole updates, an addition and a multiplication each. Not counted: "
        "norms, activations, optimiser, reading data, talking between devices.",
        "Stages: training alone. Not counted: latent statistics and caches, embedding texts, measuring, sampling, "
        "scoring.",
        "Memory: what is alive at an update's peak, beside float32 weights, gradients and Adam; with bf16 the update "
        "is all bfloat16. Not counted: workspaces of kernels, fragmentation, the CUDA context.",
        "Adaptive weights: every term pulls in every update; a hinge that is satisfied costs less.",
    ]
    if absent:
        found.append(f"Not given or not on this machine, and not needed here: {', '.join(absent)}.")
    if any("LPIPS" in row.cost.parameters for row in rows):
        found.append("LPIPS is counted, for objective.lpips.vgg is not null.")
    elif nodes:
        found.append("LPIPS is not counted, for objective.lpips.vgg is null or its weight is 0.")
    if any(has_images(node.data) for node in nodes):
        found.append("Images are counted as data.image_weight and data.image_batch say; a run needs data.image_path.")
    if any(getattr(node.reg.terms, name) is not None for node in nodes for name in SHAPES_VARY):
        found.append(f"Regularisers that draw a size: mean of {DRAWS} updates, peak of the largest.")
    models = {node.reg.terms.vf.model for node in nodes if node.reg.terms.vf is not None}
    unknown = sorted(model for model in models if published_size(model) is None and not Path(model).is_dir())
    found += [f"DINOv2 {model}: is not here, counted as dinov2-{OTHERWISE}." for model in unknown]
    return [*found, *_on_transformers(rows, assumed)]


def _on_transformers(rows: Sequence[Row], assumed: Assumed) -> list[str]:
    """On how many devices they are counted, and with which width of texts."""
    found: dict[str, None] = {}
    for row in rows:
        if row.stage.name not in PROBES:
            continue
        ranks, batch, probe = row.cost.load.ranks, row.cost.load.clips, node_of(row.stage.cfg, row.stage.name).probe
        room = ROOM.get(assumed.device, math.inf)
        which = f"The transformer ({row.stage.name}, batch {batch})"
        if assumed.ranks is not None and assumed.ranks != ranks:
            found[f"{which} is counted on {ranks} devices, the most that share it: a run on {assumed.ranks} stops "
                  f"there. Train it with stage=probe on {ranks}, or set probe.train.batch."] = None  # fmt: skip
        if assumed.ranks is None and ranks > 1:
            found[f"{which} is counted on {ranks} devices, the fewest whose memory it fits in; --ranks N gives another "
                  "number."] = None  # fmt: skip
        if row.cost.memory > room:
            on = "any number of devices" if assumed.ranks is None else f"{ranks} device{'s' if ranks > 1 else ''}"
            more = "" if probe.dit.gradient_checkpointing else "; probe.dit.gradient_checkpointing=true takes less"
            found[f"{which} does not fit in the {room / 1e9:g} GB of a device, on {on}: weights, gradients and "
                  f"averages alone take {row.cost.state / 1e9:.3g} GB{more}."] = None  # fmt: skip
        texts = probe.condition in (Condition.text, Condition.auto) and probe.text.model is not None
        if texts and known_text_width(probe.text.model) is None:
            name = "" if probe.text.model in (TO_BE_GIVEN, ELSEWHERE) else f" {probe.text.model}"
            found[f"Text encoder{name}: no folder on this machine, counted with embeddings of width {TEXT_WIDTH}, "
                  "UMT5-XXL's."] = None  # fmt: skip
    return list(found)


def _on_hours(assumed: Assumed) -> str:
    if DEVICES[assumed.device] is None and assumed.tflops is None:
        return "An estimate without hours: a CPU's peak is not known. --tflops gives it, --device names an accelerator."
    peaks = DEVICES[assumed.device] or {}
    peak = " / ".join(f"{value:g} ({name})" for name, value in peaks.items())
    peak = f"{assumed.tflops:g}, given" if assumed.tflops is not None else f"{peak} of an {assumed.device.upper()}"
    rule = f"hours = FLOP / (peak x {assumed.utilization:g}), peak TFLOP/s {peak}"
    return f"An estimate, nothing was measured: {rule}. A short run tells what --utilization really is."
