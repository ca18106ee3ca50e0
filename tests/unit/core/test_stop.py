"""A signal only sets a flag; passes end at their next sign of life."""

from __future__ import annotations

import os
import signal

import pytest

from ssvae.core.progress import Silent
from ssvae.core.stop import SIGNALS, Interrupted, Stop, Stoppable


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sets_the_flag_and_nothing_else(number: signal.Signals) -> None:
    stop = Stop()
    before = {one: signal.getsignal(one) for one in SIGNALS}
    with stop.on_signals():
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked
        os.kill(os.getpid(), SIGNALS[0])  # impatient schedulers ask again
    assert stop.reason == f"signal {number.name}", "the first reason is kept"
    assert {one: signal.getsignal(one) for one in SIGNALS} == before
    assert str(stop.interrupt()) == f"signal {number.name}"


def test_former_handlers_come_back_after_an_error_too() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), Stop().on_signals():
        assert signal.getsignal(signal.SIGTERM) != before
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_first_reason_is_kept() -> None:
    stop = Stop()
    assert str(stop.interrupt()) == "asked to stop"
    stop.ask("enough")
    stop.ask("later")
    assert (stop.asked, str(stop.interrupt())) == (True, "enough")


def test_a_pass_ends_at_its_next_sign_of_life_and_what_was_done_is_told_first() -> None:
    told: list[int] = []

    class Noted(Silent):
        def advance(self, done: int, note: str = "") -> None:
            told.append(done)

    stop = Stop()
    progress = Stoppable(Noted(), stop)
    progress.start("encode", 3)
    progress.advance(1)
    stop.ask("signal SIGTERM")
    with pytest.raises(Interrupted, match="signal SIGTERM"):
        progress.advance(2)
    assert told == [1, 2]
    with pytest.raises(Interrupted):
        progress.start("encode the other side", 3)
