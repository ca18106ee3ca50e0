"""How many updates of the DiT a regulariser, or a VAE, needs for the baseline's final score.

Read from the probe's curves ``by_step/<metric>``: a score at each checkpoint, x in DiT updates.

    target     final score of the baseline (``reg=none``): same sweep and probe settings, equal channels, resolution and
               other fields, and equal seed, so that what the seeds share falls out; without that seed, the mean over
               the baseline's seeds. A baseline that is a VAE (``vae=wan22``) is compared across channels and
               regularisers: these are the VAE's own
    updates    first checkpoint whose score is at least as good as the target, linearly interpolated from the checkpoint
               before. It is the first crossing, as one reads it off a figure: a curve may fall back behind the target
               later (``kept`` says whether it does)
    speed-up   updates of the baseline's last checkpoint / updates; over seeds the geometric mean, with Student's t
               interval of the logarithms, since a ratio's error is a factor

The baseline itself is a row like the others: where its noisy curve has met its own last value early, its "speed-up" is
above 1, and no other is to be believed that is not clearly larger.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ssvae.core.types import Direction
from ssvae.metrics.interval import mean_interval
from ssvae.report.collect import CellRow, Curve, check_protocols
from ssvae.report.columns import baseline_of, field_text, groups, metric_order, other_fields

PREFIX = "by_step/"
"""Curves of scores at checkpoints carry it before the metric's name."""
_OF_A_VAE = ("reg", "channels", "weights")


@dataclass(frozen=True, slots=True)
class Crossing:
    """updates: None where the target is never reached. at_first: the first checkpoint reaches it already, so
    ``updates`` is only a bound from above. kept: no later checkpoint is worse than the target."""

    updates: float | None
    at_first: bool = False
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Convergence:
    """One cell and metric. final: score at the last checkpoint. bases: the baseline's cells whose final score, or its
    mean, is the target; target, baseline_updates: None without any. crossing: None where there is no target, or the
    metric has no better side.
    """

    row: CellRow
    metric: str
    direction: Direction
    final: float
    target: float | None = None
    baseline_updates: float | None = None
    bases: tuple[CellRow, ...] = ()
    crossing: Crossing | None = None

    @property
    def speed_up(self) -> float | None:
        """Updates of the baseline over those of this cell; None where not reached, or at 0 updates already."""
        if self.crossing is None or not self.crossing.updates or self.baseline_updates is None:
            return None
        return self.baseline_updates / self.crossing.updates


@dataclass(frozen=True, slots=True)
class SpeedUp:
    """A setting over its seeds. mean: None unless every seed reached the target after update 0.

    interval: None for one seed. bound: some seed was there at its first checkpoint, the true speed-up is larger. fell:
    seeds that fell back behind the target later.
    """

    cells: tuple[Convergence, ...]
    reached: int
    mean: float | None
    interval: tuple[float, float] | None
    bound: bool
    fell: int


def first_crossing(x: Sequence[float], y: Sequence[float], target: float, direction: Direction) -> Crossing:
    """Where scores ``y`` at updates ``x`` (rising) first are at least as good as ``target``; scores that are no finite
    numbers are passed by.

    Raises ValueError for direction ``none`` and for updates that do not rise.
    """
    if direction == "none":
        raise ValueError("a score without a better side is never reached: direction must be up or down")
    if any(b <= a for a, b in itertools.pairwise(x)):
        raise ValueError(f"updates must rise from checkpoint to checkpoint, got {list(x)}")
    sign = 1.0 if direction == "up" else -1.0
    points = [(at, sign * (score - target)) for at, score in zip(x, y, strict=True) if math.isfinite(score)]
    for k, (at, ahead) in enumerate(points):
        if ahead >= 0:
            kept = all(later >= 0 for _, later in points[k:])
            if k == 0:
                return Crossing(at, at_first=True, kept=kept)
            before, behind = points[k - 1]
            return Crossing(before + (at - before) * (-behind / (ahead - behind)), kept=kept)
    return Crossing(None)


def scored_metrics(rows: Sequence[CellRow]) -> list[str]:
    """Metrics that finished cells have scored at checkpoints, in the order of table columns."""
    return metric_order(
        name.removeprefix(PREFIX)
        for row in rows
        if row.status == "finished"
        for name, curve in row.curves.items()
        if name.startswith(PREFIX) and _final(curve) is not None
    )


def baseline_field(baseline: str) -> tuple[str, str]:
    """``vae=wan22`` -> (``vae``, ``wan22``); a word alone is a regulariser: ``none`` -> (``reg``, ``none``)."""
    name, equals, value = baseline.partition("=")
    return (name, value) if equals else ("reg", baseline)


def by_vae(baseline: str) -> bool:
    """Is a VAE the baseline? Then channels, regulariser and weights may differ from its own."""
    return baseline_field(baseline)[0] == "vae"


