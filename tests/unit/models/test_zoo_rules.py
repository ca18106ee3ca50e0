"""What configs of published VAEs say, against the classes themselves."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import pytest
import torch

from published_vaes import clip, make
from ssvae.models.zoo_rules import COGVIDEOX, DEFAULTS, HUNYUAN, IMAGE, LTX, SUPPORTED, WAN, layout


@pytest.mark.parametrize("name", SUPPORTED)
def test_defaults_are_those_of_the_class(name: str) -> None:
    theirs = inspect.signature(getattr(diffusers, name).__init__).parameters
    for key, value in DEFAULTS[name].items():
        default = theirs[key].default
        assert value == (list(default) if isinstance(default, tuple) else default), key


def config(name: str, **changes: Any) -> dict[str, Any]:
    return {"_class_name": name, **changes}


@pytest.mark.parametrize(
    ("name", "frames", "fits"),
    [
        (WAN, (1, 5, 17, 81), {4: "1 and 5", 6: "5 and 9", 16: "13 and 17", 0: "1 and 5"}),
        (HUNYUAN, (1, 5, 17, 129), {8: "5 and 9"}),
        (COGVIDEOX, (1, 9, 17, 49), {5: "1 and 9", 8: "1 and 9", 13: "9 and 17"}),
        (LTX, (1, 9, 17, 161), {5: "1 and 9", 16: "9 and 17"}),
        (IMAGE, (1, 2, 7), {0: "1 and 2"}),
    ],
)
def test_frame_rules(name: str, frames: tuple[int, ...], fits: dict[int, str]) -> None:
    found = layout(config(name))
    side = 2 * found.spatial_ratio
    for count in frames:
        grid = found.latent_grid(count, side, side)
        assert grid == (1 + (count - 1) // found.temporal_ratio, 2, 2)
        assert found.frames_of(grid[0]) == count
    for count, nearest in fits.items():
        with pytest.raises(ValueError, match=f"{name} takes .*not {count}: the nearest that fit are {nearest}$"):
            found.latent_grid(count, side, side)


@pytest.mark.parametrize("name", ["wan21", "cogvideox", "hunyuan", "ltx"])
@torch.no_grad()
def test_frame_counts_that_fit_are_those_that_come_back(name: str) -> None:
    """Tried on the class: every count up to 26. CogVideoX's 8k come back too, but their first frame is not alone."""
    network = make(name)
    found = layout({"_class_name": type(network).__name__, **network.config})
    side = found.spatial_ratio
    back = []
    for frames in range(1, 27):
        latent = network.encode(clip(frames, size=side)).latent_dist.mean
        if network.decode(latent).sample.shape[2] == frames:
            back.append(frames)
    extra = [8, 16, 24] if name == "cogvideox" else []
    assert sorted({*back} - {*extra}) == list(range(1, 27, found.frame_step))
    assert {*extra} <= {*back}


def test_sizes() -> None:
    found = layout(config(LTX))
    assert found.latent_grid(9, 64, 96) == (2, 2, 3)
    with pytest.raises(ValueError, match="multiples of 32, not width 100: the nearest that fit are 96 and 128"):
        found.latent_grid(9, 64, 100)
    with pytest.raises(ValueError, match="not height 8: the nearest that fit are 32 and 64"):
        found.latent_grid(9, 8, 64)


def test_what_is_told() -> None:
    told = layout(config(COGVIDEOX), "someone/something").to_json()
    assert told == {
        "class": COGVIDEOX,
        "repository": "someone/something",
        "channels": 16,
        "spatial_ratio": 8,
        "temporal_ratio": 4,
        "frames": "1 + 8k frames",
    }
    assert "each alone" in layout(config(IMAGE)).to_json()["frames"]


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no class": ({}, "supported: AutoencoderKLWan, AutoencoderKLCogVideoX"),
    "other class": (config("AutoencoderKLMochi"), "'AutoencoderKLMochi' is no VAE that can be used here"),
    "text": (config(WAN, z_dim="16"), "z_dim must be int, got '16'"),
    "no list": (config(WAN, dim_mult=4), "dim_mult must be a list of int"),
    "numbers for truths": (config(WAN, temperal_downsample=[0, 1, 1]), "must be a list of bool"),
    "null": (config(IMAGE, latent_channels=None), "latent_channels must be int"),
    "zero": (config(IMAGE, latent_channels=0), "latent_channels must be at least 1"),
    "colours": (config(WAN, in_channels=4), "in_channels is 4: an RGB clip needs 3"),
    "patches": (config(WAN, patch_size=2), "in_channels is 3: an RGB clip needs 12"),
    "few levels": (config(WAN, temperal_downsample=[True]), "one entry a downsampling"),
    "wan by 8": (config(WAN, temperal_downsample=[True, True, True]), "temporal compression 8"),
    "hunyuan by 8": (config(HUNYUAN, temporal_compression_ratio=8), "temporal compression 8"),
    "hunyuan by 6": (config(HUNYUAN, spatial_compression_ratio=6), "power of 2"),
    "cogvideox by 2": (config(COGVIDEOX, temporal_compression_ratio=2), "temporal compression 2"),
    "patches in time": (config(LTX, patch_size_t=2), "patch_size_t 2"),
    "another way back": (config(LTX, decoder_spatio_temporal_scaling=[True]), "the encoder compresses by 8 x 32"),
    "unknown step": (
        config(LTX, down_block_types=["LTXVideo095DownBlock3D"], downsample_type=["odd"]),
        "'odd' is none of conv",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_configs_that_cannot_be_used(case: str) -> None:
    content, word = MISTAKES[case]
    with pytest.raises(ValueError, match=word):
        layout(content)
