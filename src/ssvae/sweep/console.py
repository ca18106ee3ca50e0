"""What a person sees: progress of the running stage, the plan, the problems."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ssvae.sweep.planned import PlannedCell

COLOURS = {"reuse": "green", "share": "green", "resume": "yellow", "compute": "cyan"}
QUIET_S = 15.0


def make_console() -> Console:
    """One console for everything; wide enough for the table when there is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


class RichProgress:
    """A live bar on a terminal; elsewhere a line at the start of each piece of work and every 15 seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._what, self._total, self._last = "", 0, 0.0

    def __enter__(self) -> RichProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def pause(self) -> None:
        """Leave the terminal to another live display."""
        self._bar.stop()

    def start(self, what: str, total: int, done: int = 0) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(escape(what), total=total, completed=done, note="")
        self._what, self._total, self._last = what, total, time.monotonic()
        if not self._console.is_terminal:
            self._console.print(f"{what} ({done}/{total})", markup=False)

    def advance(self, done: int, note: str = "") -> None:
        assert self._task is not None, "advance before start"
        if note:
            self._bar.update(self._task, completed=done, note=note)
        else:
            self._bar.update(self._task, completed=done)
        if not self._console.is_terminal and time.monotonic() - self._last > QUIET_S:
            self._last = time.monotonic()
            self._console.print(f"{self._what} {done}/{self._total} {note}", markup=False)


def print_plan(
    console: Console, name: str, cells: Sequence[PlannedCell], decisions: Sequence[Mapping[str, str]], root: Path
) -> None:
    """Which stages this call reuses, resumes, computes, or shares with a cell above."""
    stages = list(dict.fromkeys(stage for row in decisions for stage in row))
    table = Table(title=f"sweep {name}: {len(cells)} cell{'s' if len(cells) > 1 else ''}", title_justify="left")
    table.add_column("cell")
    for stage in stages:
        table.add_column(stage)
    for one, row in zip(cells, decisions, strict=True):
        words = [f"[{COLOURS[row[stage]]}]{row[stage]}[/]" if stage in row else "" for stage in stages]
        table.add_row(escape(one.label), *words)
    console.print(table)
    counts = [decision for row in decisions for decision in row.values()]
    summary = ", ".join(f"{counts.count(word)} {word}" for word in ("compute", "resume", "reuse", "share"))
    line = f"stages: {summary} (share: computed by a cell above); run folders in {root / 'runs'}"
    console.print(line, markup=False, soft_wrap=True)


def print_problems(problems: Sequence[str], headline: str = "no cell was run:") -> None:
    """One problem a line, to stderr."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[bold red]{len(problems)} problem{'s' if len(problems) > 1 else ''}; {headline}[/]")
    for line in problems:
        console.print(f"  {line}", markup=False)
