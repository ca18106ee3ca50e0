"""Is a regulariser's gap to ``none`` larger than what another seed would give?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ssvae.report.collect import CellRow
from ssvae.report.columns import MAIN_METRICS, example, groups, present

Verdict = Literal["better", "worse", "inside seed spread", "seed spread unknown"]


@dataclass(frozen=True, slots=True)
class Spread:
    """A metric over the finished seeds of one setting: mean, standard deviation (None for one seed), how many."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A regulariser against ``none`` at one channel count and resolution.

    difference: mean over seeds minus that of the baseline. noise: standard deviation of the difference of two single
    seeds, √(s² + s_baseline²), None where no setting has two seeds. A gap up to ``noise`` is inside the seed spread.
    """

    metric: str
    reg: str
    channels: str
    resolution: str
    value: float
    baseline: float
    difference: float
    noise: float | None
    verdict: Verdict | Literal["higher", "lower"]


def spread(rows: Sequence[CellRow], metric: str) -> Spread | None:
    """Mean and sample standard deviation of a metric over the finished rows, None where none has it."""
    values = [value for row in rows if row.status == "finished" and (value := row.value(metric)) is not None]
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def compare(rows: Sequence[CellRow], metrics: Sequence[str] = MAIN_METRICS, baseline: str = "none") -> list[Difference]:
    """Every regulariser against ``baseline`` at the same channels and resolution, for each metric that is there.

    Metrics without a better direction get the verdict ``higher`` or ``lower``.
    """
    found = []
    for (channels, resolution), alike in groups(rows, ["channels", "resolution"]).items():
        regs = {reg: members for (reg,), members in groups(alike, ["reg"]).items()}
        for metric in present(alike, metrics):
            base = spread(regs.get(baseline, []), metric)
            if base is None:
                continue
            for reg, members in regs.items():
                ours = spread(members, metric) if reg != baseline else None
                if ours is None:
                    continue
                gap = ours.mean - base.mean
                noise = _noise(ours, base)
                verdict = _verdict(gap, noise, example(alike, metric).direction)
                found.append(Difference(metric, reg, channels, resolution, ours.mean, base.mean, gap, noise, verdict))
    return found


def _noise(a: Spread, b: Spread) -> float | None:
    """Where only one setting has several seeds, its spread stands for both."""
    known = [s.std for s in (a, b) if s.std is not None]
    if not known:
        return None
    return math.sqrt(sum(std**2 for std in known) * 2 / len(known))


def _verdict(gap: float, noise: float | None, direction: str) -> Verdict | Literal["higher", "lower"]:
    if noise is None:
        return "seed spread unknown"
    if abs(gap) <= noise:
        return "inside seed spread"
    if direction == "none":
        return "higher" if gap > 0 else "lower"
    return "better" if (gap > 0) == (direction == "up") else "worse"
