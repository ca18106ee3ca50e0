"""What became of every kill."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ssvae.drill.plan import Kill, draw_again
from ssvae.drill.watch import Watch, look, saved_step

UNPLANNED = "none of ours"
"""In place of a signal: the scheduler itself has interrupted the job."""


class DrillError(RuntimeError):
    """The drill itself could not go on; the text says what happened."""


@dataclass(slots=True)
class Hit:
    """A kill that ended a process.

    how: how the process ended. itself: did it end by itself, as one does that was asked politely? stage: what was
    running, None between two stages. logged: last step in ``steps.jsonl``, saved: step of the checkpoint (0: none),
    both None for a stage that does not train. resumed: lines of ``steps.jsonl`` when it was first seen in the next
    process's hands.
    """

    signal: str
    planned: str
    how: str
    itself: bool
    stage: str | None
    logged: int | None = None
    saved: int | None = None
    resumed: int | None = None

    @property
    def lost(self) -> int:
        """Steps that had to be computed again."""
        return 0 if self.logged is None or self.saved is None else self.logged - self.saved

    def __str__(self) -> str:
        where = "between two stages" if self.stage is None else f"in {self.stage}"
        steps = "" if self.logged is None else f" behind step {self.logged}, saved {self.saved}, lost {self.lost}"
        return f"{self.signal} ({self.planned}): ended ({self.how}) {where}{steps}"


class Ledger:
    """Kills still to be carried out, those that hit, those that came too late.

    order: steps of each stage (None: it does not train), in running order. told: hears of each hit and miss.
    """

    def __init__(
        self, kills: Sequence[Kill], order: Mapping[str, int | None], seed: int, told: Callable[[str], None]
    ) -> None:
        self.asked = len(kills)
        self.pending = list(kills)
        self.hits: list[Hit] = []
        self.late: list[Kill] = []
        self._order = dict(order)
        self._draw = random.Random(f"{seed}/again")
        self._told = told

    def next_for(self, stages: Sequence[str]) -> Kill | None:
        """The next kill that one of ``stages`` waits for."""
        return next((kill for kill in self.pending if kill.stage in stages), None)

    def missed(self, kill: Kill, untouched: Sequence[str]) -> None:
        """``kill`` came too late: it is planned again in one of the ``untouched`` stages, if there are any."""
        self.pending.remove(kill)
        self.late.append(kill)
        again = draw_again(self._draw, kill, {name: self._order[name] for name in self._order if name in untouched})
        where = "nowhere is left for it" if again is None else f"again: {again.place}"
        self._told(f"{kill.signal} ({kill.place}): came too late; {where}")
        if again is not None:
            self.pending.append(again)
            places = list(self._order)
            self.pending.sort(key=lambda one: (places.index(one.stage), one.step or 0))

    def hit(self, kill: Kill | None, how: str, itself: bool, watch: Watch) -> None:
        """A process has ended by ``kill`` (None: by somebody else's). Call it before the next one can have begun."""
        stage = watch.running()
        found = Hit(kill.signal if kill else UNPLANNED, kill.place if kill else "not planned", how, itself, stage)
        if stage is not None and self._order[stage] is not None:
            folder = watch.folders[stage]
            found.logged, found.saved = look(folder).lines, saved_step(folder)
        self.hits.append(found)
        if kill is not None:
            self.pending.remove(kill)
        self._told(str(found))

    def resumed(self, watch: Watch) -> None:
        """Note where the current process took up what the one before has left."""
        for hit in self.hits:
            if hit.resumed is None and hit.stage in watch.resumed:
                hit.resumed = watch.resumed[hit.stage]

    @property
    def planned_hits(self) -> list[Hit]:
        return [hit for hit in self.hits if hit.signal != UNPLANNED]
