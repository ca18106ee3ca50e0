"""A folder that is either whole or absent."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of ``target``, if there is one, when the block ends without an error.

    After an error ``target`` is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        content = building / "new"
        content.mkdir()
        yield content
        _swap(content, target, building / "old")
    finally:
        shutil.rmtree(building)


def _swap(content: Path, target: Path, old: Path) -> None:
    """Put ``content`` in the place of ``target``, which goes to ``old``, or comes back if that fails."""
    if target.exists():
        target.rename(old)
    try:
        content.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
