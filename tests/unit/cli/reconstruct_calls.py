"""What the tests of ``reconstruct`` share: a small VAE, a small clip that does not fit it, and a call."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from ssvae.cli.main import main
from ssvae.data.synthetic import render
from ssvae.data.synthetic_shards import encode_mp4
from ssvae.models.vae import VideoVAE

FRAMES, HEIGHT, WIDTH = 11, 34, 46
RATE = Fraction(30000, 1001)


def make_vae() -> VideoVAE:
    torch.manual_seed(0)
    vae = VideoVAE(
        channels=6,
        base_channels=4,
        multipliers=[1, 2, 2],
        encoder_blocks=1,
        decoder_blocks=1,
        temporal_levels=[True, True],
    )
    return vae.eval()


def write_clip(path: Path) -> Path:
    """11 frames of 34 x 46: neither fits the VAE."""
    path.write_bytes(encode_mp4(render(1, frames=FRAMES, size=64).frames[:, :HEIGHT, :WIDTH], float(RATE)))
    return path


def call(clip: Path, vae: Path, out: Path, *more: str) -> int:
    return main(["reconstruct", str(clip), "--vae", str(vae), "--out", str(out), *more])


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "reconstruct.json").read_text())
    return found
