"""Time two ways of doing one thing alternately in one run: A B A B ..., and compare them pair by pair.

Neighbours in time share the machine's mood (other users, clock rate, caches), so the median of the paired ratios says
more than the ratio of two medians that were measured one after the other.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]
"""Seconds from any fixed point, never going back."""


@dataclass(frozen=True, slots=True)
class Paired:
    """Seconds a call, one entry a pair, in the order of measuring; both sides equally long, all above 0."""

    fast: tuple[float, ...]
    naive: tuple[float, ...]

    def __post_init__(self) -> None:
        assert self.fast and len(self.fast) == len(self.naive), "a pair has two sides, and there is at least one"
        assert min(*self.fast, *self.naive) > 0, "the clock stood still: time longer stretches"

    @property
    def ratios(self) -> tuple[float, ...]:
        """naive / fast of each pair: above 1 the fast way is faster."""
        return tuple(naive / fast for fast, naive in zip(self.fast, self.naive, strict=True))

    @property
    def ratio(self) -> float:
        """Median of :attr:`ratios`."""
        return statistics.median(self.ratios)

    @property
    def seconds(self) -> float:
        """Median seconds of a call of the fast way."""
        return statistics.median(self.fast)

    @property
    def naive_seconds(self) -> float:
        """Median seconds of a call of the naive way."""
        return statistics.median(self.naive)


def time_pairs(
    fast: Callable[[], object],
    naive: Callable[[], object],
    *,
    budget_s: float,
    most: int = 25,
    least: int = 3,
    stretch_s: float = 0.02,
    clock: Clock = time.perf_counter,
) -> Paired:
    """Time ``fast`` and ``naive`` in turns until ``budget_s`` seconds are spent.

    least, most: pairs, whatever the budget. Each side is called once unmeasured first: caches fill, kernels are chosen.
    A call shorter than ``stretch_s`` is repeated within one measurement until the stretch is about that long, and the
    mean of the stretch is taken.
    """
    assert 1 <= least <= most
    repeats = [_repeats(call, stretch_s, clock) for call in (fast, naive)]
    sides: tuple[list[float], list[float]] = ([], [])
    begun = clock()
    while len(sides[0]) < least or (len(sides[0]) < most and clock() - begun < budget_s):
        for side, call, count in zip(sides, (fast, naive), repeats, strict=True):
            side.append(_stretch(call, count, clock) / count)
    return Paired(tuple(sides[0]), tuple(sides[1]))


def _repeats(call: Callable[[], object], stretch_s: float, clock: Clock) -> int:
    """Calls a measurement: one unmeasured call, one to learn how long it takes."""
    call()
    once = _stretch(call, 1, clock)
    return 1 if once >= stretch_s else math.ceil(stretch_s / max(once, 1e-9))


def _stretch(call: Callable[[], object], count: int, clock: Clock) -> float:
    begun = clock()
    for _ in range(count):
        call()
    return clock() - begun
