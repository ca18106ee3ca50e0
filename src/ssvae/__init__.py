"""ssvae: the bench for video VAEs that diffuse well."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssvae.models.load import load_vae

__all__ = ["load_vae"]
__version__ = "0.4.0"


def __getattr__(name: str) -> Any:
    # Late: importing the package must not import torch, so that a mistyped command is answered at once.
    if name == "load_vae":
        return importlib.import_module("ssvae.models.load").load_vae
    raise AttributeError(f"module 'ssvae' has no attribute {name!r}")
