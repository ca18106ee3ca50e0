"""Learning-rate curves against the official schedule, their anchor points and their monotony."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest

from ssvae.core.schedule import Curve, learning_rate

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "lr_schedule.json").read_text())


@pytest.mark.parametrize("step", GOLDEN["values"])
def test_cosine_equals_the_official_schedule(step: str) -> None:
    rate = learning_rate(
        int(step),
        curve="cosine",
        peak=GOLDEN["lr_max"],
        warmup=GOLDEN["warm_up_steps"],
        start=GOLDEN["lr_start"],
        end=GOLDEN["lr_min"],
        decay_steps=GOLDEN["max_decay_steps"],
    )
    assert rate == pytest.approx(GOLDEN["values"][step], rel=1e-12)


def rates(curve: Curve, warmup: int = 10) -> list[float]:
    return [
        learning_rate(step, curve=curve, peak=1.0, warmup=warmup, start=0.1, end=0.2, decay_steps=50)
        for step in range(60)
    ]


@pytest.mark.parametrize("curve", ["constant", "cosine", "one_cycle"])
def test_start_peak_and_monotony(curve: Curve) -> None:
    found = rates(curve)
    assert found[0] == pytest.approx(0.1)
    assert found[10] == pytest.approx(1.0)
    assert all(a < b for a, b in itertools.pairwise(found[:11]))
    assert all(a >= b for a, b in itertools.pairwise(found[10:]))


def test_constant_stays() -> None:
    assert set(rates("constant")[10:]) == {1.0}


def test_cosine_passes_the_middle_halfway_and_stays_at_the_end() -> None:
    found = rates("cosine")
    assert found[30] == pytest.approx((1.0 + 0.2) / 2)
    assert found[50:] == pytest.approx([0.2] * 10)


def test_one_cycle_rises_along_a_cosine() -> None:
    found = rates("one_cycle")
    assert found[5] == pytest.approx((0.1 + 1.0) / 2)
    share = 0.5 - 0.5 * math.cos(math.pi * 0.2)
    assert found[2] == pytest.approx(0.1 + 0.9 * share)
    assert found[10:] == pytest.approx(rates("cosine")[10:])


def test_without_warm_up_the_peak_comes_first() -> None:
    assert rates("cosine", warmup=0)[0] == pytest.approx(1.0)


def test_a_warm_up_longer_than_the_decay_does_not_divide_by_zero() -> None:
    rate = learning_rate(50, curve="cosine", peak=1.0, warmup=50, start=0.0, end=0.2, decay_steps=50)
    assert rate == pytest.approx(1.0)
