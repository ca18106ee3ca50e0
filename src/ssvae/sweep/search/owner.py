"""Which driver a running trial belongs to, and whether that driver is still there.

On one machine a process can be looked up. Of another machine only its sign of life can be seen: a file beside the
study that every driver touches.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ssvae.core.alive import Process, this_process

logger = logging.getLogger(__name__)

BEAT_S = 20.0
GRACE_S = 900.0
"""A driver on another machine is given up after a quarter of an hour without a sign of life: a file server may hang for
minutes, and a trial that is taken over too early is computed by two."""


class Owner:
    """This driver's identity, and the thread that keeps its file fresh."""

    def __init__(self, folder: Path) -> None:
        self.tag: dict[str, Any] = this_process()
        self._folder = folder
        self._file = folder / _name(self.tag)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="search-heartbeat", daemon=True)

    def __enter__(self) -> Owner:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file.touch()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._file.unlink(missing_ok=True)

    def is_gone(self, tag: Mapping[str, Any] | None) -> bool:
        """Has the owner of a running trial died? None: the trial's process died before it could write its name."""
        if tag is None:
            return True
        if dict(tag) == self.tag:
            return False
        here = Process(str(tag["host"]), int(tag["pid"]), str(tag["pid_start"])).alive()
        if here is not None:
            return not here
        try:
            seen = (self._folder / _name(tag)).stat().st_mtime
        except FileNotFoundError:
            return True
        # Both times are the file server's: clocks of two machines need not agree.
        self._file.touch()
        return self._file.stat().st_mtime - seen > GRACE_S

    def _work(self) -> None:
        while not self._over.wait(BEAT_S):
            try:
                self._file.touch()
            except OSError as error:
                logger.warning("no sign of life could be left in %s: %s", self._file, error)


def _name(tag: Mapping[str, Any]) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", f"{tag['host']}-{tag['pid']}-{tag['pid_start']}")
