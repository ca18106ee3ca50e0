"""How far a stage is, from its run folder: the heartbeat of the process that runs it, else its last logged step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ssvae.core.heartbeat import FILE

STALE_S = 120.0
"""A heartbeat comes every few seconds: one as old as this is no sign of life."""
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Pace:
    """The heartbeat of a running stage (:mod:`ssvae.core.heartbeat`).

    done, total: units of what is being done. rate: units a second, None at first. time_ms: when it was written,
    milliseconds since 1970.
    """

    what: str
    done: int
    total: int
    rate: float | None
    time_ms: int

    @property
    def unit(self) -> str:
        """``step`` for trainings, empty for other work."""
        return "step" if self.what.startswith("train") else ""

    @property
    def left_s(self) -> float | None:
        """Seconds until ``total``, at this rate."""
        return (self.total - self.done) / self.rate if self.rate else None

    def text(self) -> str:
        """Such as ``step 120 of 1000, 3.2 steps/s, 5 min left in this stage``."""
        at = f"{self.unit or self.what} {self.done} of {self.total}"
        if self.rate is None:
            return at
        speed = f"{number(self.rate)} {self.unit + 's' if self.unit else ''}/s".replace(" /", "/")
        left = self.left_s
        # Work beside a training comes in pieces, each counted by itself.
        of = "stage" if self.unit else "part"
        return f"{at}, {speed}" + (f", {span(left)} left in this {of}" if left is not None else "")


def read_pace(folder: Path, since_ms: int = 0) -> Pace | None:
    """The heartbeat in a stage's folder, None where there is none (not running, or not yet).

    since_ms: when the process began that runs the stage now; what an earlier one has left has no rate any more.
    """
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        rate = found["rate"]
        when = int(found["time_ms"])
        speed = None if rate is None or when < since_ms else float(rate)
        return Pace(str(found["what"]), int(found["done"]), int(found["total"]), speed, when)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        return None  # a display does not die of one unreadable number; the next heartbeat writes it anew


def last_step(steps: Path) -> int | None:
    """The step of the last whole line of a ``steps.jsonl``, reading only its end; None where there is none."""
    if not steps.exists():
        return None
    with steps.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().split(b"\n")
    # The last piece is empty or still being written.
    for line in reversed(lines[:-1]):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            return int(record["step"])
    return None


def position(folder: Path, since_ms: int = 0) -> str:
    """How far the stage of ``folder`` is, in words; since_ms: as of :func:`read_pace`."""
    pace = read_pace(folder, since_ms)
    if pace is not None:
        return pace.text()
    step = last_step(folder / "steps.jsonl")
    return "not started" if not folder.exists() else "no step yet" if step is None else f"step {step}"


def last_sign_ms(folder: Path) -> int | None:
    """When the stage last did something, milliseconds since 1970: heartbeat, logged step, checkpoint, start."""
    written = [int(path.stat().st_mtime * 1000) for path in map(folder.joinpath, _SIGNS) if path.exists()]
    pace = read_pace(folder)
    return max([*written, *([pace.time_ms] if pace is not None else [])], default=None)


_SIGNS = ("steps.jsonl", "checkpoint.pt", "run.json")


def span(seconds: float) -> str:
    """A duration in one unit."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def times(count: int, word: str) -> str:
    """``requeued 2 times``."""
    return f"{word} once" if count == 1 else f"{word} {count} times"
