"""The pruning rule on sequences whose verdicts are worked out by hand."""

from __future__ import annotations

import pytest

from search_parts import pruning
from ssvae.config.search import Better, PruneConfig
from ssvae.sweep.search.pruning import judge


def verdicts(values: list[float], rule: PruneConfig) -> list[bool]:
    return [judge(value, values[:place], rule).survives for place, value in enumerate(values)]


def test_a_known_sequence() -> None:
    # Of n values the best ceil(n / 2) go on: of 3 two, of 4 two, of 5 three.
    rule = pruning(keep=0.5, warmup=2)
    assert verdicts([20.0, 10.0, 15.0, 12.0, 30.0, 5.0], rule) == [True, True, True, False, True, False]


def test_the_other_direction_is_the_mirror_image() -> None:
    up, down = pruning(keep=0.5), pruning(keep=0.5, direction=Better.minimize)
    values = [3.0, 1.0, 2.0, 5.0, 4.0, 0.5]
    assert verdicts(values, up) == verdicts([-value for value in values], down)


def test_the_first_ones_go_on_however_bad() -> None:
    assert verdicts([5.0, 4.0, 3.0, 2.0, 1.0], pruning(keep=0.1, warmup=4)) == [True, True, True, True, False]


def test_equal_values_share_the_better_place() -> None:
    verdict = judge(1.0, [1.0, 1.0, 2.0, 0.0], pruning(keep=0.4, warmup=1))
    assert (verdict.place, verdict.of, verdict.survives) == (2, 5, True)


@pytest.mark.parametrize(("keep", "of", "kept"), [(0.7, 10, 7), (0.75, 8, 6), (0.75, 9, 7), (0.3, 10, 3), (0.1, 30, 3)])
def test_so_many_of_so_many(keep: float, of: int, kept: int) -> None:
    """Rounded up, but not by what binary fractions add: 0.7 * 10 is 7."""
    others = [float(value) for value in range(of - 1)]
    survive = [judge(value + 0.5, others, pruning(keep=keep, warmup=1)).survives for value in range(-1, of - 1)]
    assert sum(survive) == kept
    assert survive == sorted(survive), "better values survive first"
