"""Count and name the samples that could not be used, and stop when they are too many."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

logger = logging.getLogger(__name__)

Reject = tuple[str, str]
"""(key of the sample, reason out of :data:`ssvae.data.pixels.REASONS`)."""


class RejectLog:
    """Rejected samples by reason and by name.

    limit: share of all attempts that may fail, in [0, 1]. minimum: attempts before the share is judged, so that one
    bad clip at the start stops nothing.
    """

    def __init__(self, limit: float = 0.1, minimum: int = 50) -> None:
        if not 0 <= limit <= 1:
            raise ValueError(f"data.reject_share={limit} is a share: give a number in [0, 1]")
        self.limit = limit
        self.minimum = minimum
        self.accepted = 0
        self.rejected = 0
        self.reasons: dict[str, str] = {}

    def add(self, accepted: int, rejects: Iterable[Reject]) -> None:
        """Count ``accepted`` good samples and the ``rejects``; raises ValueError when the share is above the limit.

        Each clip is named in the log once, however often it is drawn.
        """
        self.accepted += accepted
        for key, reason in rejects:
            self.rejected += 1
            if key not in self.reasons:
                self.reasons[key] = reason
                logger.warning("data: rejected %s (%s)", key, reason)
        attempts = self.accepted + self.rejected
        if self.rejected and attempts >= self.minimum and self.rejected > self.limit * attempts:
            raise ValueError(
                f"data: {self.rejected} of {attempts} samples were rejected, more than data.reject_share="
                f"{self.limit:g} allows ({self.describe()}): repair or remove them, or raise data.reject_share"
            )

    def counts(self) -> dict[str, int]:
        """Number of different samples by reason."""
        return dict(sorted(Counter(self.reasons.values()).items()))

    def describe(self, names: int = 3) -> str:
        """One line: each reason with its count and up to ``names`` samples."""
        parts = []
        for reason, count in self.counts().items():
            keys = [key for key, why in self.reasons.items() if why == reason]
            parts.append(f"{reason} {count}: {', '.join(keys[:names])}{', ...' if count > names else ''}")
        return "; ".join(parts)

    def state(self) -> dict[str, Any]:
        """JSON-ready state, for a checkpoint."""
        return {"accepted": self.accepted, "rejected": self.rejected, "reasons": dict(self.reasons)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.accepted = int(state["accepted"])
        self.rejected = int(state["rejected"])
        self.reasons = dict(state["reasons"])
