"""The VAE against the official SSVAE code: same weights, same numbers; same keys and shapes at the published size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ssvae.models.vae import VideoVAE
from ssvae.models.weights import official_to_ours

GOLDEN = Path(__file__).parents[2] / "golden"
TEMPORAL = (False, False, True, True)


@pytest.fixture(scope="module")
def official_tiny() -> VideoVAE:
    vae = VideoVAE(
        channels=48,
        base_channels=8,
        multipliers=(1, 1, 2, 2, 2),
        encoder_blocks=3,
        decoder_blocks=4,
        temporal_levels=TEMPORAL,
    )
    state = {"latent_mean": torch.zeros(48), "latent_std": torch.ones(48)}
    for part in ("encoder", "decoder"):
        with np.load(GOLDEN / f"official_tiny_{part}.npz") as tensors:
            for key in tensors.files:
                name = official_to_ours(key)
                assert name is not None
                state[name] = torch.from_numpy(tensors[key])
    vae.load_state_dict(state, strict=True)
    return vae.eval()


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
            temporal_levels=TEMPORAL,
        )
    assert sum(p.numel() for p in vae.encoder.parameters()) == 141_568_832
    assert sum(p.numel() for p in vae.decoder.parameters()) == 173_609_027
    shapes = json.loads((GOLDEN / "official_48_keys.json").read_text())
    renamed = {official_to_ours(key): tuple(shape) for key, shape in shapes.items()}
    renamed.pop(None)  # the mask token
    assert renamed == {name: tuple(value.shape) for name, value in vae.named_parameters()}


def test_keys_of_other_objects_are_not_ours() -> None:
    assert official_to_ours("mask_token") is None
    assert official_to_ours("loss.discriminator.image.0.weight") is None
