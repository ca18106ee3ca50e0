"""The diffusion loss on held-out latents: overall, by time, and as a curve over time.

Every model meets the same (time, noise) draws: those of a latent depend on its place in the held-out list only, not on
the batch, nor on how many ranks share the list. Times are stratified: draw k of K lies in [k/K, (k+1)/K).

Dimension legend
    N held-out latents, K draws of each, n bins of t over [0, 1]     latents (N,C,F,h,w), normalised
    losses, times (N,K) float64: mean squared error of the prediction over one latent's values, and its t (1 = noise)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssvae.core.seeds import torch_generator
from ssvae.core.types import MetricValue
from ssvae.data.latents import LatentRows
from ssvae.flow.base import DiffusionPath
from ssvae.metrics.interval import clip_means, mean_interval, metric_from_samples
from ssvae.models.dit import VideoDiT

LOSS_PROTOCOL, TIME_PROTOCOL = "diffusion_loss/1", "diffusion_loss_t/1"
BINS = 4
"""Bins of the metrics by time: a divisor of the usual numbers of draws, so that every latent is in every bin."""


@dataclass(frozen=True, slots=True)
class DiffusionLosses:
    """Losses and times (n,K) of the latents ``rows`` (n,) of the held-out list."""

    rows: Tensor
    losses: Tensor
    times: Tensor

    def per_latent(self) -> Tensor:
        """Mean over a latent's draws, (n,) float64."""
        # Summed draw by draw: the order in which the published values were added.
        total = torch.zeros(len(self.losses), dtype=torch.float64)
        for losses in self.losses.unbind(1):
            total += losses / self.losses.shape[1]
        return total


@torch.no_grad()
def diffusion_losses(
    *,
    dit: VideoDiT,
    latents: LatentRows,
    conditions: Sequence[str | int | None],
    path: DiffusionPath,
    draws: int,
    batch: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
) -> DiffusionLosses:
    """Losses of the latents rank, rank + world, ... of the whole list ``latents`` with its ``conditions``."""
    device = next(dit.parameters()).device
    rows = torch.arange(rank, len(latents), world)
    ids = dit.encode_conditions([conditions[row] for row in rows.tolist()])
    losses = torch.zeros(len(rows), draws, dtype=torch.float64)
    times = torch.zeros(len(rows), draws, dtype=torch.float64)
    for draw in range(draws):
        for start in range(0, len(rows), batch):
            part = slice(start, min(start + batch, len(rows)))
            places = rows[part].tolist()
            noise = torch.stack(
                [torch.randn(latents.shape[1:], generator=torch_generator(seed, "val", i, draw)) for i in places]
            )
            within = torch.stack([torch.rand((), generator=torch_generator(seed, "val-time", i)) for i in places])
            now = (draw + within) / draws
            clean = latents[rows[part]]
            noisy = path.interpolate(clean, noise, now).to(device)
            predicted = dit(noisy, now.to(device), None if ids is None else ids[part]).cpu()
            error = predicted - path.target(clean, noise, now)
            losses[part, draw] = error.double().square().flatten(1).mean(1)
            times[part, draw] = now.double()
    return DiffusionLosses(rows, losses, times)


def merge_losses(parts: Sequence[DiffusionLosses]) -> DiffusionLosses:
    """The ranks' parts as one, in the order of the held-out list. Raises ValueError unless they cover it once."""
    rows = torch.cat([part.rows for part in parts])
    order = rows.argsort()
    if not torch.equal(rows[order], torch.arange(len(rows))):
        raise ValueError(f"parts of {len(rows)} held-out latents do not cover the list once: pass every rank's part")
    losses, times = (torch.cat([getattr(part, name) for part in parts])[order] for name in ("losses", "times"))
    return DiffusionLosses(rows[order], losses, times)


def loss_protocol(path: DiffusionPath, draws: int) -> str:
    return f"{LOSS_PROTOCOL};{path.label}, times stratified, normalised latents, held-out;draws={draws}"


def time_protocol(path: DiffusionPath, draws: int, bins: int) -> str:
    return (
        f"{TIME_PROTOCOL};{path.label}, bins of equal width over t in [0,1], 1 = noise, times stratified, "
        f"normalised latents, held-out;draws={draws};bins={bins}"
    )


def diffusion_loss_metrics(
    found: DiffusionLosses, path: DiffusionPath, keys: Sequence[str], *, bins: int = BINS
) -> list[MetricValue]:
    """``diffusion_loss`` and ``diffusion_loss_t{k}of{n}``, k = 1 next to the data; intervals over clips.

    keys: the clip of every latent of ``found``, in its order. A bin's value is the mean over the latents that have a
    draw in it, each by its own mean; a bin without any draw has no metric.
    """
    draws = found.losses.shape[1]
    overall = loss_protocol(path, draws)
    metrics = [metric_from_samples("diffusion_loss", found.per_latent(), "1", "down", overall, keys)]
    stamp = time_protocol(path, draws, bins)
    for index, (values, chosen) in enumerate(_binned(found, keys, bins)):
        if chosen:
            name = f"diffusion_loss_t{index + 1}of{bins}"
            metrics.append(metric_from_samples(name, values, "1", "down", stamp, chosen))
    return metrics


def diffusion_loss_curve(
    found: DiffusionLosses, path: DiffusionPath, keys: Sequence[str], *, bins: int | None = None
) -> dict[str, Any]:
    """The loss over time for curves.json: x the bins' centres, y the loss, low and high of its 95 % interval, labels.

    bins: as many as there are draws, unless given. Ends of an interval are None where a bin has one clip; a bin without
    any draw is left out.
    """
    count = found.losses.shape[1] if bins is None else bins
    points: dict[str, list[float | None]] = {"x": [], "y": [], "low": [], "high": []}
    for index, (values, chosen) in enumerate(_binned(found, keys, count)):
        if not chosen:
            continue
        mean, interval = mean_interval(clip_means(values, chosen))
        low, high = interval or (None, None)
        for name, value in (("x", (index + 0.5) / count), ("y", mean), ("low", low), ("high", high)):
            points[name].append(value)
    stamp = time_protocol(path, found.losses.shape[1], count)
    return {**points, "x_label": "t (0 = data, 1 = noise)", "y_label": "diffusion loss", "protocol": stamp}


def _binned(found: DiffusionLosses, keys: Sequence[str], bins: int) -> list[tuple[Tensor, list[str]]]:
    """(means of the latents with a draw in the bin, their clips), a bin each."""
    if len(keys) != len(found.losses):
        raise ValueError(f"{len(found.losses)} latents but {len(keys)} clips; name the clip of each latent")
    place = (found.times * bins).long().clamp(0, bins - 1)
    parts = []
    for index in range(bins):
        inside = (place == index).double()
        count = inside.sum(1)
        has = count > 0
        means = (found.losses * inside).sum(1)[has] / count[has]
        parts.append((means, [key for key, there in zip(keys, has.tolist(), strict=True) if there]))
    return parts
