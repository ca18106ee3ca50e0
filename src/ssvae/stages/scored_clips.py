"""What a set of clips leaves behind for its scores, so that no clip has to be kept: features, and small copies.

Dimension legend
    B clips, 3 colours, T frames, H W pixels    videos (B,3,T,H,W) in [-1, 1]
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssvae.core.ranks import Ranks
from ssvae.metrics.feature_set import FeatureStatistics
from ssvae.metrics.frechet_metric import FrechetNetwork
from ssvae.metrics.reward import shown_frames
from ssvae.models.features import standard_clip


class ScoredClips:
    """One set of clips, collected by ranks and then joined.

    rows: the places of clips in their list. small: clips as the shipped networks see them, in the order of ``rows``
    after :meth:`join`. features: the statistics of each network of ``networks``.
    """

    def __init__(self, networks: Sequence[FrechetNetwork]) -> None:
        self._networks = list(networks)
        self.features = [FeatureStatistics(network.dim) for network in networks]
        self.rows: list[int] = []
        self._small: list[Tensor] = []

    def update(self, videos: Tensor, rows: Sequence[int]) -> None:
        """Add clips (B,3,T,H,W) in [-1,1]."""
        self.rows += rows
        self._small.append(standard_clip(videos).cpu())
        for network, statistics in zip(self._networks, self.features, strict=True):
            statistics.update(network.features(videos))

    @property
    def small(self) -> Tensor:
        return torch.cat(self._small)

    def join(self, ranks: Ranks) -> None:
        """Become the set of all ranks, in the order of rows."""
        if ranks.world == 1:
            return
        parts = ranks.gather((self.rows, self._small, [statistics.state_dict() for statistics in self.features]))
        rows = [row for part in parts for row in part[0]]
        small = torch.cat([clip for part in parts for clip in part[1]])
        order = sorted(range(len(rows)), key=rows.__getitem__)
        self.rows, self._small = [rows[place] for place in order], [small[order]]
        states = zip(*(part[2] for part in parts), strict=True)
        self.features = [FeatureStatistics.merged(list(each)) for each in states]


class FrameSpool:
    """The frames that a reward model is shown, on disk until it has answered for all clips: sampling need not be
    repeated because a server failed, and 2,048 clips fill no memory.

    folder: made when needed; ranks share it. frames: shown of each clip. complete: are all clips there?
    """

    def __init__(self, folder: Path, frames: int) -> None:
        self.folder, self.frames = folder, frames

    @property
    def complete(self) -> bool:
        return (self.folder / "complete").exists()

    def close(self) -> None:
        """All clips are there."""
        (self.folder / "complete").touch()

    def add(self, videos: Tensor, rows: Sequence[int]) -> None:
        """Keep the shown frames of clips (B,3,T,H,W) in [-1,1]."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for row, video in zip(rows, videos, strict=True):
            np.save(self.folder / f"{row:06d}.npy", shown_frames(video, self.frames).numpy(), allow_pickle=False)

    def videos(self, count: int) -> Iterator[Tensor]:
        """Clips (3,n,H,W) uint8 of the shown frames alone, row by row."""
        for row in range(count):
            frames = np.load(self.folder / f"{row:06d}.npy", allow_pickle=False)
            yield torch.from_numpy(frames).permute(3, 0, 1, 2)

    def remove(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)
