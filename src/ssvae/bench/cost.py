"""What a grid of runs would cost: parameters, memory, arithmetic and device-hours, before anything is launched.

A step's arithmetic is counted on the step itself (bench/cost_step.py), not taken from a formula: convolutions and
matrix products, forward and backward, of the generator's and of the critic's update, with the extra passes of adaptive
weights, frozen networks and recomputed activations. Hours are that over an assumed share of the device's peak.

The decoder computes an upsampling and the convolution behind it as one transposed convolution with merged kernels. So
the full-width decoder takes 7.9 TFLOP for 17 x 256 x 256 where repeating pixels first takes 8.8; the encoder takes 5.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ssvae.config.train import Precision
from ssvae.config.tree import Config

SCHEMA = "ssvae-cost/1"
SHAPES_VARY = ("predictive", "eq", "se")
"""Regularisers that draw a size each step."""
DRAWS = 4
"""Steps that are averaged over where one of those is present."""
FLOAT = 4
"""Bytes of a weight, of its gradient and of each of Adam's two averages: weights stay float32."""


@dataclass(frozen=True)
class Device:
    """title: for the table. peaks: TFLOP/s of dense products by precision, as the maker states them; None: unknown."""

    title: str
    peaks: dict[Precision, float] | None


DEVICES = {
    "h100": Device("H100 SXM", {Precision.bf16: 989.0, Precision.fp32: 494.5}),
    "h200": Device("H200 SXM", {Precision.bf16: 989.0, Precision.fp32: 494.5}),
    "a100": Device("A100", {Precision.bf16: 312.0, Precision.fp32: 156.0}),
    "cpu": Device("CPU", None),
}
"""float32 stands for TF32. What a CPU reaches is anybody's guess, so its hours need ``--tflops``."""


@dataclass(frozen=True)
class Assumed:
    """device: key of :data:`DEVICES`. tflops: peak in its place. utilization: share of the peak, in (0, 1].

    ranks: devices that share a stage's batch; None: one a clip on accelerators, one in all on a CPU.
    """

    device: str
    utilization: float
    tflops: float | None = None
    ranks: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.utilization <= 1:
            raise ValueError(f"--utilization {self.utilization:g}: is a share of the peak, in (0, 1]")
        if self.tflops is not None and not 0 < self.tflops < math.inf:
            raise ValueError(f"--tflops {self.tflops:g}: must be above 0")
        if self.ranks is not None and self.ranks < 1:
            raise ValueError(f"--ranks {self.ranks}: must be at least 1")

    def hours(self, flops: float, precision: Precision) -> float | None:
        """Device-hours, or None where the device's peak is not known."""
        peaks = DEVICES[self.device].peaks
        peak = self.tflops if self.tflops is not None else None if peaks is None else peaks[precision]
        return None if peak is None else flops / (peak * 1e12 * self.utilization) / 3600


@dataclass(frozen=True)
class Load:
    """What one update works on, over all devices. images: of a step that draws images; share: how often one does."""

    ranks: int
    clips: int
    images: int
    share: float


@dataclass(frozen=True)
class StageCost:
    """One stage. cells: how many share it. flops: of all its updates on all devices; flops_step: of the mean update,
    flops_clip: of a late one on clips. In bytes and a device: ``kept``, activations of its clips when all are kept;
    ``recomputed``, with gradient checkpointing; ``activations``, as configured, of clips or images, whichever is more;
    ``state``, weights, gradients, Adam's averages and EMA."""

    name: str
    reg: str
    channels: int
    seed: int
    cells: int
    clip: tuple[int, int, int]
    precision: str
    parameters: dict[str, int]
    trained: int
    load: Load
    steps: int
    flops: float
    flops_step: float
    flops_clip: float
    kept: int
    recomputed: int | None
    checkpointing: bool
    activations: int
    state: int
    hours: float | None


@dataclass(frozen=True)
class GridCost:
    """stages: each once, in the order in which they run. notes: what was assumed, a sentence each."""

    cells: int
    assumed: Assumed
    stages: list[StageCost]
    notes: list[str]

    @property
    def flops(self) -> float:
        return sum(stage.flops for stage in self.stages)

    @property
    def hours(self) -> float | None:
        """Of all stages; None where the device's peak is not known."""
        hours = [stage.hours for stage in self.stages if stage.hours is not None]
        return sum(hours) if len(hours) == len(self.stages) else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-ready dictionary."""
        return {
            "schema": SCHEMA,
            "estimate": True,
            "cells": self.cells,
            "assumed": asdict(self.assumed),
            "stages": [asdict(stage) for stage in self.stages],
            "total": {"flops": self.flops, "device_hours": self.hours},
            "notes": self.notes,
        }


def default_device(cells: Sequence[Config]) -> str:
    """``h100`` for a grid that trains a VAE in bfloat16, ``cpu`` for any other."""
    trained = [getattr(cfg.stages, name) for cfg in cells for name in ("base", "pretrain", "decoder_finetune")]
    half = any(stage is not None and stage.train.precision is Precision.bf16 for stage in trained)
    return "h100" if half else "cpu"
