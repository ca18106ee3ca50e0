"""The pictures that a measurement left in its folder, as rows of the latents' figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ssvae.core.files import read_json

PICTURES = {
    "panels.png": "A clip, its reconstruction, and the three strongest channel modes of its latent as colours",
    "chopping.png": "Middle frame whole, then without high frequencies of the clip (above) and of the latent (below)",
}
"""File -> what the figure calls it."""


def read_pictures(folder: Path) -> dict[str, np.ndarray]:
    """Rows for :func:`~ssvae.report.latents_figure.latents_figure`, (1,H,W,3) uint8 each; those that are there."""
    found = {}
    for name, caption in PICTURES.items():
        if (path := folder / name).exists():
            if name == "chopping.png":
                caption = f"{caption}: {_removed(folder)}"
            with Image.open(path) as picture:
                found[caption] = np.asarray(picture.convert("RGB"))[None]
    return found


def _removed(folder: Path) -> str:
    """The shares of coefficients that are gone from left to right, as they were rounded to whole ones."""
    curve = read_json(folder / "curves.json")["psnr_chop_latent"]
    return ", ".join(f"{100 * share:.3g} %" for share in curve["x"])
