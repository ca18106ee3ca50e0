"""Names and shapes alone give back the architecture, for any width, depth, attention and temporal levels."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from ssvae.models.official_layout import infer_config, official_names
from ssvae.models.vae import VAEConfig, VideoVAE

GOLDEN = Path(__file__).parents[2] / "golden"
PUBLISHED = VAEConfig(
    channels=48,
    base_channels=32,
    multipliers=(2, 4, 8, 16, 16),
    encoder_blocks=3,
    decoder_blocks=4,
    temporal_levels=(False, False, True, True),
    encoder_mid_attention=(True, True),
    decoder_mid_attention=(True, False),
)
NARROW = VAEConfig(
    channels=5,
    base_channels=4,
    multipliers=(1, 2, 4),
    encoder_blocks=1,
    decoder_blocks=2,
    temporal_levels=(True, False),
    encoder_mid_attention=(False, True, False),
    decoder_mid_attention=(True,),
)
FLAT = VAEConfig(
    channels=1,
    base_channels=3,
    multipliers=(2, 2),
    encoder_blocks=2,
    decoder_blocks=1,
    temporal_levels=(False,),
    encoder_mid_attention=(),
    decoder_mid_attention=(False, False),
)


def shapes_of(config: VAEConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        vae = VideoVAE(**asdict(config))
    names = official_names(vae)
    return {names[name]: tuple(value.shape) for name, value in vae.named_parameters()}


def test_the_published_names_give_the_published_architecture() -> None:
    shapes = json.loads((GOLDEN / "official_48_keys.json").read_text())
    shapes.pop("mask_token")
    assert infer_config(shapes) == PUBLISHED


@pytest.mark.parametrize("config", [PUBLISHED, NARROW, FLAT], ids=["published", "narrow", "flat"])
def test_architecture_survives_the_way_through_names_and_shapes(config: VAEConfig) -> None:
    shapes = shapes_of(config)
    assert infer_config(shapes) == config
    assert infer_config(dict(reversed(shapes.items()))) == config


def test_names_are_all_different() -> None:
    with torch.device("meta"):
        vae = VideoVAE(**asdict(NARROW))
    names = official_names(vae)
    assert names.keys() == {name for name, _ in vae.named_parameters()}
    assert len(set(names.values())) == len(names)


def test_one_wrong_or_missing_tensor_bends_nothing() -> None:
    """So that the comparison with the file names that tensor, not a hundred others."""
    config = VAEConfig(**{**asdict(NARROW), "encoder_blocks": 2})
    shapes = shapes_of(config)
    for name, shape in shapes.items():
        wrong = tuple(size + 1 for size in shape)
        assert infer_config({**shapes, name: wrong}) == config, name
        assert infer_config({other: shape for other, shape in shapes.items() if other != name}) == config, name


@pytest.mark.parametrize(
    ("drop", "add", "word"),
    [
        ("encoder.down", {}, "no tensor is named encoder.down.0.block"),
        ("decoder.up", {}, "no tensor is named decoder.up.0.block"),
        ("encoder.mid.0.", {"encoder.mid.0.to_qkv.weight": (48, 16, 1, 1)}, "attention that follows no residual block"),
    ],
)
def test_names_that_show_no_architecture(drop: str, add: dict[str, tuple[int, ...]], word: str) -> None:
    shapes = {name: shape for name, shape in shapes_of(NARROW).items() if not name.startswith(drop)} | add
    with pytest.raises(ValueError, match=word):
        infer_config(shapes)


def test_widths_that_no_multiplier_makes() -> None:
    shapes = shapes_of(NARROW)
    bent = {n: (shape[0] + 1, *shape[1:]) if n.startswith("encoder.down.1.") else shape for n, shape in shapes.items()}
    with pytest.raises(ValueError, match=r"encoder\.down\.1 has 9 channels, no multiple of encoder\.conv_in's 4"):
        infer_config(bent)
