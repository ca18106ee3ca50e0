"""A data set as the stages see it: opened once, split by key, fingerprinted by content."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssvae.config.data import DataConfig, DataKind
from ssvae.config.resolution import ResolutionConfig
from ssvae.core.files import exclusive, read_json, write_json
from ssvae.core.identity import fingerprint
from ssvae.core.progress import Progress
from ssvae.core.ranks import ALONE, Ranks
from ssvae.data.evaluation import EvaluationClip, evaluation_clips
from ssvae.data.mix import Batch, BatchPlan, batches
from ssvae.data.rejects import RejectLog
from ssvae.data.shards import ShardIndex, index_shards, split
from ssvae.data.synthetic import SYNTHETIC_VERSION
from ssvae.data.synthetic_shards import write_synthetic

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WindowBatch:
    """Deterministic windows: video (B,3,T,H,W) in [-1, 1] with key, place in the list, caption and label of each."""

    video: Tensor
    keys: list[str]
    places: list[int]
    captions: list[str | None]
    labels: list[int | None]


class Source:
    """One opened data set. train, heldout: keys of the two sides of the split; fingerprint: of the content.

    conditions: fingerprint of the captions and labels in the meta lines.
    """

    def __init__(self, data: DataConfig, index: ShardIndex, images: ShardIndex | None) -> None:
        self.index = index
        self.images = images
        self.train, self.heldout = split(index.keys("video"), data.heldout_share, data.split_seed)
        if not self.heldout:
            raise ValueError(
                f"data.path = {data.path}: {len(self.train)} clips leave none to hold out for measuring: "
                "at least 2 clips are needed"
            )
        self.train_images: list[str] | None = None
        if images is not None:
            # By hash of the key, so a picture of a held-out clip that has its key is held out with it.
            self.train_images, _ = split(images.keys("image"), data.heldout_share, data.split_seed)
        parts = [index.fingerprint, images.fingerprint if images is not None else None]
        self.fingerprint = fingerprint(parts, 32)
        # Labels, and captions without a .txt, lie in the meta lines, which the index's own fingerprint leaves out.
        told = sorted((s.key, str(s.meta.get("caption")), str(s.meta.get("label"))) for s in index.samples)
        self.conditions = fingerprint([list(row) for row in told], 32)
        self._limit = data.reject_share
        self._rejects = RejectLog(limit=self._limit)
        self._noted: tuple[Path, int] | None = None

    def count_rejects(self, folder: Path, note: bool = True) -> None:
        """Count unusable clips for the stage in ``folder`` from here on, with those that a stopped attempt met.

        They are written to ``rejects.json`` when they are met: steps before a checkpoint are never read again. note:
        is this the process that writes? Each rank counts what it reads, and the share limit is each one's own.
        """
        self._rejects = RejectLog(limit=self._limit)
        path = folder / "rejects.json"
        if path.exists():
            self._rejects.load_state(read_json(path))
        self._noted = (path, len(self._rejects.reasons)) if note else None

    @property
    def rejected(self) -> dict[str, int]:
        """Number of different unusable clips met by this stage so far, by reason."""
        return self._rejects.counts()

    def _note_rejects(self) -> None:
        if self._noted is not None and len(self._rejects.reasons) != self._noted[1]:
            write_json(self._noted[0], self._rejects.state())
            self._noted = (self._noted[0], len(self._rejects.reasons))

    def batches(
        self,
        data: DataConfig,
        resolution: ResolutionConfig,
        *,
        batch: int,
        seed: int,
        workers: int,
        ranks: Ranks = ALONE,
    ) -> Callable[[Sequence[int]], Iterator[Batch]]:
        """Batch numbers -> this rank's parts of those training batches; rejected clips are counted, named and limited.

        batch, and ``data.image_batch``: over all ranks; ValueError where the ranks do not divide them.
        """
        for name, size in (("train.batch", batch), ("data.image_batch", data.image_batch)):
            if size % ranks.world and not (name == "data.image_batch" and self.images is None):
                raise ValueError(f"{name} = {size}: is not divisible by the {ranks.world} ranks that share it")
        plan = BatchPlan(
            self.index,
            self.train,
            frames=resolution.frames,
            fps=resolution.fps,
            size=(resolution.height, resolution.width),
            batch=batch // ranks.world,
            seed=seed,
            image_index=self.images,
            image_keys=self.train_images,
            image_weight=data.image_weight,
            video_weight=data.video_weight,
            image_batch=max(1, data.image_batch // ranks.world),
            rank=ranks.rank,
            ranks=ranks.world,
        )

        def counted(numbers: Sequence[int]) -> Iterator[Batch]:
            for one in batches(plan, numbers, workers):
                self._rejects.add(len(one.keys), one.rejects)
                self._note_rejects()
                yield one

        return counted

    def windows(
        self, keys: Sequence[str], resolution: ResolutionConfig, count: int, batch: int, ranks: Ranks = ALONE
    ) -> Iterator[WindowBatch]:
        """Up to ``count`` fixed windows of the clips ``keys``, in batches of ``batch``; over all ranks each once."""
        clips = evaluation_clips(
            self.index,
            keys,
            frames=resolution.frames,
            fps=resolution.fps,
            size=(resolution.height, resolution.width),
            count=count,
            rejects=self._rejects,
            rank=ranks.rank,
            ranks=ranks.world,
        )
        group: list[EvaluationClip] = []
        for clip in clips:
            group.append(clip)
            self._note_rejects()
            if len(group) == batch:
                yield _stack(group)
                group = []
        self._note_rejects()
        if group:
            yield _stack(group)


PIXELS_AT_ONCE = 4_000_000
"""Pixels (frames x height x width over all clips) of one pass without gradients: 10 GB at the published widths."""


def clips_at_once(resolution: ResolutionConfig) -> int:
    """How many clips a pass without gradients takes, so that its memory stays below a training step's."""
    return max(1, PIXELS_AT_ONCE // (resolution.frames * resolution.height * resolution.width))


def data_name(data: DataConfig) -> str:
    """What a record calls a data set: its kind, or the names of its folders, without where they lie."""
    if data.path is None:
        return data.kind.value
    return ",".join(Path(part.strip()).name for part in data.path.split(","))


def _stack(clips: Sequence[EvaluationClip]) -> WindowBatch:
    return WindowBatch(
        torch.stack([clip.video for clip in clips]),
        [clip.key for clip in clips],
        [clip.place for clip in clips],
        [clip.caption for clip in clips],
        [clip.label for clip in clips],
    )


def open_source(data: DataConfig, root: Path, progress: Progress) -> Source:
    """Open a data set; the synthetic one is rendered and written first, once, under ``root/runs/data``.

    Raises ValueError for shards that cannot be used.
    """
    path = data.path
    if data.kind is DataKind.synthetic:
        assert data.synthetic is not None
        path = str(_synthetic(data, root, progress))
    assert path is not None
    index = index_shards(path)
    for problem in index.problems[:10]:
        logger.warning("data: %s %s (%s)", problem.reason, problem.name, problem.detail)
    if not index.keys("video"):
        raise ValueError(f"data.path = {path}: holds no clips; give a folder with NNNNNN.tar beside NNNNNN.meta.jsonl")
    images = index_shards(data.image_path) if data.image_path is not None else None
    if images is not None and not images.keys("image"):
        raise ValueError(f"data.image_path = {data.image_path}: holds no images")
    return Source(data, index, images)


def synthetic_folder(data: DataConfig, root: Path) -> Path:
    """Where the embedded data set of ``data`` lies once it is rendered."""
    values = asdict(data.synthetic)  # type: ignore[arg-type]
    return root / "runs" / "data" / f"synthetic-{fingerprint({**values, 'version': SYNTHETIC_VERSION}, 8)}"


def _synthetic(data: DataConfig, root: Path, progress: Progress) -> Path:
    values = asdict(data.synthetic)  # type: ignore[arg-type]
    folder = synthetic_folder(data, root)
    with exclusive(folder.with_name(f".{folder.name}.lock"), wait=True):
        if not folder.exists():
            for leftover in folder.parent.glob(f".{folder.name}-*"):  # of a killed call
                shutil.rmtree(leftover)
            progress.start("render the embedded data set", values["clips"], 0)
            write_synthetic(folder, **values, progress=lambda done, total: progress.advance(done))
    return folder
