"""How long work tells where it is: one small protocol, no library behind it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told by loops and passes; shows, logs or ignores."""

    def start(self, what: str, total: int, done: int = 0) -> None:
        """A piece of work of ``total`` units begins, ``done`` of them already there."""
        ...

    def advance(self, done: int, note: str = "") -> None:
        """``done`` units are there now."""
        ...


class Silent:
    """Shows nothing."""

    def start(self, what: str, total: int, done: int = 0) -> None:
        return None

    def advance(self, done: int, note: str = "") -> None:
        return None
