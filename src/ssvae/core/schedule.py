"""Learning-rate curves as pure functions of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from typing import Literal

Curve = Literal["constant", "cosine", "one_cycle"]


def learning_rate(
    step: int, *, curve: Curve, peak: float, warmup: int, start: float, end: float, decay_steps: int
) -> float:
    """Rate of update ``step`` (0-based).

    Linear from ``start`` to ``peak`` over ``warmup`` updates, then: ``constant`` stays; ``cosine`` falls to ``end``
    along half a cosine that reaches it at ``decay_steps`` (counted from step 0) and stays there (the schedule of the
    official SSVAE code: 2e-6 -> 5e-5 over 1,000, cosine to 2e-6 at 600,000); ``one_cycle`` is a cosine rise and a
    cosine fall over the same points.
    """
    if step < warmup:
        share = step / warmup
        if curve == "one_cycle":
            share = 0.5 - 0.5 * math.cos(math.pi * share)
        return start + (peak - start) * share
    if curve == "constant":
        return peak
    share = min(1.0, (step - warmup) / max(1, decay_steps - warmup))
    return end + 0.5 * (peak - end) * (1.0 + math.cos(math.pi * share))
