"""Arithmetic of paired timing, with a clock that moves only when the work says so."""

from __future__ import annotations

import pytest

from ssvae.bench.timing import Paired, time_pairs


class FakeClock:
    """Work advances it; every call is noted."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, *seconds: float) -> None:
        """Register a call that takes the next of ``seconds``, then the last one for ever."""
        self.calls.append(name)
        count = self.calls.count(name) - 1
        self.now += seconds[min(count, len(seconds) - 1)]


def test_turns_and_paired_ratios() -> None:
    clock = FakeClock()
    # Two unmeasured calls each, then three pairs: 2/1, 9/3, 8/2.
    times = time_pairs(
        lambda: clock.work("A", 50.0, 50.0, 1.0, 3.0, 2.0),
        lambda: clock.work("B", 50.0, 50.0, 2.0, 9.0, 8.0),
        budget_s=0.0,
        clock=clock,
    )
    assert clock.calls == ["A", "A", "B", "B", *"ABABAB"]
    assert times.fast == (1.0, 3.0, 2.0) and times.naive == (2.0, 9.0, 8.0)
    assert times.ratios == (2.0, 3.0, 4.0)
    assert times.ratio == 3.0  # the ratio of the medians would be 4
    assert times.seconds == 2.0 and times.naive_seconds == 8.0


def test_drift_cancels() -> None:
    """A machine that gets slower hits both sides of a pair: the paired ratio stays."""
    slower = [1.0 * 1.5**n for n in range(20)]
    clock = FakeClock()
    times = time_pairs(
        lambda: clock.work("A", *slower),
        lambda: clock.work("B", *(2 * s for s in slower)),
        budget_s=1e9,
        most=9,
        clock=clock,
    )
    assert times.ratios == pytest.approx([2.0] * 9)
    assert times.naive[-1] / times.fast[0] > 20


def test_budget_ends_it_but_not_before_the_least() -> None:
    def run(budget_s: float, **limits: int) -> int:
        clock = FakeClock()
        paired = time_pairs(
            lambda: clock.work("A", 1.0), lambda: clock.work("B", 3.0), budget_s=budget_s, clock=clock, **limits
        )
        return len(paired.ratios)

    assert run(0.0) == 3
    assert run(20.0) == 5  # 4 s a pair: after 5 pairs 20 s are spent
    assert run(20.0, most=4) == 4
    assert run(0.0, least=1) == 1


def test_short_calls_are_repeated_within_a_stretch() -> None:
    clock = FakeClock()
    times = time_pairs(
        lambda: clock.work("A", 0.25), lambda: clock.work("B", 2.0), budget_s=0.0, least=1, stretch_s=1.0, clock=clock
    )
    assert "".join(clock.calls) == "AABBAAAAB"
    assert times.fast == (0.25,) and times.naive == (2.0,)


def test_empty_or_lame_pairs_are_refused() -> None:
    for fast, naive in (((), ()), ((1.0,), (1.0, 2.0)), ((0.0,), (1.0,))):
        with pytest.raises(AssertionError):
            Paired(fast, naive)
