"""A fast way beside its plain reference, and the figure that timing the two gives.

A ratio is only worth something between two ways to the *same* result, so a pair brings its own proof of equality, and
nothing is timed before it holds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ssvae.bench.timing import Clock, Paired, time_pairs

Unit = Literal["s", "clips/s"]


class NotEqualError(RuntimeError):
    """The fast way and its reference give different results: a defect of this package."""


@dataclass(frozen=True)
class Pair:
    """name: of the figure. what: the work, with its sizes. reference: where the plain way is written.

    fast, naive: do the work once. difference: largest difference of the two results, relative to the size of the
    result; it must stay within ``tolerance``. unit: "s" a call, or "clips/s" with ``clips`` clips a call.
    """

    name: str
    what: str
    reference: str
    fast: Callable[[], object]
    naive: Callable[[], object]
    difference: Callable[[], float]
    tolerance: float
    unit: Unit = "s"
    clips: int = 1

    def check(self) -> float:
        """The difference; raises :class:`NotEqualError` above the tolerance (and for NaN)."""
        found = self.difference()
        if not found <= self.tolerance:
            raise NotEqualError(
                f"{self.name}: the fast way differs from {self.reference} by {found:.3g} (tolerance "
                f"{self.tolerance:g}), so their times cannot be compared"
            )
        return found


@dataclass(frozen=True)
class Figure:
    """One line of the benchmark. difference: what :meth:`Pair.check` found before the timing."""

    pair: Pair
    times: Paired
    difference: float

    def to_json(self) -> dict[str, Any]:
        """JSON-ready row; ``ratio`` is how many times faster than the reference, whatever the unit."""
        times = self.times
        return {
            "name": self.pair.name,
            "what": self.pair.what,
            "unit": self.pair.unit,
            "median": self._in_unit(times.seconds),
            "reference": {"where": self.pair.reference, "median": self._in_unit(times.naive_seconds)},
            "ratio": times.ratio,
            "ratio_min": min(times.ratios),
            "ratio_max": max(times.ratios),
            "pairs": len(times.ratios),
            "equal": {"difference": self.difference, "tolerance": self.pair.tolerance},
        }

    def _in_unit(self, seconds: float) -> float:
        return seconds if self.pair.unit == "s" else self.pair.clips / seconds


def measure(pair: Pair, difference: float, *, budget_s: float, clock: Clock = time.perf_counter) -> Figure:
    """Time a pair that was found equal by ``difference``; see :func:`ssvae.bench.timing.time_pairs`."""
    assert difference <= pair.tolerance, "check the pair first"
    return Figure(pair, time_pairs(pair.fast, pair.naive, budget_s=budget_s, clock=clock), difference)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference of two tensors over the largest of ``expected``, in float64; inf for different shapes."""
    if found.shape != expected.shape:
        return math.inf
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