def convergence(rows: Sequence[CellRow], baseline: str = "none") -> list[Convergence]:
    """Every finished cell and metric with scores at checkpoints, by metric, then in the order of the rows.

    baseline: the cells whose final score is the target, as :func:`baseline_field` reads it; their field may differ in
    the others. Rows of several sweeps or probes do not meet. Raises ValueError for mixed protocols, updates that do not
    rise, and a baseline other than ``none`` that no finished cell is.
    """
    check_protocols(rows)
    done = [row for row in rows if row.status == "finished"]
    name, value = baseline_field(baseline)
    _check_baseline(done, baseline)
    ignored = [name]
    if by_vae(baseline):
        ignored += [*_OF_A_VAE, *(field for field in other_fields(done) if field.startswith("vae."))]
    same = [field for field in ("channels", "resolution", "reg") if field not in ignored]
    place = {id(row): index for index, row in enumerate(rows)}
    found: list[Convergence] = []
    for metric in scored_metrics(done):
        ours = []
        scored = [row for row in done if (c := row.curves.get(PREFIX + metric)) is not None and _final(c) is not None]
        for alike in _comparable(scored, same).values():
            settings = groups(alike, ["reg", "channels", *other_fields(alike)]).values()
            bases = [members for members in settings if field_text(members[0], name) == value]
            ours += [_measure(row, metric, baseline_of(row, bases, ignored)) for row in alike]
        found += sorted(ours, key=lambda one: place[id(one.row)])
    return found


def _check_baseline(done: Sequence[CellRow], baseline: str) -> None:
    name, value = baseline_field(baseline)
    if (name, value) == ("reg", "none"):
        return
    values = list(dict.fromkeys(text for row in done if (text := field_text(row, name))))
    if not values and name != "reg":
        known = dict.fromkeys(field for row in done for field in row.fields if field != "seed")
        raise ValueError(f"baseline '{baseline}': no finished cell has a field {name}; there are {', '.join(known)}")
    if value not in values:
        there = ", ".join(values) or "none"
        raise ValueError(f"baseline '{value}' is no finished cell's {name}: choose one of {there}")


def _comparable(rows: Sequence[CellRow], same: Sequence[str]) -> dict[tuple[object, ...], list[CellRow]]:
    """Rows of one sweep and one probe, with equal fields ``same``."""
    found: dict[tuple[object, ...], list[CellRow]] = {}
    for row in rows:
        found.setdefault((row.sweep, row.probe, *(field_text(row, name) for name in same)), []).append(row)
    return found


def speed_ups(found: Sequence[Convergence]) -> list[SpeedUp]:
    """:func:`convergence` by metric and setting (cells equal but for the seed), where there is a target."""
    settings: dict[tuple[object, ...], list[Convergence]] = {}
    for one in found:
        if one.crossing is not None:
            key = (
                one.metric,
                *(one.row.sweep, one.row.probe),
                *(field_text(one.row, n) for n in ("reg", "channels", "resolution")),
                str(one.row.others),
            )
            settings.setdefault(key, []).append(one)
    return [_over_seeds(cells) for cells in settings.values()]


def _measure(row: CellRow, metric: str, bases: Sequence[CellRow]) -> Convergence:
    curve = row.curves[PREFIX + metric]
    direction = _direction(row, metric)
    last = _final(curve)
    assert last is not None, "rows without a score were left out"
    paired = [base for base in bases if base.fields.get("seed") == row.fields.get("seed")] or list(bases)
    if not paired or direction == "none":
        return Convergence(row, metric, direction, last[1])
    ends = [end for base in paired if (end := _final(base.curves[PREFIX + metric])) is not None]
    target = math.fsum(score for _, score in ends) / len(ends)
    updates = math.fsum(at for at, _ in ends) / len(ends)
    crossing = first_crossing(curve.x, curve.y, target, direction)
    return Convergence(row, metric, direction, last[1], target, updates, tuple(paired), crossing)


def _over_seeds(cells: Sequence[Convergence]) -> SpeedUp:
    crossings = [one.crossing for one in cells if one.crossing is not None]
    ratios = [ratio for one in cells if (ratio := one.speed_up) is not None]
    reached = [crossing for crossing in crossings if crossing.updates is not None]
    mean = interval = None
    if len(ratios) == len(cells):
        middle, ends = mean_interval([math.log(ratio) for ratio in ratios])
        mean = math.exp(middle)
        interval = (math.exp(ends[0]), math.exp(ends[1])) if ends is not None else None
    bound = any(crossing.at_first for crossing in reached)
    return SpeedUp(tuple(cells), len(reached), mean, interval, bound, sum(not crossing.kept for crossing in reached))


def _final(curve: Curve) -> tuple[float, float] | None:
    """(updates, score) of the last checkpoint with a score."""
    known = [(at, score) for at, score in zip(curve.x, curve.y, strict=True) if math.isfinite(score)]
    return known[-1] if known else None


def _direction(row: CellRow, metric: str) -> Direction:
    stated = row.curves[PREFIX + metric].direction
    if stated is not None:
        return stated
    return row.metrics[metric].direction if metric in row.metrics else "none"
