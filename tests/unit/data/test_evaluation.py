"""Evaluation windows are fixed, spread, each exactly once, on any number of ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ssvae.data.clips import read_clip
from ssvae.data.evaluation import EvaluationClip, evaluation_clips, evaluation_windows
from ssvae.data.rejects import RejectLog
from ssvae.data.shards import ShardIndex, index_shards


def read(index: ShardIndex, **changes: object) -> list[EvaluationClip]:
    settings: dict[str, object] = {"frames": 9, "fps": 8.0, "size": 16}
    return list(evaluation_clips(index, index.keys(), **settings | changes))  # type: ignore[arg-type]


def test_each_clip_once_at_its_middle(synthetic_index: ShardIndex) -> None:
    clips = read(synthetic_index)
    assert [clip.key for clip in clips] == synthetic_index.keys()
    for clip, sample in zip(clips, synthetic_index.samples, strict=True):
        assert torch.equal(clip.video, read_clip(sample.read(), frames=9, fps=8, size=16, position=0.5))
        assert (clip.caption, clip.label, clip.window) == (sample.caption(), sample.label, 0)


def test_more_windows_than_clips(synthetic_index: ShardIndex) -> None:
    clips = read(synthetic_index, count=32)
    assert Counter(clip.key for clip in clips) == {
        key: 3 if number < 4 else 2 for number, key in enumerate(synthetic_index.keys())
    }
    data = synthetic_index.samples[0].read()
    for clip, position in zip(clips[:3], (0.0, 0.5, 1.0), strict=True):
        assert torch.equal(clip.video, read_clip(data, frames=9, fps=8, size=16, position=position))


def test_fewer_windows_than_clips_are_spread() -> None:
    assert [clip for clip, _, _ in evaluation_windows(10, 5)] == [0, 2, 4, 6, 8]
    for clips in range(1, 12):
        for count in range(1, 40):
            windows = evaluation_windows(clips, count)
            assert len(set(windows)) == len(windows) == count
            assert all(0 <= clip < clips and 0 <= position <= 1 for clip, _, position in windows)


@pytest.mark.parametrize("count", [None, 5, 7, 32])
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_windows_without_repeats(synthetic_index: ShardIndex, count: int | None, ranks: int) -> None:
    whole = {(clip.key, clip.window): clip.video for clip in read(synthetic_index, count=count)}
    parts = [read(synthetic_index, count=count, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert all(parts)
    together = [(clip.key, clip.window) for part in parts for clip in part]
    assert sorted(together) == sorted(whole)
    assert all(torch.equal(clip.video, whole[clip.key, clip.window]) for part in parts for clip in part)


def test_short_clips_give_no_window_twice(
    pack: Callable[..., Path], make_clip: Callable[..., bytes], synthetic_index: ShardIndex
) -> None:
    frames = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.full((1, 32, 32, 3), 9, np.uint8)
    index = index_shards(pack("short", {"short.mp4": make_clip(frames)}))
    # Ten frames hold two windows of nine.
    assert len(read(index, count=5)) == 2


def test_rejected_clips_are_counted_and_left_out(pack: Callable[..., Path], synthetic_index: ShardIndex) -> None:
    files = {"a.mp4": synthetic_index.samples[0].read(), "b.mp4": b"no"}
    log = RejectLog(limit=1.0)
    clips = read(index_shards(pack("two", files)), rejects=log)
    assert [clip.key for clip in clips] == ["a"]
    assert (log.accepted, log.counts()) == (1, {"not_video": 1})


def test_nothing_to_evaluate_is_an_error(synthetic_index: ShardIndex) -> None:
    with pytest.raises(ValueError, match="count=0"):
        read(synthetic_index, count=0)
