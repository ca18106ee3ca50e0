"""FVD with a tiny network that is called as StyleGAN-V's I3D is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from ssvae.metrics.feature_set import FeatureStatistics
from ssvae.metrics.frechet_metric import feature_statistics, frechet_metric, network_protocol, statistics_key
from ssvae.metrics.fvd import FVDNetwork, load_fvd
from ssvae.stats.frechet import frechet_distance
from tiny_i3d import DIM, TinyI3D, write_tiny_i3d

CLIPS = 10
GOLDEN = 0.6218107307616495
"""Made once with the tiny network's seed; a change of definition or preprocessing moves it."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_i3d(tmp_path_factory.mktemp("i3d") / "i3d.pt")


@pytest.fixture(scope="module")
def network(path: Path) -> FVDNetwork:
    return load_fvd(path, frames=9)


def clips(n: int, seed: int, frames: int = 9) -> Tensor:
    return 0.7 * torch.randn(n, 3, frames, 16, 20, generator=torch.Generator().manual_seed(seed))


def directly(videos: Tensor) -> Tensor:
    pixels = ((videos.clamp(-1, 1) + 1) * 127.5).round()
    with torch.no_grad():
        return TinyI3D().eval()(pixels, rescale=True, resize=True, return_features=True).double()


def test_features_and_distance_equal_a_direct_computation(network: FVDNetwork) -> None:
    real, made = clips(CLIPS, 0), 0.5 * clips(CLIPS, 1)
    expected = [directly(videos) for videos in (real, made)]
    for videos, features in zip((real, made), expected, strict=True):
        torch.testing.assert_close(network.features(videos), features, rtol=1e-4, atol=1e-6)
    reference, reconstructed = (feature_statistics(network, [x]) for x in (real, made))
    row = frechet_metric("rfvd", reference, reconstructed, network)
    # StyleGAN-V divides by n
    gaussians = [(x.mean(0), torch.cov(x.T, correction=0)) for x in expected]
    assert row.value == pytest.approx(frechet_distance(*gaussians[0], *gaussians[1]), rel=1e-3)
    assert (row.name, row.n, row.direction) == ("rfvd", CLIPS, "down") and row.value > 0


def test_golden_value(network: FVDNetwork) -> None:
    reference, made = (feature_statistics(network, [x]) for x in (clips(CLIPS, 0), 0.5 * clips(CLIPS, 1)))
    assert frechet_metric("fvd", reference, made, network).value == pytest.approx(GOLDEN, rel=1e-3)


def test_the_protocol_names_everything(network: FVDNetwork, path: Path) -> None:
    protocol = network_protocol(network)
    for word in ("fvd/1;", "i3d_styleganv", "input=uint8", "frames=9", "cov=n;", f"weights={network.weights[:12]}"):
        assert word in protocol
    assert network_protocol(load_fvd(path)) == protocol.replace("frames=9", "frames=16")
    assert network.dim == DIM


def test_the_first_frames_are_taken_and_short_clips_refused(network: FVDNetwork, path: Path) -> None:
    long = clips(2, 2, frames=12)
    assert torch.equal(network.features(long), network.features(long[:, :, :9]))
    assert network.features_a_clip(12) == 1
    with pytest.raises(ValueError, match="looks at 16 frames, the clip has 9"):
        load_fvd(path).features(clips(1, 0))
    with pytest.raises(ValueError, match="looks at 16 frames"):
        statistics_key(load_fvd(path), "data", (9, 16, 20), 8.0, 4)
    with pytest.raises(ValueError, match="at least 9"):
        load_fvd(path, frames=8)


@pytest.mark.parametrize("batch", [1, 3, 10])
def test_batches_and_merged_states_give_the_same_distance(network: FVDNetwork, batch: int) -> None:
    reference, made = (feature_statistics(network, [clips(CLIPS, seed)]) for seed in (0, 1))
    whole = frechet_metric("fvd", reference, made, network)
    states = [feature_statistics(network, [part], batch).state_dict() for part in clips(CLIPS, 1).split([4, 6])]
    again = frechet_metric("fvd", reference, FeatureStatistics.merged(states), network)
    assert again.protocol == whole.protocol
    assert again.value == pytest.approx(whole.value, rel=1e-4)


def _half(rank: int, path: str, out: str) -> None:
    torch.set_num_threads(1)
    part = clips(CLIPS, 1)[rank::2]
    torch.save(feature_statistics(load_fvd(path, frames=9), [part]).state_dict(), Path(out) / f"{rank}.pt")


def test_two_processes_give_the_distance_of_one(network: FVDNetwork, path: Path, tmp_path: Path) -> None:
    mp.spawn(_half, (str(path), str(tmp_path)), nprocs=2)
    merged = FeatureStatistics.merged([torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)])
    reference, whole = (feature_statistics(network, [clips(CLIPS, seed)]) for seed in (0, 1))
    expected = frechet_metric("fvd", reference, whole, network)
    found = frechet_metric("fvd", reference, merged, network)
    assert found.protocol == expected.protocol and found.n == expected.n
    assert found.value == pytest.approx(expected.value, rel=1e-4)
