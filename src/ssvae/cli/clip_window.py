"""The window of clips that a verb looks at: asked for on the command line, else what the VAE was trained on."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ClipWindow:
    """frames T at ``fps`` a second, size (H, W) in pixels."""

    frames: int
    fps: float
    size: tuple[int, int]


PUBLISHED = ClipWindow(17, 8.0, (256, 256))
"""The published scale, for a VAE that does not say what it was trained on."""


def add_window_arguments(parser: argparse.ArgumentParser) -> None:
    """--frames, --fps, --size."""
    height, width = PUBLISHED.size
    trained = "(default: what the VAE was trained on; else "
    parser.add_argument("--frames", metavar="T", type=int, help=f"frames a window {trained}{PUBLISHED.frames})")
    parser.add_argument("--fps", metavar="F", type=float, help=f"frames a second {trained}{PUBLISHED.fps:g})")
    parser.add_argument("--size", metavar=("H", "W"), type=int, nargs=2, help=f"pixels {trained}{height} {width})")


def window_asked_for(args: argparse.Namespace) -> ClipWindow:
    """What ``args`` says, filled up with what the VAE ``args.vae`` was trained on. Raises ValueError out of range."""
    trained = trained_window(Path(args.vae))
    window = ClipWindow(
        trained.frames if args.frames is None else args.frames,
        trained.fps if args.fps is None else args.fps,
        trained.size if args.size is None else (args.size[0], args.size[1]),
    )
    if window.frames < 1:
        raise ValueError(f"--frames {window.frames}: must be at least 1")
    if not window.fps > 0:
        raise ValueError(f"--fps {window.fps:g}: must be above 0")
    if min(window.size) < 1:
        raise ValueError(f"--size {window.size[0]} {window.size[1]}: must be at least 1")
    return window


def trained_window(vae: Path) -> ClipWindow:
    """Window of the stage whose folder ``vae`` is or lies in; :data:`PUBLISHED` for any other VAE."""
    import yaml

    for folder in (vae, vae.parent):
        path = folder / "config.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
        if isinstance(content, dict) and "resolution" in content:
            trained = content["resolution"]
            return ClipWindow(trained["frames"], trained["fps"], (trained["height"], trained["width"]))
    return PUBLISHED
