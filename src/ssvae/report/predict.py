"""Which cheap statistic of a VAE predicts how well diffusion does on its latents: rank correlations over cells.

statistic  what is known without training a diffusion model: everything the measure stage says of latents and
           reconstructions, and the probe's distances of reconstructions and of decoded Gaussian latents
score      what a trained probe says: its directed metrics, and updates to the baseline's final score
VAE        cells that differ only by seed, or that share a trained VAE or its latents, count as one: they are drawn
           and exchanged together (:mod:`ssvae.stats.rank_correlation`)
family     main: a few statistics fixed beforehand (:data:`MAIN`), adjusted over themselves; the rest is exploratory
within     the same correlation inside each group of equal channels, resolution and probe settings, averaged:
           channel counts move statistics and scores at once, and would make predictors out of nothing
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

from ssvae.core.types import Direction
from ssvae.report.collect import CellRow, check_protocols
from ssvae.report.columns import BASELINES, example, is_part, metric_order
from ssvae.report.predict_cells import distinct_vaes
from ssvae.stats.rank_correlation import RankCorrelation, holm, rank_correlation

MAIN = (
    "psnr_db",
    "local_correlation",
    "dct_high_share",
    "dct_dc_share",
    "explained_variance_8",
    "participation_ratio",
    "viv",
    "mode_strength_flow_time_mean",
    "kl_per_dim",
    "psnr_noise_0.4_db",
    "psnr_masked_0.5_db",
)
"""The main family: what is said to make latents diffuse well, not what did so in a sweep. It was written down when a
first small sweep of 11 regularisers at 48 channels was there: for that one it is not blind. Every further name costs
power, so what only repeats these (other k, other noise) stays outside."""
FEWEST = 5
"""Distinct VAEs below which nothing is computed."""
ENOUGH = 8
"""Distinct VAEs below which nothing is concluded."""
LEVEL = 0.05
"""Of the adjusted p-value."""
HEADLINE = ("fvd", "fdd", "reward_mean", "probe_fd", "diffusion_loss")
"""The score by which statistics are sorted and drawn, unless one is named: the first of these that is there."""

_WITHOUT_DIFFUSION = ("_gaussian", "_reconstruction")
_PROBES = ("dit_base", "dit", "probe")
"""Stages that train a diffusion model, or score one."""


@dataclass(frozen=True, slots=True)
class Relation:
    """One statistic against one score. spearman: over all cells; within: at equal channels, resolution and probe.

    main: of the main family. p_adjusted: Holm over that family, for the others over all statistics of this score.
    strata: how many such groups there are.
    """

    statistic: str
    score: str
    direction: Direction
    spearman: RankCorrelation
    kendall: float
    within: RankCorrelation | None
    strata: int
    main: bool = False
    p_adjusted: float = 1.0

    @property
    def sign(self) -> str:
        """``higher: better``, ``higher: worse`` or, at exactly 0, nothing."""
        if self.spearman.value == 0:
            return ""
        return "higher: better" if (self.spearman.value > 0) == (self.direction == "up") else "higher: worse"

    @property
    def concluded(self) -> bool:
        """Is the verdict a sign?"""
        return bool(self.sign) and not self._doubt()

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
    """relations: by score (:attr:`scores`, the headline first), the main family first, strongest first.

    left_out: name -> why. agreement: Spearman's rho of two scores, each turned so that more is better.
    """

    rows: tuple[CellRow, ...]
    relations: tuple[Relation, ...]
    scores: tuple[str, ...]
    left_out: dict[str, str]
    vaes: int
    strata: int
    agreement: dict[tuple[str, str], float] = field(default_factory=dict)

    def of(self, score: str, main: bool | None = None) -> list[Relation]:
        """The relations of one score, strongest first; ``main``: only those of the main family, or of the others."""
        return [one for one in self.relations if one.score == score and main in (None, one.main)]

    @property
    def shown(self) -> list[str]:
        """Scores that are no part of another, as a loss at some noise levels is; the headline is always there."""
        return [name for k, name in enumerate(self.scores) if k == 0 or not is_part(name)]


def predict(rows: Sequence[CellRow], scores: Sequence[str] | None = None, main: Sequence[str] = MAIN) -> Prediction:
    """Rank correlation of every statistic with every score; the first of ``scores`` is the headline.

    rows: as :func:`~ssvae.report.predict_cells.collect_sweeps` gives them. main: names of the main family; those that
    no cell has do not count. Raises ValueError for mixed protocols, a score that is unknown or has no better side, and
    fewer than :data:`FEWEST` distinct VAEs with the headline score. Other scores and statistics that nothing can be
    said of are left out by name.
    """
    check_protocols(rows)
    cells = list(rows)
    vaes = distinct_vaes(cells)
    wanted = _scores(cells, scores)
    _check_enough(cells, vaes, wanted[0])
    strata = [(str(row.fields.get("channels")), str(row.fields.get("resolution")), row.probe) for row in cells]
    # The main family first: of two names for one number, its name stays.
    names = sorted(statistics(cells, wanted), key=lambda name: name not in main)
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
                found.append(replace(relation, main=name in main))
        relations += sorted(_adjusted(found), key=lambda one: (not one.main, -abs(one.spearman.value), one.statistic))
    if wanted[0] not in kept:
        raise ValueError(f"{wanted[0]} is the same in all cells: nothing can predict it; name another with --scores")
    agreement = {(a, b): rho for a, b in itertools.combinations(kept, 2) if (rho := _agree(cells, a, b)) is not None}
    groups = len(set(strata))
    return Prediction(tuple(cells), tuple(relations), tuple(kept), left_out, len(set(vaes)), groups, agreement)


def statistics(rows: Sequence[CellRow], scores: Sequence[str] = ()) -> list[str]:
    """What is known of a VAE without training a diffusion model, in the order of table columns, but for ``scores``."""
    names = {
        name
        for row in rows
        for name, stage in row.origins.items()
        if stage not in _PROBES or name.endswith(_WITHOUT_DIFFUSION)
    }
    return metric_order(names - set(scores) - set(BASELINES))


def _adjusted(found: Sequence[Relation]) -> list[Relation]:
    """With Holm's adjusted p: of the main family over itself, of the others over all that were tried."""
    everything = holm([one.spearman.p_value for one in found])
    family = iter(holm([one.spearman.p_value for one in found if one.main]))
    return [replace(one, p_adjusted=next(family) if one.main else p) for one, p in zip(found, everything, strict=True)]


def _agree(rows: Sequence[CellRow], one: str, other: str) -> float | None:
    known = [(a, b) for row in rows if (a := row.value(one)) is not None and (b := row.value(other)) is not None]
    found = rank_correlation([a for a, _ in known], [b for _, b in known], draws=1) if known else None
    if found is None:
        return None
    return found.value if example(rows, one).direction == example(rows, other).direction else -found.value


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
