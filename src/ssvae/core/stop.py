"""A polite request to stop: a signal sets a flag, and the work ends where it can be gone on from.

Nothing is saved inside a signal handler: it may run in the middle of an update. Loops ask at step boundaries, where all
ranks agree to stop behind the same step (train/boundary.py); passes without a state of their own stop at their next
sign of life (:class:`Stoppable`).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ssvae.core.progress import Progress

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""What schedulers send before they kill: on pre-emption, and some time before the limit."""

ELSEWHERE = "another rank was asked to stop"
"""The reason on ranks that were not asked themselves."""


class Interrupted(Exception):
    """Work stopped because it was asked to; what was done so far is saved. The text names the signal."""


class Stop:
    """Whether this process was asked to stop, and by what."""

    def __init__(self) -> None:
        # Plain attributes: a handler that took a lock could interrupt its own holder, and wait for ever.
        self._asked = False
        self.reason: str | None = None

    @property
    def asked(self) -> bool:
        """Was this process asked to? Other ranks may not have been yet."""
        return self._asked

    def ask(self, reason: str) -> None:
        """Ask for it from inside the program; the first reason is kept."""
        self.reason = self.reason or reason
        self._asked = True

    def interrupt(self) -> Interrupted:
        """The exception to raise once everything is saved."""
        return Interrupted(self.reason or "asked to stop")

    @contextmanager
    def on_signals(self, signals: Sequence[int] = SIGNALS) -> Iterator[None]:
        """Set the flag when one of ``signals`` arrives (main thread only); the former handlers come back at the end."""

        def handler(number: int, frame: FrameType | None) -> None:
            self.ask(f"signal {signal.Signals(number).name}")

        before = {number: signal.signal(number, handler) for number in signals}
        try:
            yield
        finally:
            for number, former in before.items():
                # None: set by something other than Python, which cannot be put back from here.
                signal.signal(number, signal.SIG_DFL if former is None else former)


NEVER = Stop()
"""For work that nobody asks to stop."""


class Stoppable:
    """A progress that ends its work, by :class:`Interrupted`, at the next sign of life after a request to stop.

    For passes that start afresh or keep what they have done by themselves; a training loop asks at step boundaries
    instead, where its state is whole and ranks can agree.
    """

    def __init__(self, progress: Progress, stop: Stop) -> None:
        self._progress = progress
        self._stop = stop

    def start(self, what: str, total: int, done: int = 0) -> None:
        self._check()
        self._progress.start(what, total, done)

    def advance(self, done: int, note: str = "") -> None:
        self._progress.advance(done, note)
        self._check()

    def _check(self) -> None:
        if self._stop.asked:
            raise self._stop.interrupt()
