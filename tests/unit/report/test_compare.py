"""Gaps to ``none`` against the spread over seeds, with numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from ssvae.core.types import Direction, MetricValue
from ssvae.report.collect import CellRow
from ssvae.report.compare import compare, spread


def row(
    reg: str, value: float, seed: int = 0, *, status: str = "finished", direction: Direction = "up", channels: int = 48,
    **others: str,
) -> CellRow:  # fmt: skip
    metric = MetricValue("psnr_db", value, "dB", direction, 16, None, "psnr/1")
    fields = {"reg": reg, "channels": channels, "resolution": 32, "seed": seed, **others}
    return CellRow(
        "-".join([reg, str(channels), str(seed), *others.values()]), fields, status, None, {"psnr_db": metric}
    )


def test_spread_uses_finished_finite_values_only() -> None:
    rows = [row("none", 30.0), row("none", 32.0, 1), row("none", 99.0, 2, status="failed"), row("none", math.nan, 3)]
    found = spread(rows, "psnr_db")
    assert found is not None
    assert (found.mean, found.std, found.n) == (31.0, pytest.approx(math.sqrt(2.0)), 2)
    assert spread(rows[2:], "psnr_db") is None


def test_one_seed_gives_a_difference_without_verdict() -> None:
    [found] = compare([row("none", 30.0), row("lcr", 31.0)])
    assert (found.difference, found.noise, found.verdict) == (1.0, None, "seed spread unknown")


@pytest.mark.parametrize(
    ("direction", "lift", "verdict"),
    [
        ("up", 1.9, "inside seed spread"),
        ("up", 2.1, "better"),
        ("up", -2.1, "worse"),
        ("down", 2.1, "worse"),
        ("down", -2.1, "better"),
        ("none", 2.1, "higher"),
        ("none", -2.1, "lower"),
    ],
)
def test_a_gap_counts_only_beyond_the_seed_spread(direction: Direction, lift: float, verdict: str) -> None:
    # Seeds are 2 apart in both settings: each variance is 2, so a difference of two seeds has deviation 2.
    rows = [row(reg, base + seed * 2, seed, direction=direction) for reg, base in (("none", 30), ("lcr", 30 + lift))
            for seed in (0, 1)]  # fmt: skip
    [found] = compare(rows)
    assert found.noise == pytest.approx(2.0)
    assert found.difference == pytest.approx(lift)
    assert found.verdict == verdict


def test_one_known_spread_stands_for_both() -> None:
    [found] = compare([row("none", 30.0), row("none", 32.0, 1), row("lcr", 30.0)])
    assert found.noise == pytest.approx(2.0)


def test_only_like_is_compared_with_like() -> None:
    rows = [row("none", 30.0), row("lcr", 31.0), row("none", 20.0, channels=128), row("lcr", 25.0, channels=128)]
    assert [(d.channels, d.difference) for d in compare(rows)] == [("48", 1.0), ("128", 5.0)]
    assert compare([row("lcr", 31.0), row("none", 20.0, channels=128)]) == []


def test_repetitions_of_a_seed_are_no_spread() -> None:
    found = spread([row("none", 30.0), row("none", 32.0)], "psnr_db")
    assert found is not None
    assert (found.mean, found.std, found.n) == (31.0, None, 1)
    found = spread([row("none", 30.0), row("none", 32.0), row("none", 33.0, 1)], "psnr_db")
    assert found is not None
    assert (found.mean, found.std, found.n) == (32.0, pytest.approx(math.sqrt(2.0)), 2)


def test_other_swept_values_are_no_seeds() -> None:
    rows = [row(reg, value, a=a) for reg, a, value in
            (("none", "1", 30.0), ("none", "2", 40.0), ("lcr", "1", 31.0), ("lcr", "2", 44.0))]  # fmt: skip
    found = compare(rows)
    assert [(d.others, d.baseline, d.difference) for d in found] == [
        ((("a", "1"),), 30.0, 1.0),
        ((("a", "2"),), 40.0, 4.0),
    ]
    assert {(d.noise, d.verdict) for d in found} == {(None, "seed spread unknown")}


def test_a_baseline_need_not_have_the_other_fields_but_may_not_differ_in_them() -> None:
    lcr = row("lcr", 31.0, a="1", b="x")
    assert [d.difference for d in compare([row("none", 30.0), lcr])] == [1.0]
    assert [d.difference for d in compare([row("none", 30.0, b="x"), lcr])] == [1.0]
    assert compare([row("none", 30.0, b="y"), lcr]) == []
    assert compare([row("none", 30.0, c="z"), lcr]) == []
    # The closest baseline counts, whichever comes first.
    both = [row("none", 30.0), row("none", 20.0, a="1")]
    for bases in (both, both[::-1]):
        assert [d.difference for d in compare([*bases, lcr])] == [11.0]
