"""Rank correlation against scipy, brute force, and worlds in which the answer is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from ssvae.stats.rank_correlation import PERMUTATIONS, Kind, holm, rank_correlation
from ssvae.stats.rank_correlation import _statistic as statistic

KINDS: tuple[Kind, ...] = ("spearman", "kendall")
REFERENCE = {"spearman": spearmanr, "kendall": kendalltau}


def value_of(x: list[float], y: list[float], kind: Kind) -> float:
    return float(REFERENCE[kind](x, y).statistic)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_value_equals_scipy_with_and_without_ties(kind: Kind, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for x, y in ((rng.normal(size=12), rng.normal(size=12)), (rng.integers(0, 4, 12), rng.integers(0, 3, 12))):
        found = rank_correlation(list(map(float, x)), list(map(float, y)), kind=kind, draws=10)
        assert found is not None
        assert found.value == pytest.approx(value_of(list(x), list(y), kind), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_drawn_sample_counts_as_its_repeated_cells(kind: Kind) -> None:
    """Weights are repetitions: scipy on the repeated cells says the same."""
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 5, 9).astype(float), rng.normal(size=9)
    weight = rng.multinomial(9, [1 / 9] * 9, size=20).astype(float)
    found = statistic(x, y, weight, [np.arange(9)], [8], kind)
    expected = [value_of(list(np.repeat(x, w.astype(int))), list(np.repeat(y, w.astype(int))), kind) for w in weight]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [4, 6])
def test_exact_p_equals_brute_force(kind: Kind, n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.integers(0, 4, n).astype(float).tolist(), rng.normal(size=n).tolist()
    observed = abs(value_of(x, y, kind))
    every = [abs(value_of(x, list(order), kind)) for order in itertools.permutations(y)]
    found = rank_correlation(x, y, kind=kind, draws=10)
    assert found is not None and found.exact
    assert found.p_value == pytest.approx(np.mean([value >= observed - 1e-9 for value in every]), abs=1e-12)


def test_eight_cells_in_perfect_order_have_two_chances_in_40320() -> None:
    found = rank_correlation(list(range(8)), [value**3 for value in range(8)], draws=10)
    assert found is not None and found.exact
    assert (found.value, found.p_value) == (1.0, 2 / math.factorial(8))


def test_nine_cells_are_drawn_and_near_scipys_value() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=20)
    y = x + 2 * rng.normal(size=20)
    found = rank_correlation(x.tolist(), y.tolist(), draws=10)
    assert found is not None and not found.exact
    assert found.p_value == pytest.approx(spearmanr(x, y).pvalue, abs=4 * math.sqrt(0.25 / PERMUTATIONS))
    sure = rank_correlation(list(range(20)), list(range(20)), draws=10)
    assert sure is not None and sure.p_value == 1 / (PERMUTATIONS + 1)


def test_clusters_are_exchanged_whole() -> None:
    """Four settings with two seeds each: 24 rearrangements, not 8 factorial; brute force over blocks agrees."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=4), 2) + 0.01 * rng.normal(size=8)
    y = np.repeat(rng.normal(size=4), 2) + 0.01 * rng.normal(size=8)
    found = rank_correlation(x.tolist(), y.tolist(), clusters=[0, 0, 1, 1, 2, 2, 3, 3], draws=10)
    blocks = y.reshape(4, 2)
    every = [abs(spearmanr(x, blocks[list(o)].ravel()).statistic) for o in itertools.permutations(range(4))]
    assert found is not None
    assert (found.clusters, found.cells, found.exact) == (4, 8, True)
    assert found.p_value == pytest.approx(np.mean([v >= abs(found.value) - 1e-9 for v in every]), abs=1e-12)
    alone = rank_correlation(x.tolist(), y.tolist(), draws=10)
    assert alone is not None and alone.p_value < found.p_value


def test_clusters_of_other_sizes_stay_where_they_are() -> None:
    """Only blocks of equal size can change places: 2 pairs and 2 single cells make 4 rearrangements."""
    found = rank_correlation([1, 1.1, 2, 2.1, 3, 4], [1, 1.1, 2, 2.1, 3, 4], clusters=[0, 0, 1, 1, 2, 3], draws=10)
    assert found is not None
    assert found.p_value == 1 / 4


