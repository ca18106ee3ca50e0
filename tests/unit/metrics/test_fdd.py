"""FDD's features against Pillow and transformers called directly, on a tiny random DINOv2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from ssvae.core.seeds import torch_generator
from ssvae.metrics.fdd import FDDNetwork, frame_places, load_fdd
from ssvae.metrics.feature_set import FeatureStatistics
from ssvae.metrics.frechet_metric import feature_statistics, frechet_metric, network_protocol
from ssvae.models.dinov2 import load_dinov2
from ssvae.stats.frechet import frechet_from_features

CLIPS = 12
GOLDEN = 0.013894897321348743
"""Made once with this file's seeds; a change of definition, weights or preprocessing moves it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dinov2")
    config = Dinov2Config(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=28, layerscale_value=0.5
    )
    network = Dinov2Model(config)
    for name, parameter in network.named_parameters():
        # Own numbers, whatever the package draws; large enough that features of clips differ.
        draw = torch.randn(parameter.shape, generator=torch_generator(0, f"fdd/{name}"))
        parameter.data = 1 + 0.1 * draw if "norm" in name and name.endswith("weight") else 0.3 * draw
    network.save_pretrained(place)
    return place


def clips(n: int, seed: int, frames: int = 3) -> Tensor:
    """Smooth clips with some values outside [-1,1]."""
    coarse = torch.randn(n, 3, frames, 5, 7, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(frames, 40, 56), mode="trilinear")


def directly(folder: Path, frames: Tensor) -> Tensor:
    """Frames (N,3,H,W) as dgm-eval would read them from saved pictures -> CLS (N,D)."""
    network = Dinov2Model.from_pretrained(folder).eval()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    rows = []
    for frame in frames:
        pixels = np.rint((np.clip(frame.permute(1, 2, 0).numpy(), -1, 1) + 1) * np.float32(127.5)).astype(np.uint8)
        picture = Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC)
        values = (np.asarray(picture) / 255 - mean) / std
        with torch.no_grad():
            hidden = network(torch.from_numpy(values).float().permute(2, 0, 1)[None]).last_hidden_state
        rows.append(hidden[0, 0].double())
    return torch.stack(rows)


def test_features_and_distance_equal_a_direct_computation(folder: Path) -> None:
    network = load_fdd(folder)
    real, made = clips(CLIPS, 0), 0.6 * clips(CLIPS, 1)
    expected = [directly(folder, videos[:, :, 1]) for videos in (real, made)]
    for videos, features in zip((real, made), expected, strict=True):
        assert features.std(0).min() > 1e-3
        torch.testing.assert_close(network.features(videos), features, rtol=1e-4, atol=1e-5)
    reference, generated = (feature_statistics(network, [x]) for x in (real, made))
    row = frechet_metric("fdd", reference, generated, network)
    assert row.value == pytest.approx(frechet_from_features(*expected), rel=1e-4)
    assert row.value > 1e-3 and row.n == CLIPS


def test_golden_value(folder: Path) -> None:
    network = load_fdd(folder, frames=2)
    reference, made = (feature_statistics(network, [x]) for x in (clips(CLIPS, 0), 0.6 * clips(CLIPS, 1)))
    assert frechet_metric("fdd", reference, made, network).value == pytest.approx(GOLDEN, rel=1e-3)


def test_the_protocol_names_everything(folder: Path) -> None:
    network = load_fdd(folder)
    protocol = network_protocol(network)
    for word in ("fdd/1;", "dinov2_d8-28", "input=uint8", "pil_bicubic_224", "cls", "frames=1", "cov=n-1", "weights="):
        assert word in protocol
    assert protocol != network_protocol(load_fdd(folder, frames=2)) != network_protocol(load_fdd(folder, frames=None))
    other = load_dinov2(folder)
    with torch.no_grad():
        next(other.network.parameters()).mul_(1.001)
    assert FDDNetwork(other).weights != network.weights


def test_frames_are_spread_evenly_and_stay_in_order(folder: Path) -> None:
    assert frame_places(9, 1) == [4] and frame_places(8, 1) == [3] and frame_places(1, 1) == [0]
    assert frame_places(9, 3) == [1, 4, 7] and frame_places(16, 4) == [1, 5, 9, 13]
    assert frame_places(5, 5) == [0, 1, 2, 3, 4]
    videos = clips(2, 3, frames=3)
    every = load_fdd(folder, frames=None)
    assert every.features_a_clip(3) == 3
    found = every.features(videos)
    expected = directly(folder, videos.transpose(1, 2).flatten(0, 1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_batches_change_features_by_rounding_only(folder: Path) -> None:
    network, videos = load_fdd(folder), clips(5, 4)
    together = network.features(videos)
    alone = torch.cat([network.features(video) for video in videos.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_values_outside_are_shown_clamped_and_bad_clips_refused(folder: Path) -> None:
    network, videos = load_fdd(folder, frames=2), clips(2, 5)
    assert bool((videos.abs() > 1).any())
    assert torch.equal(network.features(videos), network.features(videos.clamp(-1, 1)))
    with pytest.raises(ValueError, match="2 frames a clip, the clip has 1"):
        network.features(videos[:, :, :1])
    with pytest.raises(ValueError, match="at least 1 a clip"):
        FDDNetwork(network.network, 0)
    with pytest.raises(ValueError, match="no folder at"):
        load_fdd(folder / "absent")


def test_merged_states_give_the_distance_of_one_set(folder: Path) -> None:
    network = load_fdd(folder)
    reference, whole = (feature_statistics(network, [clips(CLIPS, seed)]) for seed in (0, 1))
    states = [feature_statistics(network, [part]).state_dict() for part in clips(CLIPS, 1).split([5, 7])]
    expected = frechet_metric("fdd", reference, whole, network)
    found = frechet_metric("fdd", reference, FeatureStatistics.merged(states), network)
    assert found.protocol == expected.protocol and found.n == expected.n
    assert found.value == pytest.approx(expected.value, rel=1e-4)
