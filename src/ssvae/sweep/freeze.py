"""The code that jobs run: a copy of the working tree as it was when they were submitted.

``runs/code/<digest>/`` holds ``src``, ``conf``, ``sweeps`` and the entry files, named by their content, so that many
sweeps share one copy and editing the working tree changes nothing that waits in a queue.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssvae.core.files import write_json
from ssvae.core.identity import FROZEN, ID_LENGTH, file_sha256, git_state

PARTS = ("src", "conf", "sweeps", "run.py", "pyproject.toml")
_SKIPPED = ("__pycache__", ".egg-info")


def freeze_code(project: Path, root: Path) -> Path:
    """Copy the code of ``project`` to ``<root>/runs/code/<digest>`` unless it is there; returns that folder.

    The copy appears whole or not at all, also when several processes make it at once, and carries commit and dirty flag
    of the tree it was taken from. Raises ValueError for a tree without code, and for a copy that was changed since.
    """
    paths = sorted(_files(project))
    if not any(path.suffix == ".py" for path in paths):
        raise ValueError(f"{project}: has no src/ to submit: run from a checkout of the project")
    place = root / "runs" / "code" / _digest(project, paths)
    if not place.exists():
        return _copy(project, paths, place.parent)
    _check(place)
    return place


def _copy(project: Path, paths: Sequence[Path], codes: Path) -> Path:
    state = git_state(project)  # before anything is written, which may lie inside the project
    codes.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=codes, prefix=".new."))
    try:
        for path in paths:
            target = temporary / path.relative_to(project)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target, follow_symlinks=False)
        # Named by what was copied: the tree may have been edited meanwhile.
        name = _digest(temporary, sorted(_files(temporary)))
        place = codes / name
        write_json(temporary / FROZEN, {"digest": name, **state})
        temporary.chmod(0o755)
        try:
            temporary.rename(place)
        except OSError:
            # Another process was first: its copy has the same content, or the name would differ.
            _check(place)
        return place
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _digest(tree: Path, paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        content = str(path.readlink()) if path.is_symlink() else file_sha256(path)
        digest.update(f"{path.relative_to(tree)} {content}\n".encode())
    return digest.hexdigest()[:ID_LENGTH]


def _check(place: Path) -> None:
    """Is a copy of earlier still what its name says?"""
    if not (place / FROZEN).exists() or _digest(place, sorted(_files(place))) != place.name:
        raise ValueError(f"{place}: is no longer the code that was put there; remove it, and submit again")


def _files(project: Path) -> Iterator[Path]:
    for part in PARTS:
        top = project / part
        if top.is_file():
            yield top
        for folder, names, files in os.walk(top):
            here = Path(folder)
            # A link to a folder is kept as a link: conf/sweep points to sweeps.
            yield from (here / name for name in names if (here / name).is_symlink())
            names[:] = [name for name in names if not name.endswith(_SKIPPED) and not name.startswith(".")]
            yield from (here / name for name in files if not name.startswith("."))
