"""Where things lie, and the environment that libraries must find: the project's folder, the root of results."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
"""The checkout that this package runs from."""


def project_root() -> Path:
    """Where ``runs/`` and ``results/`` are written: $SSVAE_ROOT, else the project's folder."""
    return Path(os.environ.get("SSVAE_ROOT") or PROJECT).absolute()


def looks_like_path(text: str) -> bool:
    """Rather than a published name of ours: with a slash, a leading dot or tilde, or the ending of a weight file."""
    return "/" in text or text.startswith((".", "~")) or text.endswith((".ckpt", ".pt", ".safetensors"))


def prepare_environment() -> None:
    """Settings that libraries read when they are imported, so call this first; what the user has set stays.

    Caches that would go to the home folder go to ``runs/.cache``, but for a Hugging Face cache that the user has: what
    ``hf download`` has fetched must be found. OpenMP threads sleep while they wait: spinning ones
    make a training step ten times slower as soon as anything else runs on the machine.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # numpy's matrices here are small: its own threads cost more than they bring, and spin as well.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    cache = project_root() / "runs" / ".cache"
    os.environ.setdefault("MPLCONFIGDIR", str(cache / "matplotlib"))
    if not (Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface").is_dir():
        os.environ.setdefault("HF_HOME", str(cache / "huggingface"))
