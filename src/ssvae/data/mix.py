"""Training batches as a function of the step.

``plan[step]`` depends on nothing but the plan and the step: the position to resume at is the step itself, and any
number of loader workers gives the same batches. The number of a sample is counter = (step x ranks + rank) x batch +
slot, so ``ranks`` ranks together see exactly what one rank with ranks x batch would.

Dimension legend
    B batch, 3 colours, T frames, H W pixels    video (B,3,T,H,W) float32 in [-1, 1]; an image has T = 1
"""

from __future__ import annotations

import atexit
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import active_children
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssvae.core.seeds import derive, numpy_generator
from ssvae.core.stop import SIGNALS
from ssvae.data.pixels import ClipError, to_video
from ssvae.data.reader import WindowReader
from ssvae.data.rejects import Reject
from ssvae.data.shards import Sample, ShardIndex

Modality = Literal["video", "image"]
ATTEMPTS = 16
"""Draws for one place in a batch before the data set is called unusable."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch of one modality.

    video (B,3,T,H,W) in [-1, 1]; keys, captions: of each sample; drawn: each sample's key, a clip's with the place of
    its window in [0, 1]; labels (B,) int64, -1 without one; rejects: samples that were drawn and could not be used
    (each was replaced).
    """

    video: Tensor
    keys: list[str]
    drawn: list[str]
    captions: list[str | None]
    labels: Tensor
    modality: Modality
    rejects: list[Reject]


class BatchPlan(Dataset[Batch]):
    """Batches by step: clips from ``keys`` of ``index``, and images from ``image_keys`` of ``image_index``.

    frames, fps, size: the window of a clip; its start is uniform over all places where it fits. batch, image_batch:
    samples a batch of each modality and rank. image_weight : video_weight are the odds of a step's modality, drawn
    from (seed, step); without an ``image_index`` every step is video. In every epoch each sample is drawn once, in
    an order of its own; steps of the other modality skip the numbers that would have been theirs. A sample that
    cannot be used is replaced by the next draw of its place, and reported.

    Raises ValueError for an empty or unknown selection of samples, and, from ``plan[step]``, when 16 samples in a
    row cannot be used.
    """

    def __init__(
        self,
        index: ShardIndex,
        keys: Sequence[str],
        *,
        frames: int,
        fps: float,
        size: int | tuple[int, int],
        batch: int,
        seed: int,
        image_index: ShardIndex | None = None,
        image_keys: Sequence[str] | None = None,
        image_weight: float = 1.0,
        video_weight: float = 7.0,
        image_batch: int = 1,
        rank: int = 0,
        ranks: int = 1,
        upscale: bool = True,
        cache_mb: float = 128.0,
    ) -> None:
        if batch < 1 or image_batch < 1:
            raise ValueError(f"train.batch={batch} and data.image_batch={image_batch} must be at least 1")
        if image_weight < 0 or video_weight < 0 or image_weight + video_weight <= 0:
            raise ValueError(f"data: image weight {image_weight} and video weight {video_weight} must be odds")
        assert 0 <= rank < ranks, (rank, ranks)
        self._samples: dict[Modality, list[Sample]] = {"video": select(index, keys, "video"), "image": []}
        self._batch: dict[Modality, int] = {"video": batch, "image": image_batch}
        self._image_share = 0.0
        if image_index is not None and image_weight > 0:
            wanted = image_index.keys("image") if image_keys is None else image_keys
            self._samples["image"] = select(image_index, wanted, "image")
            self._image_share = image_weight / (image_weight + video_weight)
        self._reader = WindowReader(frames=frames, fps=fps, size=size, upscale=upscale, cache_mb=cache_mb)
        self._seed = seed
        self._rank, self._ranks = rank, ranks
        self._orders: dict[tuple[Modality, int], NDArray[np.int64]] = {}

    def modality(self, step: int) -> Modality:
        """What the batch of ``step`` consists of; equal on all ranks."""
        return "image" if _uniform(self._seed, "data.modality", step) < self._image_share else "video"

    def __getitem__(self, step: int) -> Batch:
        modality = self.modality(step)
        size = self._batch[modality]
        first = (step * self._ranks + self._rank) * size
        rejects: list[Reject] = []
        drawn = [self._draw(modality, first + slot, rejects) for slot in range(size)]
        labels = [-1 if sample.label is None else sample.label for sample, _, _ in drawn]
        return Batch(
            video=torch.stack([to_video(window) for _, _, window in drawn]),
            keys=[sample.key for sample, _, _ in drawn],
            # A float's text has every digit: with the key it says which frames were seen.
            drawn=[sample.key if place is None else f"{sample.key}@{place!r}" for sample, place, _ in drawn],
            captions=[sample.caption() for sample, _, _ in drawn],
            labels=torch.tensor(labels, dtype=torch.int64),
            modality=modality,
            rejects=rejects,
        )

    def _draw(self, modality: Modality, counter: int, rejects: list[Reject]) -> tuple[Sample, float | None, Tensor]:
        """A sample, where its window lies (None for an image), and what it shows."""
        failed = []
        for attempt in range(ATTEMPTS):
            sample = self._choose(modality, counter, attempt)
            try:
                if modality == "image":
                    return sample, None, self._reader.picture(sample)
                position = _uniform(self._seed, "data.position", counter, attempt)
                return sample, position, self._reader.window(sample, position)
            except ClipError as error:
                failed.append((sample.key, error.reason))
                rejects.append(failed[-1])
        names = ", ".join(f"{key} ({reason})" for key, reason in failed[:4])
        raise ValueError(f"data: {ATTEMPTS} {modality} samples in a row could not be used: {names}, ...")

    def _choose(self, modality: Modality, counter: int, attempt: int) -> Sample:
        samples = self._samples[modality]
        if attempt:
            # An independent draw, not the neighbour in the epoch: that one already has its own place in the batch.
            return samples[derive(self._seed, f"data.replacement.{modality}", counter, attempt) % len(samples)]
        epoch, place = divmod(counter, len(samples))
        order = self._orders.get((modality, epoch))
        if order is None:
            for known in [known for known in self._orders if known[0] == modality and known[1] < epoch - 1]:
                del self._orders[known]
            order = numpy_generator(self._seed, f"data.order.{modality}", epoch).permutation(len(samples))
            self._orders[(modality, epoch)] = order
        return samples[int(order[place])]


