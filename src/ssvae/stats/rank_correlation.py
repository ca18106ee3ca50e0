"""Rank correlation of few cells that are not independent: Spearman's rho and Kendall's tau-b, interval, p-value.

Cells of one cluster (seeds of one setting, probes on one VAE) are drawn and exchanged together, never apart. With
strata (channel counts, say) the statistic is the average of the correlations within strata, weighted by clusters - 1:
what is between strata does not count.

    rho    Pearson correlation of mid-ranks (Spearman 1904)
    tau-b  Σ sign(xi-xj) sign(yi-yj) / sqrt(Σ sign(xi-xj)² Σ sign(yi-yj)²) (Kendall 1945): ties count on neither side
    both compare values only, so infinity is a value like any other

Dimension legend: n cells, D draws or permutations; weight (D,n) says how often each cell is in a draw.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssvae.core.seeds import numpy_generator

Kind = Literal["spearman", "kendall"]
Array = NDArray[np.float64]
Indices = NDArray[np.intp]

EXACT = math.factorial(8)
"""Up to this many rearrangements are all tried; beyond, some are drawn."""
PERMUTATIONS = 10_000
FEWEST_CLUSTERS = 3
"""A stratum with fewer says nothing: two points always lie on a line."""
_CHUNK = 2_000_000  # numbers at once in the sums over pairs


@dataclass(frozen=True, slots=True)
class RankCorrelation:
    """value: in [-1, 1]. interval: percentile bootstrap over clusters, None where too few draws vary.

    p_value: two-sided, by exchanging clusters; exact: every rearrangement was tried. strata: how many of them count.
    """

    value: float
    interval: tuple[float, float] | None
    p_value: float
    exact: bool
    cells: int
    clusters: int
    strata: int


def rank_correlation(
    x: Sequence[float],
    y: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    *,
    kind: Kind = "spearman",
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> RankCorrelation | None:
    """Correlation of the ranks of ``x`` (n,) and ``y`` (n,).

    clusters, strata: one key a cell; by default each cell is its own cluster, and all are one stratum. None where
    nothing can be said: in no stratum of at least :data:`FEWEST_CLUSTERS` clusters do both vary. Clusters are exchanged
    as whole blocks, among clusters of as many cells in the same strata; a block's cells keep their given order within a
    stratum, so give the cells of each cluster in order of seed. Raises ValueError for NaN or unequal lengths.
    """
    a, b = _checked(x, "x"), _checked(y, "y")
    keys = list(range(len(a))) if clusters is None else list(clusters)
    layers: list[Hashable] = [0] * len(a) if strata is None else list(strata)
    if not len(a) == len(b) == len(keys) == len(layers):
        raise ValueError(
            f"x, y, clusters and strata have {len(a)}, {len(b)}, {len(keys)} and {len(layers)} entries: one a cell each"
        )
    parts = _varying(a, b, keys, layers)
    if not parts:
        return None
    kept = np.array(sorted(i for part in parts for i in part), dtype=np.intp)
    place = {int(cell): k for k, cell in enumerate(kept)}
    used = [np.array([place[int(i)] for i in part], dtype=np.intp) for part in parts]
    a, b = a[kept], b[kept]
    keys, layers = [keys[i] for i in kept], [layers[i] for i in kept]
    shares = [len({keys[i] for i in part}) - 1 for part in used]
    observed = float(_statistic(a, b, np.ones((1, len(kept))), used, shares, kind)[0])
    weights = _bootstrap_weights(keys, layers, draws, seed)
    drawn = _statistic(a, b, weights, used, shares, kind)
    p_value, exact = _permutation_p(a, b, used, shares, _rearrangements(keys, layers, seed), kind)
    interval = _percentiles(drawn, level)
    return RankCorrelation(observed, interval, p_value, exact, len(kept), len(set(keys)), len(used))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (1979), in the given order: they bound the chance of any false find."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _checked(values: Sequence[float], name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or np.isnan(array).any():
        raise ValueError(f"{name} must be one row of numbers without NaN: leave out the cells that lack a value")
    return array


def _varying(a: Array, b: Array, keys: Sequence[Hashable], layers: Sequence[Hashable]) -> list[Indices]:
    """Cells of each stratum that has enough clusters and in which both values vary."""
    found = []
    for layer in dict.fromkeys(layers):
        part = np.array([i for i, other in enumerate(layers) if other == layer], dtype=np.intp)
        enough = len({keys[i] for i in part}) >= FEWEST_CLUSTERS
        if enough and len(set(a[part].tolist())) > 1 and len(set(b[part].tolist())) > 1:
            found.append(part)
    return found


def _statistic(a: Array, b: Array, weight: Array, parts: Sequence[Indices], shares: Sequence[int], kind: Kind) -> Array:
    """(D,) the weighted average over strata, NaN where no stratum varies in a draw."""
    inside = _weighted_rho if kind == "spearman" else _weighted_tau
    total, share = np.zeros(len(weight)), np.zeros(len(weight))
    for part, clusters in zip(parts, shares, strict=True):
        value = inside(a[part], b[part], weight[:, part])
        known = ~np.isnan(value)
        total[known] += clusters * value[known]
        share[known] += clusters
    return np.divide(total, share, out=np.full(len(weight), np.nan), where=share > 0)


def _weighted_rho(a: Array, b: Array, weight: Array) -> Array:
    """Spearman's rho of samples in which cell i occurs weight[:, i] times, (D,)."""
    first, second = _centred_ranks(a, weight), _centred_ranks(b, weight)
    cross = (weight * first * second).sum(1)
    return _over(cross, (weight * first**2).sum(1) * (weight * second**2).sum(1))


