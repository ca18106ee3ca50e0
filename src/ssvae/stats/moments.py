"""Streaming mean and covariance in float64, mergeable over batches and ranks.

Chan's parallel update: every chunk is centred by its own mean before it is squared, so a large common offset
costs no digits (the sum-of-squares formula loses twice as many digits as the offset has).

Dimension legend: n observations, D dimensions; x (n,D).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssvae.core.shapes import check_ndim

CHUNK_ELEMENTS = 1 << 22
"""float64 elements converted at once: bounds the extra memory to about 32 MiB."""


class StreamingMoments:
    """Mean and covariance of D-dimensional observations seen in pieces.

    State lives on the CPU in float64; a batch is reduced on its own device.
    """

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self.count = 0
        self._mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Add observations (n,D). Raises ValueError for another shape or non-finite values."""
        check_ndim("observations", x.shape, 2, "(n,D)")
        if x.shape[1] != self.dim:
            raise ValueError(f"observations have {x.shape[1]} dimensions, these moments hold {self.dim}")
        for chunk in x.split(max(1, CHUNK_ELEMENTS // self.dim)):
            if not chunk.shape[0]:
                continue
            values = chunk.double()
            mean = values.mean(0)
            centred = values - mean
            scatter = centred.T @ centred
            if not torch.isfinite(scatter).all():
                raise ValueError("observations contain NaN or infinite values: drop or repair them before statistics")
            self._combine(chunk.shape[0], mean.cpu(), scatter.cpu())

    def merge(self, other: StreamingMoments) -> None:
        """Add everything ``other`` has seen; the result does not depend on the order beyond rounding."""
        if other.dim != self.dim:
            raise ValueError(f"cannot merge moments of {other.dim} dimensions into {self.dim}")
        self._combine(other.count, other._mean, other._scatter)

    def _combine(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if count == 0:
            return
        total = self.count + count
        difference = mean - self._mean
        self._mean = self._mean + difference * (count / total)
        self._scatter = self._scatter + scatter + torch.outer(difference, difference) * (self.count * count / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """Mean (D,), float64. Raises ValueError before the first observation."""
        if self.count < 1:
            raise ValueError("no observations yet: call update first")
        return self._mean.clone()

    @property
    def cov(self) -> Tensor:
        """Unbiased covariance (D,D), float64. Raises ValueError for fewer than 2 observations."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 observations, got {self.count}")
        return self._scatter / (self.count - 1)

    @property
    def std(self) -> Tensor:
        """Unbiased standard deviation (D,), float64. Raises ValueError for fewer than 2 observations."""
        return self.cov.diagonal().sqrt()

    def state_dict(self) -> dict[str, Tensor | int]:
        """Plain state: ``count``, ``mean`` (D,), ``scatter`` (D,D)."""
        return {"count": self.count, "mean": self._mean.clone(), "scatter": self._scatter.clone()}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Restore what :meth:`state_dict` returned. Raises ValueError for other dimensions."""
        mean = torch.as_tensor(state["mean"], dtype=torch.float64)
        scatter = torch.as_tensor(state["scatter"], dtype=torch.float64)
        if mean.shape != (self.dim,) or scatter.shape != (self.dim, self.dim):
            raise ValueError(f"state has {mean.shape[0]} dimensions, these moments hold {self.dim}")
        self.count, self._mean, self._scatter = int(state["count"]), mean.clone(), scatter.clone()


def channel_moments(latent: Tensor, moments: StreamingMoments | None = None) -> StreamingMoments:
    """Moments over channels of (N,C,...): every position of every sample is one C-dimensional observation.

    Adds to ``moments`` when given. Goes sample by sample, so a large set is never copied whole.
    """
    if latent.ndim < 2:
        raise ValueError(f"latent must have axes (N,C,...), got shape {tuple(latent.shape)}")
    channels = latent.shape[1]
    result = moments if moments is not None else StreamingMoments(channels)
    group = max(1, CHUNK_ELEMENTS // max(1, latent[0].numel())) if latent.shape[0] else 1
    for part in latent.split(group):
        result.update(part.movedim(1, -1).reshape(-1, channels))
    return result
