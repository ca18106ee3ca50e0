"""What ranks agree on between two steps, where the state is whole: to go on, to stop, or to fail.

One small message a step, and none with a single process. Without it a rank that cannot read its samples, or that is
asked to stop, would leave the others waiting for its part of the next sum.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from ssvae.core.ranks import Ranks
from ssvae.core.stop import ELSEWHERE, Stop

logger = logging.getLogger(__name__)

T = TypeVar("T")
GO_ON, FAIL, STOP = 0, 1, 2
"""In rising order: a stop is carried out although a rank failed, as the state up to here is whole."""
UNREADABLE = (ValueError, OSError, RuntimeError, MemoryError)
"""What data, disks and loader workers raise. Of other errors, which are ours, the rank dies at once."""


class Boundary:
    """The place between two steps of ``ranks``; every rank calls :meth:`draw` there once a step."""

    def __init__(self, ranks: Ranks, stop: Stop, device: torch.device | str) -> None:
        self._ranks, self._stop, self._device = ranks, stop, device

    def draw(self, take: Callable[[], T]) -> T | None:
        """What ``take`` gives this rank for the next step; None, on every rank, once any was asked to stop.

        Raises, on every rank, what ``take`` raises on one: that rank its own error; the others a ValueError with the
        same text, or a RuntimeError that names rank and error where it was none.
        """
        taken: T | None = None
        failure: Exception | None = None
        if not self._stop.asked:
            try:
                taken = take()
            except UNREADABLE as error:
                failure = error
        wish = STOP if self._stop.asked else GO_ON if failure is None else FAIL
        agreed = self._ranks.largest(wish, self._device)
        if agreed == STOP:
            if failure is not None:
                logger.warning("stopping; the next samples could not be read: %s: %s", type(failure).__name__, failure)
            self._stop.ask(ELSEWHERE)
            return None
        if agreed == FAIL:
            raise self._told(failure)
        return taken

    def _told(self, failure: Exception | None) -> Exception:
        """The error to raise here."""
        told = None if failure is None else (isinstance(failure, ValueError), type(failure).__name__, str(failure))
        reports = self._ranks.gather(told)
        if failure is not None:
            return failure
        rank, report = next((rank, report) for rank, report in enumerate(reports) if report is not None)
        users, name, text = report
        return ValueError(text) if users else RuntimeError(f"rank {rank} could not go on: {name}: {text}")
