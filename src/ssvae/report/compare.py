"""Is a regulariser's gap to ``none`` larger than what another seed would give?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ssvae.report.collect import CellRow
from ssvae.report.columns import MAIN_METRICS, baseline_of, example, field_text, groups, other_fields, present

Verdict = Literal["better", "worse", "inside seed spread", "seed spread unknown"]


@dataclass(frozen=True, slots=True)
class Spread:
    """A metric over the finished seeds of one setting: mean, standard deviation (None for one seed), how many."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A regulariser against ``none`` at one channel count, resolution and value of every other field.

    others: (name, value) of the swept values beyond reg, channels, resolution and seed, values as text.
    difference: mean over seeds minus that of the baseline. noise: standard deviation of the difference of two single
    seeds, √(s² + s_baseline²), None where no setting has two seeds. A gap up to ``noise`` is inside the seed spread.
    """

    metric: str
    reg: str
    channels: str
    resolution: str
    others: tuple[tuple[str, str], ...]
    value: float
    baseline: float
    difference: float
    noise: float | None
    verdict: Verdict | Literal["higher", "lower"]


def spread(rows: Sequence[CellRow], metric: str) -> Spread | None:
    """Mean and sample standard deviation of a metric over the seeds of the finished rows, None where none has it.

    ``rows`` are of one setting, equal but for the seed; rows of one seed count once, by their mean: a repetition tells
    nothing of another seed.
    """
    by_seed: dict[str, list[float]] = {}
    for row in rows:
        value = row.value(metric)
        if row.status == "finished" and value is not None and math.isfinite(value):
            by_seed.setdefault(field_text(row, "seed"), []).append(value)
    if not by_seed:
        return None
    values = [statistics.fmean(repeated) for repeated in by_seed.values()]
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def compare(rows: Sequence[CellRow], metrics: Sequence[str] = MAIN_METRICS, baseline: str = "none") -> list[Difference]:
    """Every regulariser against ``baseline`` at the same channels and resolution, for each metric that is there.

    Other fields are equal too, where the baseline has them; a setting without such a baseline is not compared. Metrics
    without a better direction get the verdict ``higher`` or ``lower``.
    """
    found = []
    for (channels, resolution), alike in groups(rows, ["channels", "resolution"]).items():
        settings = list(groups(alike, ["reg", *other_fields(alike)]).items())
        bases = [members for (reg, *_), members in settings if reg == baseline]
        for (reg, *_), members in settings:
            against = baseline_of(members[0], bases) if reg != baseline else []
            for metric in present(members, metrics):
                ours, base = spread(members, metric), spread(against, metric)
                if ours is None or base is None:
                    continue
                gap = ours.mean - base.mean
                noise = _noise(ours, base)
                verdict = _verdict(gap, noise, example(members, metric).direction)
                others = tuple(members[0].others.items())
                found.append(
                    Difference(metric, reg, channels, resolution, others, ours.mean, base.mean, gap, noise, verdict)
                )
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
