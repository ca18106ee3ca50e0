"""The shipped networks: they are what their cards say, and see clips of any length and size the same way."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from ssvae.core.seeds import torch_generator
from ssvae.models.features import (
    ASSETS,
    ProbeFeatures,
    coarse_flow,
    load_probe_features,
    load_probe_judge,
    read_card,
    shift_in_time,
    signal_statistics,
    standard_clip,
)

NAMES = ("probe_features", "probe_judge")
LOADERS = {"probe_features": load_probe_features, "probe_judge": load_probe_judge}


def noise_clip(frames: int = 9, size: int = 32, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, frames, size, size, generator=torch_generator(0, "clip")) * 2 - 1


def waves(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A smooth texture without a preferred direction, at continuous places."""
    total = torch.zeros_like(x)
    for index in range(8):
        angle, period = index * math.pi / 8, 9.0 + 2 * index
        total = total + torch.sin(
            2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / period + 2.4 * index * index
        )
    return total / 2


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_small_and_the_card_is_complete(name: str) -> None:
    assert (ASSETS / f"{name}.safetensors").stat().st_size <= 2 * 1024**2
    card = read_card(name)
    assert card.stamp.startswith(f"{card.protocol};net=")
    assert set(card.held_out["accuracy"]) == set(card.vocabulary) == set(card.architecture["attributes"])
    assert card.held_out["clips"] >= 200
    assert card.training["train_seed"] != card.training["held_out_seed"]
    assert min(card.held_out["accuracy"].values()) > 0.9


def test_features_and_judge_are_separate_networks() -> None:
    features, judge = read_card("probe_features"), read_card("probe_judge")
    assert features.training["seed"] != judge.training["seed"]
    assert features.architecture["widths"] != judge.architecture["widths"]
    assert features.protocol != judge.protocol


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_is_detected(name: str, tmp_path: Path) -> None:
    for suffix in ("json", "safetensors"):
        shutil.copy(ASSETS / f"{name}.{suffix}", tmp_path)
    LOADERS[name](tmp_path)
    path = tmp_path / f"{name}.safetensors"
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        LOADERS[name](tmp_path)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    shutil.copy(ASSETS / "probe_features.safetensors", tmp_path)
    card = json.loads((ASSETS / "probe_features.json").read_text())
    card["architecture"]["code"] = 32
    (tmp_path / "probe_features.json").write_text(json.dumps(card))
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_probe_features(tmp_path)


def test_loaded_networks_are_frozen_and_features_at_most_64() -> None:
    network, _ = load_probe_features()
    assert network.dim <= 64
    assert network(noise_clip()).shape == (2, network.dim)
    for loaded in (network, load_probe_judge()[0]):
        assert not loaded.training
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with pytest.raises(ValueError, match=r"\[1, 64\]"):
        ProbeFeatures(
            widths=(4, 4, 4, 4, 4), hidden=8, code=64, attributes={"shape": 2}, degradations=("blur",), level_weight=1.0
        )


def test_standard_clip_keeps_what_is_standard_and_samples_the_rest() -> None:
    clip = noise_clip()
    assert torch.equal(standard_clip(clip), clip)
    long = noise_clip(frames=17)
    torch.testing.assert_close(standard_clip(long), long[:, :, ::2])
    short = standard_clip(noise_clip(frames=5))
    torch.testing.assert_close(short[:, :, ::2], noise_clip(frames=5))
    torch.testing.assert_close(short[:, :, 1], (short[:, :, 0] + short[:, :, 2]) / 2)
    big = torch.nn.functional.interpolate(noise_clip(), scale_factor=(1, 2, 2), mode="nearest")
    assert standard_clip(big).shape == clip.shape
    assert float(standard_clip(3 * clip).abs().max()) == 1.0
    flat = torch.full((1, 3, 6, 50, 70), 0.3)
    torch.testing.assert_close(standard_clip(flat), torch.full((1, 3, 9, 32, 32), 0.3))


@pytest.mark.parametrize("shape", [(1, 3, 4, 32, 32), (1, 1, 9, 32, 32)])
def test_clips_too_short_or_without_colour_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 5 frames"):
        standard_clip(torch.zeros(shape))


def test_shift_in_time_moves_quarters_and_never_mixes_clips() -> None:
    x = torch.arange(2 * 3 * 8, dtype=torch.float32).reshape(6, 8, 1, 1) + 1
    clip, out = x.reshape(2, 3, 8), shift_in_time(x, 3).reshape(2, 3, 8)
    assert torch.equal(out[:, 1:, :2], clip[:, :-1, :2])
    assert torch.equal(out[:, :-1, 2:4], clip[:, 1:, 2:4])
    assert torch.equal(out[..., 4:], clip[..., 4:])
    assert not bool(out[:, 0, :2].any() or out[:, -1, 2:4].any())


@pytest.mark.parametrize("velocity", [(0.6, 0.0), (-0.3, 0.5), (0.0, 0.0)])
def test_coarse_flow_measures_a_translation(velocity: tuple[float, float]) -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    frames = [waves(x - velocity[0] * t, y - velocity[1] * t) for t in range(9)]
    flow = coarse_flow(torch.stack(frames)[None, None].expand(1, 3, -1, -1, -1))
    inner = flow[0, :, :, 1:-1, 1:-1].mean(dim=(0, 2, 3))
    torch.testing.assert_close(inner, torch.tensor(velocity), atol=0.06, rtol=0)


def test_flat_clips_have_no_flow() -> None:
    fading = torch.linspace(-1, 1, 9).reshape(1, 1, 9, 1, 1).expand(1, 3, 9, 32, 32)
    assert not bool(coarse_flow(fading).any())


def test_score_is_the_geometric_mean_of_the_stated_probabilities() -> None:
    judge, card = load_probe_judge()
    video = noise_clip()
    stated = {name: torch.tensor([0, len(values) - 1]) for name, values in card.vocabulary.items()}
    product = torch.ones(2, dtype=torch.float64)
    for name, logits in judge(video).items():
        product *= logits.double().softmax(1)[torch.arange(2), stated[name]]
    torch.testing.assert_close(judge.score(video, stated), product ** (1 / len(stated)))
    del stated["shape"]
    with pytest.raises(ValueError, match="shape are missing"):
        judge.score(video, stated)


def test_signal_statistics_are_the_stated_energies() -> None:
    """A single sine wave that moves: mean squares of its differences are known in closed form."""
    period, speed, amplitude = 8.0, 0.5, 0.4
    x = torch.arange(32.0).expand(32, 32)
    frames = [amplitude * torch.sin(2 * math.pi * (x - speed * t) / period) for t in range(9)]
    found = signal_statistics(torch.stack(frames)[None, None].expand(1, 3, -1, -1, -1)).exp()[0] - 1e-5
    power = 2 * amplitude**2  # mean square of the difference at phase p: 2·A²·sin²(p/2)

    def energy(phase: float) -> float:
        return power * math.sin(phase / 2) ** 2

    step = 2 * math.pi / period
    laplacian = power / 4 * ((math.cos(step) - 1) / 2) ** 2
    expected = [energy(step), laplacian, 0.0, *(energy(step * speed * lag) for lag in (1, 2, 4, 8))]
    expected += [4 * energy(step * speed) * math.sin(step * speed / 2) ** 2] + [energy(step * speed)] * 8
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0.05, atol=2e-4)
