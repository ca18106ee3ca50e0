"""Checkpoints: one file, whole or absent, newest only, loaded without executing anything.

Random numbers and the data position are functions of the step (core/seeds.py, data/mix.py), so weights, optimiser,
moving averages and counters are the whole state.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from ssvae.core.files import write_atomic

CHECKPOINT = "checkpoint.pt"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write ``state`` after ``step`` updates to ``folder/checkpoint.pt``, replacing the one before."""
    write_atomic(folder / CHECKPOINT, lambda path: torch.save({"step": step, **state}, path))


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint as {"step": int, ...}, or None. Raises ValueError for a file that is not one."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        # torch's own text is not passed on: it advises to load the file without the safety.
        reason = f"{path} is no checkpoint of ours ({type(error).__name__}); remove it to start this stage afresh"
        raise ValueError(reason) from error
    assert isinstance(state, dict)
    return state


def drop_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a finished stage: its results are saved on their own."""
    (folder / CHECKPOINT).unlink(missing_ok=True)
