"""One global sequence of samples, however many ranks and loader workers share it, whoever stops and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import get_worker_info

from ssvae.core.stop import SIGNALS
from ssvae.data.mix import Batch, BatchPlan, batches
from ssvae.data.shards import ShardIndex

GLOBAL = 12
"""Samples a step over all ranks; 14 clips and 6 images are no multiple of it, so epochs end in the middle of steps."""
STEPS = range(6)


def plan(index: ShardIndex, images: ShardIndex, rank: int, world: int) -> BatchPlan:
    return BatchPlan(
        index, index.keys("video"), frames=9, fps=8.0, size=16, seed=5, batch=GLOBAL // world, image_index=images,
        image_batch=GLOBAL // world, image_weight=3, video_weight=4, rank=rank, ranks=world,
    )  # fmt: skip


def run(
    index: ShardIndex, images: ShardIndex, world: int, workers: int, numbers: Sequence[int] = STEPS
) -> list[list[Batch]]:
    """Each step's batches of all ranks."""
    ranks = [list(batches(plan(index, images, rank, world), numbers, workers)) for rank in range(world)]
    return [list(step) for step in zip(*ranks, strict=True)]


def sequence(steps: list[list[Batch]]) -> list[list[str]]:
    return [[name for batch in step for name in batch.drawn] for step in steps]


@pytest.fixture(scope="module")
def alone(synthetic_index: ShardIndex, image_index: ShardIndex) -> list[list[Batch]]:
    return run(synthetic_index, image_index, 1, 0)


@pytest.mark.parametrize(
    ("world", "workers"), [(1, 1), (1, 2), (2, 0), (2, 1), (3, 0), (3, 2), (4, 0), (4, 1), (12, 0)]
)
def test_the_global_sequence_is_one(
    world: int, workers: int, alone: list[list[Batch]], synthetic_index: ShardIndex, image_index: ShardIndex
) -> None:
    assert {step[0].modality for step in alone} == {"video", "image"}
    shared = run(synthetic_index, image_index, world, workers)
    assert sequence(shared) == sequence(alone)
    for step, whole in zip(shared, alone, strict=True):
        assert {len(batch.keys) for batch in step} == {GLOBAL // world}, "equal parts"
        assert len({batch.modality for batch in step}) == 1, "all ranks draw the same kind"
        assert torch.equal(torch.cat([batch.video for batch in step]), whole[0].video)


@pytest.mark.parametrize("stop", [1, 4])
def test_another_number_of_ranks_and_workers_goes_on_exactly(
    stop: int, alone: list[list[Batch]], synthetic_index: ShardIndex, image_index: ShardIndex
) -> None:
    before = run(synthetic_index, image_index, 2, 2, range(stop))
    behind = run(synthetic_index, image_index, 3, 1, range(stop, len(STEPS)))
    assert sequence(before) + sequence(behind) == sequence(alone)


def test_what_was_drawn_names_clip_and_window(alone: list[list[Batch]], synthetic_index: ShardIndex) -> None:
    for (batch,) in alone:
        if batch.modality == "image":
            assert batch.drawn == batch.keys
            continue
        keys, places = zip(*(name.rsplit("@", 1) for name in batch.drawn), strict=True)
        assert list(keys) == batch.keys
        assert all(0 <= float(place) < 1 for place in places)
    windows = {name for (batch,) in alone for name in batch.drawn if batch.modality == "video"}
    assert len(windows) > len({name.split("@")[0] for name in windows}), "a clip that comes again has another window"


def test_fewer_clips_than_ranks_still_give_every_rank_its_part(synthetic_index: ShardIndex) -> None:
    settings: dict[str, Any] = {"frames": 9, "fps": 8.0, "size": 16, "seed": 0}
    keys = synthetic_index.keys("video")[:3]
    whole = BatchPlan(synthetic_index, keys, batch=8, **settings)
    parts = [BatchPlan(synthetic_index, keys, batch=1, rank=rank, ranks=8, **settings) for rank in range(8)]
    for step in range(3):
        assert [part[step].drawn[0] for part in parts] == whole[step].drawn


class SignalledPlan(BatchPlan):
    """Sends its own loader worker, in the middle of a batch, what a scheduler sends to all processes of a job."""

    def __getitem__(self, step: int) -> Batch:
        assert get_worker_info() is not None
        for number in SIGNALS:
            os.kill(os.getpid(), number)
        return super().__getitem__(step)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_scheduler_that_signals_every_process_does_not_kill_workers(
    context: str, synthetic_index: ShardIndex
) -> None:
    """Under ``spawn`` they would have the default handlers, and take the main process down with them."""
    settings: dict[str, Any] = {"frames": 9, "fps": 8.0, "size": 16, "seed": 0, "batch": 2}
    keys = synthetic_index.keys("video")
    signalled = SignalledPlan(synthetic_index, keys, **settings)
    calm = BatchPlan(synthetic_index, keys, **settings)
    found = [batch.drawn for batch in batches(signalled, range(3), 1, context)]
    assert found == [calm[step].drawn for step in range(3)]
    assert all(signal.getsignal(number) is not signal.SIG_IGN for number in SIGNALS), "here nothing has changed"


HOLD = """
import sys
from ssvae.data.mix import BatchPlan, batches
from ssvae.data.shards import index_shards
def main():
    index = index_shards(sys.argv[1])
    plan = BatchPlan(index, index.keys("video"), frames=9, fps=8.0, size=16, seed=0, batch=2)
    stream = batches(plan, range(100), 2)
    next(stream)
    raise RuntimeError("the update failed")
main()
"""


def test_a_process_that_ends_by_an_error_does_not_wait_for_its_workers(synthetic_folder: Path) -> None:
    """The traceback keeps the stream, and the workers do not take the signal by which Python ends daemons."""
    done = subprocess.run(
        [sys.executable, "-c", HOLD, str(synthetic_folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "the update failed" in done.stderr
