"""The VAE against the official SSVAE code: same file, same numbers; same keys and shapes at the published size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ssvae import load_vae
from ssvae.models.official_layout import official_names
from ssvae.models.vae import VideoVAE

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def official_tiny() -> VideoVAE:
    return load_vae(GOLDEN / "official_tiny.ckpt")


@pytest.mark.parametrize(
    ("case", "file", "step"),
    [
        ("video", "official_tiny_io_video.npz", 4),
        ("wide", "official_tiny_io.npz", 1),
        ("image", "official_tiny_io.npz", 1),
    ],
)
def test_equals_official_outputs(official_tiny: VideoVAE, case: str, file: str, step: int) -> None:
    with np.load(GOLDEN / file) as arrays:
        expected = {name: torch.from_numpy(arrays[f"{case}_{name}"]) for name in ("x", "mean", "logvar", "recon")}
    with torch.no_grad():
        posterior = official_tiny.encode(expected["x"])
        reconstruction = official_tiny.decode(posterior.mode())
    torch.testing.assert_close(posterior.mean, expected["mean"], atol=1e-4, rtol=0)
    torch.testing.assert_close(posterior.logvar, expected["logvar"], atol=1e-4, rtol=0)
    torch.testing.assert_close(reconstruction[..., ::step, ::step], expected["recon"], atol=1e-4, rtol=0)


def test_published_size_has_the_official_tensors() -> None:
    with torch.device("meta"):
        vae = VideoVAE(
            channels=48,
            base_channels=32,
            multipliers=(2, 4, 8, 16, 16),
            encoder_blocks=3,
            decoder_blocks=4,
            temporal_levels=(False, False, True, True),
        )
    assert sum(p.numel() for p in vae.encoder.parameters()) == 141_568_832
    assert sum(p.numel() for p in vae.decoder.parameters()) == 173_609_027
    official = {key: tuple(shape) for key, shape in json.loads((GOLDEN / "official_48_keys.json").read_text()).items()}
    assert official.pop("mask_token") == (1, 48, 1, 1, 1)
    names = official_names(vae)
    assert official == {names[name]: tuple(value.shape) for name, value in vae.named_parameters()}