def test_repeated_seeds_do_not_narrow_the_interval() -> None:
    """Ten copies of each cell are no more evidence: as clusters the interval is that of the cells themselves."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=8)
    y = x + rng.normal(size=8)
    once = rank_correlation(x.tolist(), y.tolist())
    ten = np.repeat(x, 10).tolist(), np.repeat(y, 10).tolist()
    copied = rank_correlation(*ten, clusters=np.repeat(np.arange(8), 10).tolist())
    fooled = rank_correlation(*ten)
    assert once and copied and fooled and once.interval and copied.interval and fooled.interval
    assert copied.interval == pytest.approx(once.interval, abs=1e-12)
    assert copied.p_value == once.p_value
    assert fooled.interval[1] - fooled.interval[0] < 0.5 * (once.interval[1] - once.interval[0])


def test_interval_covers_what_it_says() -> None:
    """Of 60 samples of 25 cells, the 95 % interval holds the population's rho in all but a few."""
    rng = np.random.default_rng(7)
    truth = 6 / math.pi * math.asin(0.6 / 2)  # Spearman of a bivariate normal with correlation 0.6
    held = 0
    for _ in range(60):
        x, y = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=25).T
        found = rank_correlation(x.tolist(), y.tolist(), draws=300)
        assert found is not None and found.interval is not None
        held += found.interval[0] <= truth <= found.interval[1]
    assert 50 <= held <= 60


def test_strata_take_away_what_lies_between_them() -> None:
    """Simpson: falling within each channel count, rising over both."""
    x, y = [1.0, 2, 3, 4, 11, 12, 13, 14], [4.0, 3, 2, 1, 14, 13, 12, 11]
    strata = [48] * 4 + [128] * 4
    plain, within = rank_correlation(x, y), rank_correlation(x, y, strata=strata)
    assert plain is not None and within is not None
    assert plain.value > 0.3
    assert (within.value, within.strata, within.p_value) == (-1.0, 2, 2 / 24**2)


@pytest.mark.parametrize("kind", KINDS)
def test_stratified_value_is_the_average_weighted_by_clusters_less_one(kind: Kind) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=9).tolist(), rng.normal(size=9).tolist()
    strata = ["a"] * 3 + ["b"] * 6
    found = rank_correlation(x, y, strata=strata, kind=kind, draws=10)
    expected = (2 * value_of(x[:3], y[:3], kind) + 5 * value_of(x[3:], y[3:], kind)) / 7
    assert found is not None and found.value == pytest.approx(expected, abs=1e-12)


def test_one_vae_under_two_probes_moves_in_both_strata_at_once() -> None:
    """Five VAEs, each in two strata: 5! rearrangements."""
    x = [float(i) for i in range(5)] * 2
    found = rank_correlation(x, x, clusters=[*range(5)] * 2, strata=[0] * 5 + [1] * 5, draws=10)
    assert found is not None
    assert (found.clusters, found.strata, found.p_value) == (5, 2, 2 / math.factorial(5))


def test_nothing_to_say_is_none() -> None:
    assert rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]) is None
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 4], clusters=[0, 0, 1, 1]) is None
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 4], strata=[0, 0, 1, 1]) is None


def test_infinity_ranks_last() -> None:
    inf = math.inf
    found, same = (rank_correlation([1, 2, 3, 4], y, draws=10) for y in ([1, 2, inf, inf], [1, 2, 9, 9]))
    assert found == same
    tau = rank_correlation([1, 2, 3, 4], [1, 2, inf, inf], kind="kendall", draws=10)
    assert tau is not None and tau.value == pytest.approx(kendalltau([1, 2, 3, 4], [1, 2, 9, 9]).statistic)


def test_equal_seeds_give_equal_numbers_and_other_seeds_others() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=12).tolist(), rng.normal(size=12).tolist()
    assert rank_correlation(x, y, seed=1) == rank_correlation(x, y, seed=1)
    assert rank_correlation(x, y, seed=1) != rank_correlation(x, y, seed=2)


def test_nan_and_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="x must be one row of numbers without NaN"):
        rank_correlation([1, math.nan, 3], [1, 2, 3])
    with pytest.raises(ValueError, match="have 3, 2, 3 and 3 entries"):
        rank_correlation([1, 2, 3], [1, 2])


def test_holm() -> None:
    """The textbook example: sorted p times what is left, never falling, at most 1, in the given order."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
