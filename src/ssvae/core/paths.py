"""Where things lie: the project's folder, the root of results, and caches that must not leave it."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
"""The checkout that this package runs from."""


def project_root() -> Path:
    """Where ``runs/`` and ``results/`` are written: $SSVAE_ROOT, else the project's folder."""
    return Path(os.environ.get("SSVAE_ROOT") or PROJECT).absolute()


def keep_caches_inside() -> None:
    """Point libraries that write caches into the home folder to ``runs/.cache``; call before they are imported."""
    cache = project_root() / "runs" / ".cache"
    os.environ.setdefault("MPLCONFIGDIR", str(cache / "matplotlib"))
    os.environ.setdefault("HF_HOME", str(cache / "huggingface"))
