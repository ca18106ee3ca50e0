"""Which cheap statistic of a VAE predicts how well diffusion does on its latents: rank correlations over cells.

statistic  what is known without training a diffusion model: everything the measure stage says of latents and
           reconstructions, and the probe's distances of reconstructions and of decoded Gaussian latents
score      what a trained probe says: its directed metrics, and updates to the baseline's final score
VAE        cells that differ only by seed, or that share a trained VAE or its latents, count as one: they are drawn
           and exchanged together (:mod:`ssvae.stats.rank_correlation`)
within     the same correlation inside each group of equal channels, resolution and probe settings, averaged:
           channel counts move statistics and scores at once, and would make predictors out of nothing
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssvae.core.types import Direction, MetricValue
from ssvae.report.collect import CellRow, check_protocols, collect
from ssvae.report.columns import BASELINES, example, metric_order
from ssvae.report.convergence import convergence
from ssvae.stats.rank_correlation import RankCorrelation, holm, rank_correlation

STEPS = "steps_to_baseline_"
"""Scores made of updates to the baseline's final score; never reaching it ranks last."""
FEWEST = 5
"""Distinct VAEs below which nothing is computed."""
ENOUGH = 8
"""Distinct VAEs below which nothing is concluded."""
LEVEL = 0.05
"""Of the adjusted p-value."""
HEADLINE = ("fvd", "fdd", "reward_mean", "probe_fd", "diffusion_loss")
"""The score by which statistics are sorted and drawn, unless one is named: the first of these that is there."""

_WITHOUT_DIFFUSION = ("_gaussian", "_reconstruction")
_NO_VAE = ("base", "dit_base", "dit", "probe")
"""Stages whose folder does not tell one VAE from another."""


@dataclass(frozen=True, slots=True)
class Relation:
    """One statistic against one score. spearman: over all cells; within: at equal channels, resolution and probe.

    p_adjusted: Holm over the statistics of this score. strata: how many such groups there are.
    """

    statistic: str
    score: str
    direction: Direction
    spearman: RankCorrelation
    kendall: float
    within: RankCorrelation | None
    strata: int
    p_adjusted: float = 1.0

    @property
    def sign(self) -> str:
        """``higher: better``, ``higher: worse`` or, at exactly 0, nothing."""
        if self.spearman.value == 0:
            return ""
        return "higher: better" if (self.spearman.value > 0) == (self.direction == "up") else "higher: worse"

    @property
    def verdict(self) -> str:
        """The sign where it may be believed, else ``no conclusion`` and the first reason."""
        reason = self._doubt()
        return f"no conclusion: {reason}" if reason else self.sign

    def _doubt(self) -> str:
        found = self.spearman
        if found.clusters < ENOUGH:
            return f"{found.clusters} VAEs, {ENOUGH} needed"
        if found.interval is None or found.interval[0] <= 0 <= found.interval[1]:
            return "interval holds 0"
        if self.p_adjusted >= LEVEL:
            return f"adjusted p {self.p_adjusted:.2g}"
        if self.strata == 1:
            return ""
        if self.within is None:
            return "too few VAEs at equal channels"
        ends = self.within.interval
        if ends is None or ends[0] <= 0 <= ends[1] or self.within.value * found.value < 0:
            return "not at equal channels"
        return ""


@dataclass(frozen=True, slots=True)
class Prediction:
    """relations: by score (:attr:`scores`, the headline first), strongest first. left_out: name -> why."""

    rows: tuple[CellRow, ...]
    relations: tuple[Relation, ...]
    scores: tuple[str, ...]
    left_out: dict[str, str]
    vaes: int
    strata: int

    def of(self, score: str) -> list[Relation]:
        """The relations of one score, strongest first."""
        return [relation for relation in self.relations if relation.score == score]


