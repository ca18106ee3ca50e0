"""How far a run is, read from its folders: what a kill waits for, and what it cost."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ssvae.core.files import read_json
from ssvae.drill.plan import Kill
from ssvae.train.state import load_checkpoint


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a stage. log: number of the file ``steps.jsonl``, another one whenever a process has opened it."""

    attempts: int
    log: int | None
    lines: int
    done: bool


def look(folder: Path) -> Seen:
    """What the run folder of a stage shows at this moment; it need not exist yet."""
    try:
        with (folder / "steps.jsonl").open("rb") as file:
            log: int | None = os.fstat(file.fileno()).st_ino
            lines = file.read().count(b"\n")
    except FileNotFoundError:
        log, lines = None, 0
    return Seen(attempts(folder), log, lines, (folder / "done.json").exists())


def attempts(folder: Path) -> int:
    """How often the stage was begun."""
    try:
        return int(read_json(folder / "run.json")["attempts"])
    except FileNotFoundError:
        return 0


def saved_step(folder: Path) -> int:
    """The step that the next process goes on from."""
    saved = load_checkpoint(folder)
    return 0 if saved is None else int(saved["step"])


class Watch:
    """Looks at some stages of one run, over all processes that work at them.

    folders: of the stages, by name, in running order. seconds: how long each took undisturbed.
    """

    def __init__(self, folders: Mapping[str, Path], seconds: Mapping[str, float]) -> None:
        self.folders = dict(folders)
        self._seconds = seconds
        # The first process may be at work already.
        self._before = dict.fromkeys(self.folders, Seen(0, None, 0, False))
        self._begun: dict[str, float] = {}
        self.resumed: dict[str, int] = {}
        """Lines of each ``steps.jsonl`` when it was first seen in the hands of the current process."""

    def next_process(self) -> None:
        """Remember what is there: only what changes from now on is the work of the next process."""
        self._before = {stage: look(folder) for stage, folder in self.folders.items()}
        self._begun, self.resumed = {}, {}

    def update(self) -> None:
        """Look at everything that can have changed. Call it often: what is seen late was missed."""
        for stage, folder in self.folders.items():
            if self._before[stage].done or (stage in self.resumed and stage in self._begun):
                continue
            now, before = look(folder), self._before[stage]
            if now.attempts > before.attempts:
                self._begun.setdefault(stage, time.monotonic())
            if now.log is not None and now.log != before.log:
                self.resumed.setdefault(stage, now.lines)

    def reached(self, kill: Kill) -> bool:
        """Is the current process where ``kill`` waits for it?"""
        self.update()
        if kill.step is not None:
            # The log of the process before may be longer than what this one has done.
            return kill.stage in self.resumed and look(self.folders[kill.stage]).lines >= kill.step
        begun = self._begun.get(kill.stage)
        assert kill.share is not None, kill
        return begun is not None and time.monotonic() - begun >= kill.share * self._seconds[kill.stage]

    def finished(self, stage: str) -> bool:
        return (self.folders[stage] / "done.json").exists()

    def running(self) -> str | None:
        """The stage that was begun and is not done; None between two stages."""
        for stage, folder in self.folders.items():
            if attempts(folder) and not self.finished(stage):
                return stage
        return None

    def untouched(self) -> list[str]:
        """Stages that nobody has begun."""
        return [stage for stage, folder in self.folders.items() if not attempts(folder)]
