"""Score what a diffusion transformer makes: held-out loss, distances to real clips, the judge, the reward model.

Everything that does not depend on the transformer's weights (features of real clips, of decoded Gaussian latents, of
reconstructions) is made once; then each checkpoint is scored with the same noise, conditions and draws.

Dimension legend
    N clips, C latent channels, F latent frames, h w latent pixels     latent (N,C,F,h,w)
    3 colours, T frames, H W pixels                                     video (N,3,T,H,W) in [-1, 1]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssvae.build import build_flow
from ssvae.build_metrics import build_reward_settings
from ssvae.config.data import DataKind
from ssvae.config.train import Precision
from ssvae.config.tree import ProbeStageConfig
from ssvae.core.progress import Progress
from ssvae.core.ranks import ALONE, Ranks
from ssvae.core.seeds import torch_generator
from ssvae.core.types import MetricValue
from ssvae.data.latents import LatentCache, NormalizedLatents
from ssvae.data.video_file import write_video
from ssvae.flow.sampler import sample
from ssvae.metrics.diffusion_loss import (
    DiffusionLosses,
    diffusion_loss_curve,
    diffusion_loss_metrics,
    diffusion_losses,
    merge_losses,
)
from ssvae.metrics.feature_cache import cached_statistics, data_hash
from ssvae.metrics.feature_set import FeatureStatistics
from ssvae.metrics.frechet_metric import FrechetNetwork, feature_statistics, frechet_metric, statistics_key
from ssvae.metrics.probe import extract_features, probe_fd, reward_metrics
from ssvae.metrics.reward import reward_values
from ssvae.metrics.reward_scoring import score_videos
from ssvae.models.autoencoder import Autoencoder
from ssvae.models.dit import VideoDiT
from ssvae.models.features import FRAMES, SIDE, load_probe_features, load_probe_judge
from ssvae.stages.conditions import REWARD_SEED, Conditions
from ssvae.stages.scored_clips import FrameSpool, ScoredClips
from ssvae.stages.source import Source, clips_at_once

SCORE_SEED = 0
"""Every model of every table starts from the same noise and meets the same validation draws."""


@dataclass(frozen=True)
class Scoring:
    """What all checkpoints of one probe are scored with. caches: folder of statistics that outlive the cell; samples:
    generated clips that are kept as files, of the last checkpoint."""

    stage: ProbeStageConfig
    vae: Autoencoder
    networks: Sequence[FrechetNetwork]
    cache: LatentCache
    heldout: LatentCache
    conditions: Conditions
    source: Source
    folder: Path
    caches: Path
    samples: int
    ranks: Ranks
    progress: Progress

    def loss(self, dit: VideoDiT) -> tuple[list[MetricValue], dict[str, Any]]:
        """``diffusion_loss``, overall and by time, and its curve over time."""
        probe, path = self.stage.probe, build_flow(self.stage.probe)
        # Held-out latents live in the training side's coordinates: a model must not see held-out statistics.
        part = diffusion_losses(
            dit=dit,
            latents=_Told(NormalizedLatents(self.heldout, by=self.cache), self._rows() * probe.validation_draws, self),
            conditions=self.conditions.heldout,
            path=path,
            draws=probe.validation_draws,
            batch=probe.sample.batch,
            seed=SCORE_SEED,
            rank=self.ranks.rank,
            world=self.ranks.world,
        )
        parts = self.ranks.gather((part.rows, part.losses, part.times))
        found = merge_losses([DiffusionLosses(*one) for one in parts])
        keys = [entry.key for entry in self.heldout.samples]
        return diffusion_loss_metrics(found, path, keys), diffusion_loss_curve(found, path, keys)

    def scores(self, dit: VideoDiT, step: int, last: bool) -> list[MetricValue]:
        """Of generated clips, the same on every rank; the last ones are kept, and frames for :meth:`reward`."""
        made = ScoredClips(self.networks)
        spool, texts = self.spool(step), self.conditions.texts
        if spool is not None and self.ranks.first:
            spool.remove()
        self.ranks.wait()

        def generated(rows: list[int]) -> Tensor:
            return self.generate(dit, self._noise(rows), [self.conditions.asked[row] for row in rows])

        def keep(rows: list[int], videos: Tensor) -> None:
            for row, video in zip(rows, videos, strict=True):
                if last and row < self.samples:
                    write_video(self.folder / "samples" / f"generated_{row}.mp4", video, self.stage.resolution.fps)
            if spool is not None:
                spool.add(videos, rows)

        self._decoded(made, f"sample and score after {step}", len(texts), generated, keep)
        values = self.distances(made, "", warn=last)
        judge, card = load_probe_judge()
        values += reward_metrics(
            made.small, texts, judge=judge, card=card, calibrated=self.calibrated, keys=self.conditions.names
        )
        self.ranks.wait()
        if spool is not None and self.ranks.first:
            spool.close()
        return values

    def spool(self, step: int) -> FrameSpool | None:
        """Frames of the clips generated after ``step`` updates, for the reward model; None where none is asked."""
        if self.stage.reward is None:
            return None
        return FrameSpool(self.folder / "shown" / f"step_{step:07d}", self.stage.reward.frames)

    def reward(self, step: int) -> list[MetricValue]:
        """What the reward model says of the clips of :meth:`scores`. The first rank asks, and tells the others."""
        spool, values = self.spool(step), list[MetricValue]()
        if spool is not None and self.stage.reward is not None and self.ranks.first:
            names, texts = self.conditions.names, [text or "" for text in self.conditions.texts]
            keys = [f"{place}:{name}" for place, name in enumerate(names)]
            settings = build_reward_settings(self.stage.reward, REWARD_SEED)
            store = self.folder / "reward.jsonl"
            result = score_videos(spool.videos(len(texts)), keys, texts, settings, store, self.progress)
            values = reward_values(result, names)
        return self.ranks.share(values)

    def baselines(self) -> list[MetricValue]:
        """Distances of decoded Gaussian latents and of reconstructions: where a probe starts, and what bounds it."""
        gaussian, reconstruction = ScoredClips(()), ScoredClips(self.networks)
        count = len(self.heldout)
        self._decoded(gaussian, "decode Gaussian latents", count, self._noise)
        self._decoded(reconstruction, "decode held-out latents", count, lambda rows: self.heldout.raw(rows), raw=True)
        return [*self.distances(gaussian, "_gaussian"), *self.distances(reconstruction, "_reconstruction")]

    def distances(self, made: ScoredClips, suffix: str, warn: bool = False) -> list[MetricValue]:
        """``probe_fd`` and the distance of each network that ``made`` was seen by. suffix: of their names; warn: of too
        few clips, once a probe is enough."""
        network, card = load_probe_features()
        features = extract_features(network, made.small)
        value = probe_fd(self._real_features, features, card=card, calibrated=self.calibrated, warn=warn)
        direction = "none" if suffix else value.direction
        values = [replace(value, name=f"probe_fd{suffix}", direction=direction)]
        for one, reference, found in zip(self.networks, self._references, made.features, strict=False):
            distance = frechet_metric(f"{one.metric}{suffix}", reference, found, one, warn)
            values.append(replace(distance, direction="none" if suffix else distance.direction))
        return values

    def generate(self, dit: VideoDiT, noise: Tensor, conditions: Sequence[str | int | None]) -> Tensor:
        """Normalised latents (N,C,F,h,w) from ``noise``, one a condition, by guided steps along the path.

        The transformer computes in the precision that it was trained in; the sample itself stays float32.
        """
        ids = dit.encode_conditions(conditions)
        probe, device = self.stage.probe, next(dit.parameters()).device
        cfg = probe.sample
        half = probe.train.precision is Precision.bf16
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return sample(
                build_flow(probe),
                lambda x, t, condition: dit(x, t, condition),
                noise.to(device),
                cfg.steps,
                guidance=cfg.guidance if ids is not None else 1.0,
                condition=ids,
                null_condition=dit.null_conditions(len(noise)) if ids is not None else None,
            )

    @property
    def calibrated(self) -> bool:
        """Are these clips of the kind and the size that the shipped networks were trained on?"""
        clip = self.stage.resolution
        trained_on = (FRAMES, SIDE, SIDE, 8.0)
        kind = self.stage.data.kind
        return kind is DataKind.synthetic and (clip.frames, clip.height, clip.width, clip.fps) == trained_on

    @cached_property
    def _real(self) -> ScoredClips:
        found = ScoredClips(())
        rows = 0
        for batch in self._windows("read held-out clips", self.ranks):
            found.update(batch, range(rows, rows + len(batch)))
            rows += len(batch)
        found.join(self.ranks)
        return found

    @cached_property
    def _real_features(self) -> Tensor:
        return extract_features(load_probe_features()[0], self._real.small)

    @cached_property
    def _references(self) -> list[FeatureStatistics]:
        """Of real clips, from the cache where it has them; one rank makes them: it happens once a data set."""
        clip, data = self.stage.resolution, data_hash(self.source.fingerprint, self.source.heldout)
        window = (clip.frames, clip.height, clip.width)
        found = []
        for network in self.networks:
            key = statistics_key(network, data, window, clip.fps, len(self.heldout))
            state: dict[str, Tensor] = {}
            if self.ranks.first:
                make = partial(self._statistics_of_real, network)
                state = cached_statistics(self.caches / "features", key, make).state_dict()
            found.append(FeatureStatistics.merged([self.ranks.share(state)]))
        return found

    def _statistics_of_real(self, network: FrechetNetwork) -> FeatureStatistics:
        return feature_statistics(network, self._windows(f"features of held-out clips for {network.metric}"))

    def _windows(self, what: str, ranks: Ranks = ALONE) -> Iterator[Tensor]:
        cfg, clip, done = self.stage.probe.sample, self.stage.resolution, 0
        self.progress.start(what, -(-cfg.clips // ranks.world))
        for batch in self.source.windows(self.source.heldout, clip, cfg.clips, cfg.batch, ranks):
            yield batch.video
            done += len(batch.keys)
            self.progress.advance(done)

    def _rows(self) -> int:
        """Held-out latents that fall to this rank."""
        return len(range(self.ranks.rank, len(self.heldout), self.ranks.world))

    @torch.no_grad()
    def _decoded(
        self,
        into: ScoredClips,
        what: str,
        count: int,
        latents: Callable[[list[int]], Tensor],
        seen: Callable[[list[int], Tensor], None] | None = None,
        raw: bool = False,
    ) -> None:
        """Decode this rank's share of ``count`` clips into ``into``, and join it. latents: of rows, normalised unless
        ``raw``. seen: called with rows and clips."""
        mine = list(range(self.ranks.rank, count, self.ranks.world))
        at_once, size = clips_at_once(self.stage.resolution), self.stage.probe.sample.batch
        device = self.vae.latent_mean.device
        self.progress.start(what, len(mine), 0)
        for start in range(0, len(mine), size):
            rows = mine[start : start + size]
            found = latents(rows)
            found = found if raw else self._denormalize(found)
            parts = [self.vae.decode(part.to(device)).clamp(-1, 1).cpu() for part in found.split(at_once)]
            videos = torch.cat(parts)
            into.update(videos, rows)
            if seen is not None:
                seen(rows, videos)
            self.progress.advance(start + len(rows))
        into.join(self.ranks)

    def _noise(self, rows: list[int]) -> Tensor:
        shape = self.cache.latents.shape[1:]
        return torch.stack([torch.randn(shape, generator=torch_generator(SCORE_SEED, "sample", row)) for row in rows])

    def _denormalize(self, latents: Tensor) -> Tensor:
        return (latents.cpu().double() * _column(self.cache.std) + _column(self.cache.mean)).float()


class _Told:
    """Latents by rows (data/latents.py) that tell a progress how many of ``total`` rows were read."""

    def __init__(self, latents: NormalizedLatents, total: int, scoring: Scoring) -> None:
        self._latents, self._progress, self._read = latents, scoring.progress, 0
        self._progress.start("held-out loss", total)

    @property
    def shape(self) -> torch.Size:
        return self._latents.shape

    def __len__(self) -> int:
        return len(self._latents)

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        self._progress.advance(self._read)
        self._read += len(rows)
        return self._latents[rows]


def _column(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1)
