"""Rates of stamps that are rounded, that lie, and that jump."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from ssvae.data.frame_rate import frame_rate, say_rate

MS = Fraction(1, 1000)
NTSC = Fraction(30000, 1001)


def rounded(frames: int, fps: Fraction, begin: int = 0) -> NDArray[np.int64]:
    """Stamps in whole milliseconds."""
    return np.array([begin + round(1000 * index / fps) for index in range(frames)], dtype=np.int64)


def test_rounded_stamps_obey_the_rate_they_were_rounded_from() -> None:
    for begin in (0, 1234):
        assert frame_rate(rounded(20000, NTSC, begin), MS, [None, NTSC]) == (NTSC, True)


def test_a_stated_rate_that_lies_gives_way() -> None:
    # Off by a thousandth: nobody sees it in 20 frames, and it is 20 frames after 20000.
    assert frame_rate(rounded(20, NTSC), MS, [Fraction(30), NTSC])[0] == Fraction(30)
    assert frame_rate(rounded(20000, NTSC), MS, [Fraction(30), NTSC]) == (NTSC, True)
    rate, constant = frame_rate(rounded(20000, NTSC), MS, [Fraction(30)])
    assert constant and abs(rate / NTSC - 1) < 1e-6
    assert frame_rate(np.arange(7, 20), Fraction(1, 8), [Fraction(25)]) == (Fraction(8), True)


def test_a_missing_frame_is_not_the_rounding_of_stamps() -> None:
    for unit in (1, 100):
        stamps = unit * np.array([0, 1, 2, 4, 5])
        assert frame_rate(stamps, Fraction(1, 8 * unit), [Fraction(8)]) == (Fraction(32, 5), False)


def test_an_average_that_no_clock_has_is_rounded_to_a_small_fraction() -> None:
    stamps = np.array([0, 1, 1000, 1_000_003])
    rate, constant = frame_rate(stamps, MS, [])
    assert not constant and rate.denominator <= 1001
    assert float(rate) == pytest.approx(3 / 1000.003, rel=1e-5)
    assert frame_rate(np.array([0, 5_000_000]), MS, []) == (Fraction(1, 5000), True)


def test_rates_are_said_exactly() -> None:
    assert say_rate(Fraction(25)) == "25 fps"
    assert say_rate(NTSC) == "30000/1001 = 29.97 fps"
