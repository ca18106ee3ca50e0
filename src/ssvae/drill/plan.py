"""When to kill: places drawn from a seed, spread over the stages of a cell."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SIGNALS = ("KILL", "TERM", "USR2")
POLITE = ("TERM", "USR2")
"""What a scheduler sends first; the process saves and ends by itself."""
LATEST = 0.8
"""No kill is planned behind this share of a stage: it has to arrive before the stage ends."""


@dataclass(frozen=True, slots=True)
class Kill:
    """``signal`` once ``stage`` has logged ``step``; for a stage without steps, after ``share`` of its usual time."""

    signal: str
    stage: str
    step: int | None = None
    share: float | None = None

    @property
    def place(self) -> str:
        """In words."""
        return f"{self.stage} {self.step}" if self.share is None else f"{self.stage} {self.share:.0%}"


def parse_signals(text: str) -> tuple[str, ...]:
    """``KILL,TERM`` -> ("KILL", "TERM"). Raises ValueError for other signals."""
    names = tuple(word.strip().upper().removeprefix("SIG") for word in text.split(","))
    for name in names:
        if name not in SIGNALS:
            raise ValueError(f"--signals {text}: {name or 'an empty name'!r} is none of {', '.join(SIGNALS)}")
    return names


def draw_kills(seed: int, count: int, signals: Sequence[str], steps: Mapping[str, int | None]) -> list[Kill]:
    """``count`` places in the order in which a run reaches them, and ``signals`` in turn.

    steps: updates of each stage, in running order; None for one that does not train. The first kill goes to the last
    stage that trains (the diffusion transformer), the second to a stage that does not train, the others to those that
    train, evenly. Equal arguments give equal places. Raises ValueError when there are not as many places.
    """
    draw = random.Random(seed)
    training = {stage: most for stage, updates in steps.items() if (most := _latest(updates)) > 0}
    others = [stage for stage, updates in steps.items() if updates is None]
    room = sum(training.values()) + min(1, len(others))
    if not 1 <= count <= room:
        raise ValueError(f"--kills {count}: this cell has places for 1 to {room}")
    taken: list[tuple[str, int | None, float | None]] = []
    if training:
        last = list(training)[-1]
        taken.append((last, draw.randint(1, training[last]), None))
    if others and len(taken) < count:
        taken.append((draw.choice(others), None, round(draw.uniform(0.05, LATEST), 3)))
    while len(taken) < count:
        free = [stage for stage, most in training.items() if _kills(taken, stage) < most]
        fewest = min(_kills(taken, stage) for stage in free)
        stage = draw.choice([stage for stage in free if _kills(taken, stage) == fewest])
        place = (stage, draw.randint(1, training[stage]), None)
        # One process must be able to reach every place: two of them at one step would be one.
        if place not in taken:
            taken.append(place)
    order = list(steps)
    taken.sort(key=lambda place: (order.index(place[0]), place[1] or 0))
    return [Kill(signals[number % len(signals)], *place) for number, place in enumerate(taken)]


def draw_again(draw: random.Random, missed: Kill, steps: Mapping[str, int | None]) -> Kill | None:
    """Another place for a kill that came too late. steps: of stages that have not begun; None: there is none."""
    training = {stage: most for stage, updates in steps.items() if (most := _latest(updates)) > 0}
    if training:
        stage = draw.choice(list(training))
        return Kill(missed.signal, stage, draw.randint(1, training[stage]))
    if steps:
        return Kill(missed.signal, draw.choice(list(steps)), None, round(draw.uniform(0.05, 0.5), 3))
    return None


def _kills(taken: Sequence[tuple[str, int | None, float | None]], stage: str) -> int:
    return sum(place[0] == stage for place in taken)


def _latest(updates: int | None) -> int:
    """The last step of a stage at which a kill is planned; 0 for one that does not train."""
    return 0 if updates is None else max(1, int(LATEST * updates))
