"""The rate of a video from when its frames are shown, as an exact fraction.

Dimension legend
    n frames    stamps (n,) int64, ascending, in units of the stream's time base (seconds a unit)
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

FINE_UNITS = 4
"""Units a frame from which on a stamp that is off by one is a rounded one, and not another time."""


def frame_rate(
    stamps: NDArray[np.int64], time_base: Fraction, stated: Sequence[Fraction | None]
) -> tuple[Fraction, bool]:
    """(fps, whether it is constant) of frames shown at ``stamps`` (n,), n >= 2, ascending with a span above 0.

    The first of the ``stated`` rates that all stamps obey is believed, else the average (n - 1)/span, as the nearest
    fraction with a denominator <= 1001; it is constant if the stamps obey it. To obey is to be where the rate puts the
    frame, or off by the one unit that stamps are rounded to where a frame lasts several units but no whole number.
    """
    elapsed = stamps - stamps[0]
    exact = Fraction(len(stamps) - 1) / (int(elapsed[-1]) * time_base)
    average = exact.limit_denominator(1001) or exact
    for rate in (*stated, average):
        if not rate:
            continue
        step = 1 / (rate * time_base)
        rounded = step.denominator > 1 and step >= FINE_UNITS
        if np.abs(elapsed - np.arange(len(stamps)) * float(step)).max() <= rounded + 1e-6:
            return rate, True
    return average, False


def say_rate(fps: Fraction) -> str:
    """``25 fps`` or ``30000/1001 = 29.97 fps``."""
    return f"{fps} fps" if fps.denominator == 1 else f"{fps} = {float(fps):.6g} fps"