def _centred_ranks(values: Array, weight: Array) -> Array:
    """Mid-ranks minus their mean, (D,n); a cell that occurs twice ties with itself."""
    column, row = values[:, None], values[None, :]
    below = (row < column) + 0.5 * (row == column)
    ranks = weight @ below.T
    count = weight.sum(1, keepdims=True)
    # The mean of mid-ranks without their usual 1/2 is count / 2, whatever the ties.
    return np.asarray(ranks - count / 2)


def _weighted_tau(a: Array, b: Array, weight: Array) -> Array:
    """Kendall's tau-b of samples in which cell i occurs weight[:, i] times, (D,)."""
    first, second = _signs(a), _signs(b)

    def pairs(matrix: Array) -> Array:
        return np.asarray(((weight @ matrix) * weight).sum(1))

    return _over(pairs(first * second), pairs(first**2) * pairs(second**2))


def _signs(values: Array) -> Array:
    column, row = values[:, None], values[None, :]
    return (column > row).astype(np.float64) - (column < row)


def _over(cross: Array, squares: Array) -> Array:
    return np.divide(cross, np.sqrt(squares), out=np.full(len(cross), np.nan), where=squares > 0)


def _bootstrap_weights(keys: Sequence[Hashable], layers: Sequence[Hashable], draws: int, seed: int) -> Array:
    """(D,n): clusters drawn with replacement, among those of the same strata."""
    rng = numpy_generator(seed, "rank_correlation/bootstrap")
    cells: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        cells.setdefault(key, []).append(i)
    alike: dict[frozenset[Hashable], list[Hashable]] = {}
    for key, members in cells.items():
        alike.setdefault(frozenset(layers[i] for i in members), []).append(key)
    weight = np.zeros((draws, len(keys)))
    for group in alike.values():
        counts = rng.multinomial(len(group), [1 / len(group)] * len(group), size=draws)
        for column, key in enumerate(group):
            weight[:, cells[key]] = counts[:, [column]]
    return weight


def _percentiles(drawn: Array, level: float) -> tuple[float, float] | None:
    known = drawn[~np.isnan(drawn)]
    # A sample in which nothing varies has no correlation; where most are so, the rest is no picture of the spread.
    if 2 * len(known) < len(drawn):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _rearrangements(keys: Sequence[Hashable], layers: Sequence[Hashable], seed: int) -> tuple[Indices, bool]:
    """(D,n) rearranged cell indices, the given order first; and whether these are all there are."""
    names = {layer: rank for rank, layer in enumerate(dict.fromkeys(layers))}
    blocks: dict[Hashable, list[int]] = {}
    for i in sorted(range(len(keys)), key=lambda i: (names[layers[i]], i)):
        blocks.setdefault(keys[i], []).append(i)
    alike: dict[tuple[int, ...], list[list[int]]] = {}
    for members in blocks.values():
        alike.setdefault(tuple(names[layers[i]] for i in members), []).append(members)
    groups = [np.array(group, dtype=np.intp) for group in alike.values()]
    exact = math.prod(math.factorial(len(group)) for group in groups) <= EXACT
    if exact:
        orders = itertools.product(*(itertools.permutations(range(len(group))) for group in groups))
        chosen = [np.array(order, dtype=np.intp) for order in zip(*orders, strict=True)]
    else:
        rng = numpy_generator(seed, "rank_correlation/permutation")
        chosen = []
        for group in groups:
            given = np.tile(np.arange(len(group), dtype=np.intp), (PERMUTATIONS + 1, 1))
            given[1:] = rng.permuted(given[1:], axis=1)
            chosen.append(given)
    moved = np.empty((len(chosen[0]), len(keys)), dtype=np.intp)
    for group, order in zip(groups, chosen, strict=True):
        moved[:, group.ravel()] = group[order].reshape(len(order), -1)
    return moved, exact


def _permutation_p(
    a: Array, b: Array, parts: Sequence[Indices], shares: Sequence[int], moved: tuple[Indices, bool], kind: Kind
) -> tuple[float, bool]:
    """Share of rearrangements with at least the observed size; the given order is one of them, so it is never 0."""
    orders, exact = moved
    left: Array
    right: Array
    compare: Callable[[Array, Array, Indices], Array]
    if kind == "spearman":
        left, right = np.zeros(len(a)), np.zeros(len(a))
        compare = _rank_products
    else:
        left, right = np.zeros((len(a), len(a))), np.zeros((len(a), len(a)))
        compare = _pair_products
    for part, share in zip(parts, shares, strict=True):
        where = part if kind == "spearman" else np.ix_(part, part)
        one = np.ones((1, len(part)))
        first, second = (_centred_ranks(v[part], one)[0] if kind == "spearman" else _signs(v[part]) for v in (a, b))
        # Rearranging within a stratum changes neither norm, so the whole statistic is one linear form.
        left[where] = share * first / math.sqrt((first**2).sum() * (second**2).sum())
        right[where] = second
    values = np.abs(compare(left, right, orders))
    return float((values >= values[0] - 1e-12).mean()), exact


def _rank_products(left: Array, right: Array, orders: Indices) -> Array:
    return np.asarray(right[orders] @ left)


def _pair_products(left: Array, right: Array, orders: Indices) -> Array:
    step = max(1, _CHUNK // left.size)
    found = [
        np.einsum("ij,dij->d", left, right[some[:, :, None], some[:, None, :]])
        for some in (orders[start : start + step] for start in range(0, len(orders), step))
    ]
    return np.concatenate(found)
