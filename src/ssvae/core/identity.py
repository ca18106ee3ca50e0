"""What makes two pieces of work the same: canonical hashes, and where a result came from.

Identity is a hash of the scientific values, the content that is read, component versions, parents and seed. Where
files lie, how a job was launched and how it is tracked do not count; the commit is provenance, not identity.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

ID_LENGTH = 12
FROZEN = ".frozen.json"
"""In a copy of the code that was taken for jobs: commit and dirty flag of the tree it was taken from."""
_PACKAGES = ("torch", "numpy", "av", "accelerate", "hydra-core", "mlflow", "optuna", "webdataset")


def canonical(value: Any) -> str:
    """JSON with sorted keys and shortest exact floats; an integral float equals the integer (1.0 == 1)."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no place in an identity: {value!r}")


def fingerprint(value: Any, length: int = ID_LENGTH) -> str:
    """Hex SHA-256 of :func:`canonical`, cut to ``length`` characters."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def git_state(root: Path) -> dict[str, Any]:
    """{"commit": str | None, "dirty": bool | None} of the checkout at ``root``; None where there is no git.

    A frozen copy (sweep/freeze.py) speaks of the tree it was taken from, not of a repository around it.
    """
    if (root / FROZEN).exists():
        frozen = json.loads((root / FROZEN).read_text(encoding="utf-8"))
        return {"commit": frozen["commit"], "dirty": frozen["dirty"]}

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def provenance(root: Path) -> dict[str, Any]:
    """Commit, package versions and machine, for ``run.json``."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    machine = {"system": platform.system(), "processor": platform.machine(), "python": platform.python_version()}
    return {**git_state(root), "versions": versions, "machine": machine}