def select(index: ShardIndex, keys: Sequence[str], kind: Modality) -> list[Sample]:
    """The samples of ``keys`` in that order. Raises ValueError when there are none, or one is not of that kind."""
    by_key = index.by_key()
    wrong = [key for key in keys if key not in by_key or by_key[key].kind != kind]
    if wrong:
        raise ValueError(f"data: {len(wrong)} keys are no {kind} of this data set, the first is {wrong[0]!r}")
    if not keys:
        raise ValueError(f"data: no {kind} to read: the data set (or its part after the split) has none")
    return [by_key[key] for key in keys]


def batches(plan: BatchPlan, numbers: Sequence[int], workers: int = 0, context: str | None = None) -> Iterator[Batch]:
    """``plan[number]`` for each of ``numbers``, in order, read ahead by ``workers`` processes (0: in this one).

    context: how workers start ("fork", "spawn"), the platform's way by default. The global random state is left
    alone. Raises what ``plan[step]`` raises.
    """
    loader: DataLoader[Batch | ValueError] = DataLoader(
        _ErrorsAsValues(plan),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_as_is,
        worker_init_fn=_leave_signals_to_the_main_process,
        multiprocessing_context=context if workers else None,
        # Without a generator the loader draws its base seed from the global one, which the model's draws share.
        generator=torch.Generator().manual_seed(0),
    )
    others = set(active_children())
    held = [iter(loader)]
    ours = set(active_children()) - others

    def end() -> None:
        held.clear()  # the last reference: the loader tells its workers to end, and waits for them
        for worker in ours:
            if worker.is_alive():  # stuck in a file: it takes no signal that can be ignored
                worker.kill()

    # An error may keep this generator alive until the process ends, which then would wait for workers for ever.
    atexit.register(end)
    try:
        while (batch := next(held[0], None)) is not None:
            if isinstance(batch, ValueError):
                raise batch
            yield batch
    finally:
        atexit.unregister(end)
        end()


def _leave_signals_to_the_main_process(worker: int) -> None:
    """A scheduler signals every process of a job. A worker that dies of it takes the main process down in the middle
    of an update; that one decides, and a worker ends with it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class _ErrorsAsValues(Dataset["Batch | ValueError"]):
    """Carry a plan's ValueError out of a worker as it is: torch would wrap it in the worker's whole traceback."""

    def __init__(self, plan: BatchPlan) -> None:
        self._plan = plan

    def __getitem__(self, step: int) -> Batch | ValueError:
        try:
            return self._plan[step]
        except ValueError as error:
            return ValueError(str(error))


def _as_is(batch: Any) -> Any:
    return batch


def _uniform(seed: int, stream: str, *index: int) -> float:
    """Uniform in [0, 1)."""
    return derive(seed, stream, *index) / 2**63
