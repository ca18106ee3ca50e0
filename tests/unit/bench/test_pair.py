"""A pair is timed only when its sides are equal, and a figure says all that its ratio rests on."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from ssvae.bench.pair import NotEqualError, Pair, measure, relative_difference


class Ticker:
    """A clock and two works: the fast one takes 2 s, the naive one 5 s."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pair(self) -> Pair:
        return Pair(
            name="thing",
            what="some work",
            reference="tests",
            fast=lambda: self._spend(2.0),
            naive=lambda: self._spend(5.0),
            difference=lambda: 1e-7,
            tolerance=1e-6,
        )

    def _spend(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("difference", [2e-6, math.inf, math.nan])
def test_unequal_sides_are_an_error(difference: float) -> None:
    pair = replace(Ticker().pair(), difference=lambda: difference)
    with pytest.raises(NotEqualError, match="thing"):
        pair.check()


def test_figure_in_seconds() -> None:
    clock = Ticker()
    pair = clock.pair()
    row = measure(pair, pair.check(), budget_s=0.0, clock=clock).to_json()
    assert row == {
        "name": "thing",
        "what": "some work",
        "unit": "s",
        "median": 2.0,
        "reference": {"where": "tests", "median": 5.0},
        "ratio": 2.5,
        "ratio_min": 2.5,
        "ratio_max": 2.5,
        "pairs": 3,
        "equal": {"difference": 1e-7, "tolerance": 1e-6},
    }
    assert json.loads(json.dumps(row)) == row


def test_figure_in_clips_a_second_keeps_the_sense_of_the_ratio() -> None:
    clock = Ticker()
    pair = replace(clock.pair(), unit="clips/s", clips=10)
    row = measure(pair, pair.check(), budget_s=0.0, clock=clock).to_json()
    assert row["median"] == 5.0 and row["reference"]["median"] == 2.0  # more is better
    assert row["ratio"] == 2.5  # still: times faster


def test_relative_difference() -> None:
    expected = torch.tensor([1.0, -4.0])
    assert relative_difference(torch.tensor([1.0, -4.0]), expected) == 0.0
    assert relative_difference(torch.tensor([1.5, -4.0]), expected) == pytest.approx(0.125)
    assert relative_difference(torch.tensor([1.0, -4.0, 0.0]), expected) == math.inf
    assert math.isnan(relative_difference(torch.tensor([math.nan, -4.0]), expected))
    assert relative_difference(torch.zeros(2), torch.zeros(2)) == 0.0
