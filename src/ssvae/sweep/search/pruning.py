"""Which trials are worth their probe: one rule for any number of objectives.

Optuna's pruners know one objective only, and compare curves of one trial's training; here a trial has one cheap number
before its dear part begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ssvae.config.search import Better, PruneConfig


@dataclass(frozen=True)
class Verdict:
    """survives: does the trial go on? place: of its value, 1 is best, ties share the better one; of: values so far."""

    survives: bool
    place: int
    of: int


def judge(value: float, earlier: Sequence[float], rule: PruneConfig) -> Verdict:
    """Compare a trial's ``value`` with those of the trials ``earlier`` reached the same point.

    It survives among the first ``rule.warmup`` trials, and later if its place is within the best
    ``ceil(rule.keep * of)``. Nothing is drawn: the same values in the same order give the same verdicts.
    """
    assert not any(math.isnan(one) for one in (value, *earlier))
    sign = 1.0 if rule.direction is Better.maximize else -1.0
    place, of = 1 + sum(sign * one > sign * value for one in earlier), len(earlier) + 1
    # Products such as 0.7 * 10 lie a hair above the whole number that they mean.
    kept = math.ceil(rule.keep * of - 1e-9)
    return Verdict(of <= rule.warmup or place <= kept, place, of)