def collect_sweeps(root: Path, sweeps: Sequence[str]) -> list[CellRow]:
    """Finished cells of all sweeps, each piece of work once, though several sweeps may share it.

    Raises ValueError for an unknown sweep, and for a metric with two protocols, naming it and the cells.
    """
    found: dict[Hashable, CellRow] = {}
    for sweep in dict.fromkeys(sweeps):
        for row in collect(root, sweep):
            if row.status == "finished" and row.reason is None:
                found.setdefault(tuple(sorted(row.stages.items())), row)
    check_protocols(list(found.values()))
    return list(found.values())


def predict(rows: Sequence[CellRow], scores: Sequence[str] | None = None) -> Prediction:
    """Rank correlation of every statistic with every score; the first of ``scores`` is the headline.

    Raises ValueError for mixed protocols, a score that is unknown or has no better side, and fewer than :data:`FEWEST`
    distinct VAEs with the headline score. Other scores and statistics that nothing can be said of are left out by name.
    """
    check_protocols(rows)
    cells = with_steps_to_baseline(rows)
    vaes = distinct_vaes(cells)
    wanted = _scores(cells, scores)
    _check_enough(cells, vaes, wanted[0])
    strata = [(str(row.fields.get("channels")), str(row.fields.get("resolution")), row.probe) for row in cells]
    names = statistics(cells, wanted)
    left_out = {name: "the same in all cells" for name in names if _constant(cells, name)}
    for place, name in enumerate(names):
        earlier = (other for other in names[:place] if other not in left_out)
        if name not in left_out and (twin := next((one for one in earlier if _equal(cells, one, name)), None)):
            left_out[name] = f"equal to {twin} in every cell"
    names = [name for name in names if name not in left_out]
    relations: list[Relation] = []
    kept = []
    for score in wanted:
        known = {vae for row, vae in zip(cells, vaes, strict=True) if row.value(score) is not None}
        if len(known) < FEWEST:
            left_out[score] = f"score of {len(known)} distinct VAEs only, {FEWEST} needed"
            continue
        if _constant(cells, score):
            left_out[score] = "score that is the same in all cells"
            continue
        kept.append(score)
        found = []
        for name in names:
            relation = _relate(cells, vaes, strata, name, score)
            if isinstance(relation, str):
                left_out[f"{name} with {score}"] = relation
            else:
                found.append(relation)
        adjusted = holm([relation.spearman.p_value for relation in found])
        found = [replace(one, p_adjusted=p) for one, p in zip(found, adjusted, strict=True)]
        relations += sorted(found, key=lambda one: (-abs(one.spearman.value), one.statistic))
    if wanted[0] not in kept:
        raise ValueError(f"{wanted[0]} is the same in all cells: nothing can predict it; name another with --scores")
    return Prediction(tuple(cells), tuple(relations), tuple(kept), left_out, len(set(vaes)), len(set(strata)))


def statistics(rows: Sequence[CellRow], scores: Sequence[str] = ()) -> list[str]:
    """What is known of a VAE without training a diffusion model, in the order of table columns, but for ``scores``."""
    names = {
        name
        for row in rows
        for name, stage in row.origins.items()
        if stage != "probe" or name.endswith(_WITHOUT_DIFFUSION)
    }
    return metric_order(names - set(scores) - set(BASELINES))


def with_steps_to_baseline(rows: Sequence[CellRow]) -> list[CellRow]:
    """The rows with a metric ``steps_to_baseline_<metric>`` for each score at checkpoints that has a target.

    Infinite where the target is never reached: of ranks, only that it is the last.
    """
    added: dict[int, dict[str, float]] = {}
    place = {id(row): index for index, row in enumerate(rows)}
    for one in convergence(rows):
        if one.crossing is not None:
            updates = math.inf if one.crossing.updates is None else one.crossing.updates
            added.setdefault(place[id(one.row)], {})[STEPS + one.metric] = updates
    return [_with_updates(row, added.get(index, {})) for index, row in enumerate(rows)]


