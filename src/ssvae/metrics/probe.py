"""Probe distance and probe reward: proxies for FDD/FVD and a video reward, from the networks that the package ships.

They rank models on the bench's synthetic clips. On other clips they are not calibrated: the protocol says so, and
captions that the judge cannot read are counted, never guessed.

Dimension legend
    N clips, D feature dimension   video (N,3,T,H,W) in [-1, 1], T >= 5   features (N,D)   scores (N,) in [0, 1]
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssvae.core.seeds import torch_generator
from ssvae.core.types import Direction, MetricValue
from ssvae.data.captions import VOCABULARY, parse_caption, targets, wrong_caption
from ssvae.metrics.interval import metric_from_samples
from ssvae.models.features import NetworkCard, ProbeFeatures, ProbeJudge
from ssvae.stats.frechet import frechet_from_features

log = logging.getLogger(__name__)


@torch.no_grad()
def extract_features(network: ProbeFeatures, videos: Tensor | Iterable[Tensor], batch: int = 32) -> Tensor:
    """Features (N,D) float64 on the CPU of clips (N,3,T,H,W), or of an iterable of such batches.

    The network is in eval mode, so features of a clip do not depend on the batch beyond float32 rounding.
    Raises ValueError for a network in training mode or no clips.
    """
    if network.training:
        raise ValueError("the feature network is in training mode, so clips would see each other; call eval() first")
    device = next(network.parameters()).device
    parts = [videos] if isinstance(videos, Tensor) else videos
    found = [network(chunk.to(device)).double().cpu() for part in parts for chunk in part.split(batch) if len(chunk)]
    if not found:
        raise ValueError("no clips to take features of; generate or read at least 2")
    return torch.cat(found)


def protocol(card: NetworkCard, *, calibrated: bool) -> str:
    """The network's stamp, and whether the clips are of the kind that it was trained on."""
    return card.stamp if calibrated else f"{card.stamp};not calibrated"


def probe_fd(real: Tensor, fake: Tensor, *, card: NetworkCard, calibrated: bool, warn: bool = True) -> MetricValue:
    """Fréchet distance of features real (N,D) and fake (M,D), in squared standard deviations of clean clips' features.

    calibrated: whether both sets are clips of the bench's synthetic kind. Fewer clips than dimensions give a
    distance that is biased upwards by much; ``warn`` says so; compare only at equal N and M.
    """
    for name, features in (("real", real), ("fake", fake)):
        if warn and features.shape[0] <= features.shape[1]:
            log.warning(
                "probe_fd: %d %s clips for %d feature dimensions: the distance is biased upwards; take more clips",
                features.shape[0],
                name,
                features.shape[1],
            )
    value = frechet_from_features(real, fake)
    stamp = f"{protocol(card, calibrated=calibrated)};real={len(real)}"
    return MetricValue("probe_fd", value, "squared feature std", "down", len(fake), None, stamp)


@dataclass(frozen=True, slots=True)
class ProbeReward:
    """Judge's scores (N,) float64 in [0,1], NaN where the caption is missing or not of the judge's language."""

    scores: Tensor

    @property
    def unreadable(self) -> int:
        """How many clips have no score."""
        return int(torch.isnan(self.scores).sum())

    def summary(
        self, name: str, direction: Direction, stamp: str, keys: Sequence[str] | None = None
    ) -> MetricValue | None:
        """Mean over scored clips with its 95 % interval; None when no clip has a score; keys: the clip of each."""
        scored = ~torch.isnan(self.scores)
        if not bool(scored.any()):
            return None
        names = None if keys is None else [key for key, good in zip(keys, scored.tolist(), strict=True) if good]
        return metric_from_samples(name, self.scores[scored], "score in [0,1]", direction, stamp, names)


@torch.no_grad()
def probe_reward(
    videos: Tensor, captions: Sequence[str | None], *, judge: ProbeJudge, card: NetworkCard, batch: int = 32
) -> ProbeReward:
    """How well clips (N,3,T,H,W) show what their captions say; captions are N texts or None.

    Raises ValueError when counts differ, the judge is in training mode, or it was trained on another vocabulary.
    """
    if len(captions) != len(videos):
        raise ValueError(f"{len(videos)} clips but {len(captions)} captions; give one (or None) a clip")
    if judge.training:
        raise ValueError("the judge is in training mode, so clips would see each other; call eval() first")
    if card.vocabulary != {name: list(values) for name, values in VOCABULARY.items()}:
        raise ValueError(
            "the judge was trained on another vocabulary of attributes; "
            "retrain it with python -m ssvae.cli.train_probe_networks"
        )
    device = next(judge.parameters()).device
    scores = torch.full((len(captions),), math.nan, dtype=torch.float64)
    stated = {row: found for row, text in enumerate(captions) if (found := parse_caption(text or "")) is not None}
    for rows in torch.tensor(sorted(stated), dtype=torch.int64).split(batch):
        indices = [targets(stated[row]) for row in rows.tolist()]
        values = {name: torch.tensor([index[name] for index in indices], device=device) for name in VOCABULARY}
        if len(rows):
            scores[rows] = judge.score(videos[rows].to(device), values).cpu()
    return ProbeReward(scores)


def wrong_captions(captions: Sequence[str | None], seed: int) -> list[str | None]:
    """For each readable caption a false one, drawn by its position; None for the others."""
    wrong: list[str | None] = []
    for row, text in enumerate(captions):
        stated = parse_caption(text or "")
        wrong.append(None if stated is None else wrong_caption(stated, torch_generator(seed, "probe.wrong", row)))
    return wrong


def reward_metrics(
    videos: Tensor,
    captions: Sequence[str | None],
    *,
    judge: ProbeJudge,
    card: NetworkCard,
    calibrated: bool,
    seed: int = 0,
    batch: int = 32,
    keys: Sequence[str] | None = None,
) -> list[MetricValue]:
    """Rows for ``metrics.json``: probe_reward, probe_reward_wrong (the control with false captions, to be lower),
    probe_reward_unreadable (a count). Without a readable caption only the count is reported, with a warning."""
    stamp = protocol(card, calibrated=calibrated)
    right = probe_reward(videos, captions, judge=judge, card=card, batch=batch)
    control = probe_reward(videos, wrong_captions(captions, seed), judge=judge, card=card, batch=batch)
    if right.unreadable:
        log.warning("probe_reward: %d of %d captions are not of the judge's language", right.unreadable, len(captions))
    rows = [
        right.summary("probe_reward", "up", stamp, keys),
        control.summary("probe_reward_wrong", "none", stamp, keys),
    ]
    count = MetricValue("probe_reward_unreadable", float(right.unreadable), "clips", "none", len(captions), None, stamp)
    return [row for row in rows if row is not None] + [count]
