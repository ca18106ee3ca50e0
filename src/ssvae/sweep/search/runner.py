"""What carries out trials: whatever it is, it is started, asked how things stand, and stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ssvae.sweep.planned import PlannedCell


@dataclass(frozen=True)
class Order:
    """A cell to carry out. key: of this order among those in flight, a plain file name.

    planned: with exactly those stages that are wanted now, in order; finished ones are reused. record: the cell's file
    ``runs/sweeps/NAME/cells/ID.json``; its frozen config lies beside it (``.yaml``).
    """

    key: str
    planned: PlannedCell
    record: Path


@dataclass(frozen=True)
class Outcome:
    """How an order ended. interrupted: by no fault of its own, to be gone on with. reason: why it did not finish."""

    key: str
    status: Literal["finished", "failed", "interrupted"]
    reason: str | None = None


class Runner(Protocol):
    """Carries out orders, ``capacity`` of them at once."""

    @property
    def capacity(self) -> int: ...

    def start(self, order: Order) -> None:
        """Take an order; there is room for it."""
        ...

    def poll(self) -> Sequence[Outcome]:
        """Orders that have ended since the last call. Returns at once, or when one ends."""
        ...

    def stop(self) -> None:
        """End everything politely; what is told of afterwards does not matter."""
        ...