def distinct_vaes(rows: Sequence[CellRow]) -> list[int]:
    """One number a cell, equal for cells that differ only by seed or share a stage other than base and probe."""
    parent = list(range(len(rows)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    seen: dict[Hashable, int] = {}
    for index, row in enumerate(rows):
        settings = tuple(sorted((name, str(value)) for name, value in row.fields.items() if name != "seed"))
        folders = [where for stage, where in row.stages.items() if stage not in _NO_VAE]
        for key in (settings, *folders):
            first = seen.setdefault(key, index)
            parent[max(root(first), root(index))] = min(root(first), root(index))
    return [root(index) for index in range(len(rows))]


def _with_updates(row: CellRow, updates: dict[str, float]) -> CellRow:
    protocol = "first_crossing/1;baseline=none;linear between checkpoints"
    metrics = {name: MetricValue(name, value, "updates", "down", 1, None, protocol) for name, value in updates.items()}
    return replace(
        row,
        metrics={**row.metrics, **metrics},
        origins={**row.origins, **dict.fromkeys(metrics, "probe")},
    )


def _equal(rows: Sequence[CellRow], one: str, other: str) -> bool:
    """The same number under two names, in every cell: it would count twice in the adjustment."""
    pairs = [(row.value(one), row.value(other)) for row in rows]
    return all(a is not None and b is not None and math.isclose(a, b, rel_tol=1e-9) for a, b in pairs)


def _scores(rows: Sequence[CellRow], wanted: Sequence[str] | None) -> list[str]:
    """The wanted scores, or all there are with the headline first."""
    measured = {name for row in rows for name in row.metrics}
    directed = {name for name in measured if example(rows, name).direction != "none"}
    there = metric_order(
        name
        for row in rows
        for name, stage in row.origins.items()
        if stage == "probe" and name in directed and not name.endswith(_WITHOUT_DIFFUSION)
    )
    if wanted is None:
        if not there:
            raise ValueError(
                "no finished cell has a score of a trained probe: run the sweep with its probe stage first"
            )
        first = next((name for name in HEADLINE if name in there), there[0])
        return [first, *(name for name in there if name != first)]
    for name in wanted:
        if name not in measured:
            raise ValueError(f"score '{name}' is in no finished cell: choose from {', '.join(there) or 'none'}")
        if name not in directed:
            raise ValueError(
                f"'{name}' has no better side, so it is no score: choose from {', '.join(there) or 'none'}"
            )
    return list(dict.fromkeys(wanted))


def _constant(rows: Sequence[CellRow], name: str) -> bool:
    return len({row.value(name) for row in rows} - {None}) < 2


def _check_enough(rows: Sequence[CellRow], vaes: Sequence[int], score: str) -> None:
    known = {vae for row, vae in zip(rows, vaes, strict=True) if row.value(score) is not None}
    if len(known) < FEWEST:
        more = FEWEST - len(known)
        raise ValueError(
            f"{len(known)} distinct VAE{'s' if len(known) != 1 else ''} with {score} (seeds of one setting, and cells "
            f"that share a VAE, count once); a rank correlation needs {FEWEST} at least, so finish {more} more "
            f"setting{'s' if more != 1 else ''} (regulariser, strength, channels ...); {ENOUGH} are needed to conclude"
        )


def _relate(
    rows: Sequence[CellRow], vaes: Sequence[int], strata: Sequence[Hashable], statistic: str, score: str
) -> Relation | str:
    """One relation, or why there is none."""
    pairs = [(row.value(statistic), row.value(score)) for row in rows]
    known = [index for index, pair in enumerate(pairs) if None not in pair]
    groups = [vaes[index] for index in known]
    if len(set(groups)) < FEWEST:
        return f"both in {len(set(groups))} distinct VAEs only, {FEWEST} needed"
    x, y = ([value for index in known if (value := pairs[index][side]) is not None] for side in (0, 1))
    layers = [strata[index] for index in known]
    overall = rank_correlation(x, y, groups)
    tau = rank_correlation(x, y, groups, kind="kendall", draws=1)
    if overall is None or tau is None:
        return "one is the same in all cells that have both"
    several = len(set(layers)) > 1
    within = rank_correlation(x, y, groups, layers) if several else None
    direction = example(rows, score).direction
    return Relation(statistic, score, direction, overall, tau.value, within, len(set(layers)))
