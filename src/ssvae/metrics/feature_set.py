"""The Gaussian of a set's features, made in pieces: what a Fréchet distance needs of a set of clips.

While there are no more samples than dimensions the samples themselves are kept (never more numbers than a covariance
has): their covariance is rank-deficient, and the distance is then taken from the samples. Features are added, never
distances: pieces and processes are merged before one distance is taken.

Dimension legend: n samples, D feature dimensions; features (n,D).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ssvae.core.shapes import check_ndim
from ssvae.stats.frechet import covariance_factor, frechet_distance, frechet_from_factors, sample_factor
from ssvae.stats.moments import StreamingMoments

Denominator = Literal["n-1", "n"]
"""What a covariance is divided by: the unbiased one, or the one of the StyleGAN family."""


class FeatureStatistics:
    """Count, mean and covariance of D-dimensional features in float64, and the samples while n <= D.

    Raises ValueError for features of another shape or non-finite ones.
    """

    def __init__(self, dim: int) -> None:
        self.moments = StreamingMoments(dim)
        self._samples: list[Tensor] = []

    @classmethod
    def merged(cls, states: Sequence[Mapping[str, Tensor]]) -> FeatureStatistics:
        """One set from the states of several processes, in their order; ValueError for none."""
        if not states:
            raise ValueError("no feature statistics to merge")
        result = cls(len(states[0]["mean"]))
        for state in states:
            part = cls(result.dim)
            part.load_state_dict(state)
            result.merge(part)
        return result

    @property
    def dim(self) -> int:
        """D."""
        return self.moments.dim

    @property
    def count(self) -> int:
        """n."""
        return self.moments.count

    @property
    def full_rank(self) -> bool:
        """Are there more samples than dimensions? Otherwise the covariance is rank-deficient, whatever the features."""
        return self.count > self.dim

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Add features (n,D)."""
        check_ndim("features", features.shape, 2, "(n,D)")
        values = features.double().cpu()
        self.moments.update(values)
        if len(values):
            self._keep([values.clone()])

    def merge(self, other: FeatureStatistics) -> None:
        """Add what ``other`` has seen. Raises ValueError for other dimensions."""
        self.moments.merge(other.moments)
        self._keep(other._samples)

    def _keep(self, samples: list[Tensor]) -> None:
        """Called after the moments have counted ``samples``; a set that outgrew its dimensions keeps none."""
        self._samples = [] if self.full_rank else [*self._samples, *samples]

    def gaussian(self, denominator: Denominator = "n-1") -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D,D). Raises ValueError for fewer than 2 samples."""
        return self.moments.mean, self.moments.cov * self._share(denominator)

    def factor(self, denominator: Denominator = "n-1") -> tuple[Tensor, Tensor]:
        """Mean (D,) and a factor (r,D) of the covariance. Raises ValueError for fewer than 2 samples."""
        if self.full_rank:
            mean, cov = self.gaussian(denominator)
            return mean, covariance_factor(cov, "of the features")
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {self.count}")
        mean, factor = sample_factor(torch.cat(self._samples))
        return mean, factor * self._share(denominator) ** 0.5

    def _share(self, denominator: Denominator) -> float:
        return (self.count - 1) / self.count if denominator == "n" else 1.0

    def state_dict(self) -> dict[str, Tensor]:
        """Plain state: ``count`` (), ``mean`` (D,), ``scatter`` (D,D), and ``samples`` (n,D) while n <= D."""
        state = {name: torch.as_tensor(value) for name, value in self.moments.state_dict().items()}
        if self._samples:
            state["samples"] = torch.cat(self._samples)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned. Raises ValueError where it contradicts itself."""
        count, samples = int(state["count"]), state.get("samples")
        kept = 0 if samples is None else len(samples)
        if kept != (count if count <= self.dim else 0):
            raise ValueError(f"state counts {count} samples in {self.dim} dimensions and holds {kept} of them")
        self.moments.load_state_dict(dict(state))
        self._samples = [] if samples is None else [samples.double().clone()]


def frechet(a: FeatureStatistics, b: FeatureStatistics, denominator: Denominator = "n-1") -> float:
    """Fréchet distance of two sets, from covariances where both have full rank, else from factors.

    Raises ValueError for different dimensions or fewer than 2 samples.
    """
    if a.dim != b.dim:
        raise ValueError(f"feature dimensions differ: {a.dim} and {b.dim}; use one network for both sets")
    if a.full_rank and b.full_rank:
        return frechet_distance(*a.gaussian(denominator), *b.gaussian(denominator))
    return frechet_from_factors(*a.factor(denominator), *b.factor(denominator))
