"""What the Fréchet distances of videos share: the network's interface, the clips as pictures, the row of the table.

Dimension legend
    B clips, T frames, H W pixels    videos (B,3,T,H,W), float, [-1,1]
    n features of a set, D dimensions; features (n,D), float64, on the CPU
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from ssvae.core.shapes import check_ndim
from ssvae.core.types import MetricValue
from ssvae.metrics.feature_cache import StatisticsKey
from ssvae.metrics.feature_set import Denominator, FeatureStatistics, frechet

log = logging.getLogger(__name__)


class FrechetNetwork(Protocol):
    """A frozen network that turns clips into features.

    metric: "fdd" or "fvd". dim: D. weights: hash of the network's weights. preprocessing: the metric's version and
    everything between a clip and the features. denominator: of the covariance.
    """

    @property
    def metric(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def weights(self) -> str: ...
    @property
    def preprocessing(self) -> str: ...
    @property
    def denominator(self) -> Denominator: ...

    def features_a_clip(self, frames: int) -> int:
        """How many features a clip of ``frames`` frames gives; ValueError for a clip that is too short."""

    def features(self, videos: Tensor) -> Tensor:
        """Clips (B,3,T,H,W) on the network's device -> (B·features_a_clip(T),D), clip by clip."""


def network_protocol(network: FrechetNetwork) -> str:
    """``<metric>/<version>;...`` with the preprocessing, the covariance's denominator and the weights' hash."""
    return f"{network.preprocessing};cov={network.denominator};weights={network.weights[:12]}"


def statistics_key(
    network: FrechetNetwork, data: str, window: tuple[int, int, int], fps: float | None, clips: int
) -> StatisticsKey:
    """The key under which a reference set's statistics are cached: ``clips`` clips of (frames, height, width).

    data: see :func:`~ssvae.metrics.feature_cache.data_hash`. Raises ValueError for clips that are too short.
    """
    count = clips * network.features_a_clip(window[0])
    return StatisticsKey(network.weights, network.preprocessing, data, window, fps, count)


def feature_statistics(network: FrechetNetwork, batches: Iterable[Tensor], batch: int = 16) -> FeatureStatistics:
    """The statistics of clips that come in batches (B,3,T,H,W), ``batch`` at a time through the network.

    The sizes of batches change features by float32 rounding only.
    """
    statistics = FeatureStatistics(network.dim)
    for videos in batches:
        for part in videos.split(batch):
            statistics.update(network.features(part))
    return statistics


def frechet_metric(
    name: str, reference: FeatureStatistics, made: FeatureStatistics, network: FrechetNetwork, warn: bool = True
) -> MetricValue:
    """The Fréchet distance of ``made`` to ``reference`` as a row: n features were made, the protocol has both counts.

    No interval: the distance of a resample with repeats is biased upwards, so quantiles over bootstrap draws of clips
    do not cover it; repeat the run with other seeds instead. With no more samples than dimensions the distance is
    biased upwards by much and says more about the counts than the models: ``warn`` logs it, and the protocol says
    ``too_few``. Raises ValueError for fewer than 2 samples or other dimensions.
    """
    stamp = f"{network_protocol(network)};reference={reference.count};made={made.count}"
    few = [
        f"{statistics.count} {side}"
        for side, statistics in (("reference", reference), ("made", made))
        if not statistics.full_rank
    ]
    if few and warn:
        log.warning(
            "%s: %s samples for %d feature dimensions: biased upwards by much, comparable only at equal counts; "
            "take more than %d clips",
            name,
            " and ".join(few),
            network.dim,
            network.dim,
        )
    if few:
        stamp += ";too_few"
    value = frechet(reference, made, network.denominator)
    return MetricValue(name, value, "squared feature distance", "down", made.count, None, stamp)


def as_pictures(videos: Tensor) -> Tensor:
    """Clips (B,3,T,H,W) in [-1,1] -> uint8, rounded, as a saved picture holds them; values outside are clamped.

    Raises ValueError for other axes, other than 3 colours, or non-finite values.
    """
    check_ndim("videos", videos.shape, 5, "(B,3,T,H,W)")
    if videos.shape[1] != 3:
        raise ValueError(f"videos must have 3 colours, got shape {tuple(videos.shape)}")
    if not torch.isfinite(videos).all():
        raise ValueError("videos contain NaN or infinite values: no distance can be taken of them")
    return (videos.float().clamp(-1.0, 1.0) + 1).mul(127.5).round().to(torch.uint8)


def weights_hash(network: nn.Module) -> str:
    """Hex SHA-256 over names, shapes and bytes of all tensors of a network's state, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        # Bytes through uint8: numpy has no bfloat16.
        digest.update(memoryview(tensor.flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()
