"""Where a study lies on disk: SQLite, or a journal for file systems on which SQLite is not safe."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalStorage

from ssvae.config.search import StorageName

logger = logging.getLogger(__name__)

FILES = {StorageName.sqlite: "optuna.db", StorageName.journal: "optuna.journal"}
_BUSY_S = 60


def open_storage(folder: Path, kind: StorageName) -> BaseStorage:
    """The storage in ``folder``, created if need be. Call it under the study's lock: SQLite's tables are made once."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / FILES[kind]).absolute()
    if kind is StorageName.journal:
        repair_journal(path)
        return JournalStorage(JournalFileBackend(str(path)))
    return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": _BUSY_S}})


def repair_journal(path: Path) -> None:
    """Cut off a line that a killed writer left unfinished: the next one would be glued to it, and both unreadable.

    Call it under the study's lock, when nobody writes.
    """
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        logger.warning("%s ended in the middle of a line: that entry is dropped", path)
        file.truncate(whole)


def dashboard_uri(folder: Path, kind: StorageName) -> str:
    """What ``optuna-dashboard`` takes."""
    path = folder / FILES[kind]
    return f"sqlite:///{path}" if kind is StorageName.sqlite else str(path)
