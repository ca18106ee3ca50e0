"""Places of kills: seeded, within bounds, spread over the stages."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from ssvae.drill.plan import LATEST, Kill, draw_again, draw_kills, parse_signals

STEPS = {"base": 40, "pretrain": 40, "measure": None, "latents": None, "dit": 160, "probe": None}
SIGNALS = ("KILL", "TERM", "USR2")


@pytest.mark.parametrize("seed", range(20))
def test_places_are_within_bounds_and_in_running_order(seed: int) -> None:
    kills = draw_kills(seed, 7, SIGNALS, STEPS)
    order = list(STEPS)
    assert [(order.index(kill.stage), kill.step or 0) for kill in kills] == sorted(
        {(order.index(kill.stage), kill.step or 0) for kill in kills}
    )
    for kill in kills:
        steps = STEPS[kill.stage]
        if steps is None:
            assert kill.step is None
            assert kill.share is not None and 0 < kill.share <= LATEST
        else:
            assert kill.share is None
            assert kill.step is not None and 1 <= kill.step <= LATEST * steps
    assert [kill.signal for kill in kills] == [SIGNALS[number % 3] for number in range(7)]


def test_a_seed_gives_the_same_places_and_another_seed_others() -> None:
    assert draw_kills(3, 6, SIGNALS, STEPS) == draw_kills(3, 6, SIGNALS, STEPS)
    assert len({tuple(draw_kills(seed, 6, SIGNALS, STEPS)) for seed in range(10)}) == 10


def test_the_transformer_comes_first_then_a_stage_without_steps_then_the_rest_evenly() -> None:
    for seed in range(10):
        assert draw_kills(seed, 1, SIGNALS, STEPS)[0].stage == "dit"
        two = [kill.stage for kill in draw_kills(seed, 2, SIGNALS, STEPS)]
        assert "dit" in two and len({"measure", "latents", "probe"} & set(two)) == 1
        nine = Counter(kill.stage for kill in draw_kills(seed, 10, SIGNALS, STEPS))
        assert (nine["base"], nine["pretrain"], nine["dit"]) == (3, 3, 3)


def test_more_kills_than_places_are_refused() -> None:
    few = {"base": 2, "measure": None}
    assert draw_kills(0, 2, SIGNALS, few)[0].place == "base 1"
    for count in (0, 3):
        with pytest.raises(ValueError, match=f"--kills {count}: .* 1 to 2"):
            draw_kills(0, count, SIGNALS, few)


def test_a_kill_that_came_too_late_is_planned_in_what_is_left() -> None:
    late = Kill("TERM", "base", 30)
    for seed in range(10):
        again = draw_again(random.Random(seed), late, {"latents": None, "dit": 160})
        assert again is not None
        assert (again.signal, again.stage) == ("TERM", "dit")
        assert again.step is not None and 1 <= again.step <= LATEST * 160
    last = draw_again(random.Random(0), late, {"probe": None})
    assert last is not None and last.stage == "probe" and last.share is not None
    assert draw_again(random.Random(0), late, {}) is None


def test_signals_are_read_in_any_spelling_and_others_refused() -> None:
    assert parse_signals("kill, SIGUSR2,TERM") == ("KILL", "USR2", "TERM")
    for text in ("HUP", "KILL,", ""):
        with pytest.raises(ValueError, match="none of KILL, TERM, USR2"):
            parse_signals(text)
