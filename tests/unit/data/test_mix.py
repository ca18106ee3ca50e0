"""A batch depends on the step and nothing else: not on workers, restarts, ranks' number or the cache."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssvae.data.clips import read_all
from ssvae.data.mix import Batch, BatchPlan, batches
from ssvae.data.pixels import ClipError
from ssvae.data.shards import ShardIndex, index_shards

Pack = Callable[..., Path]


def make(index: ShardIndex, images: ShardIndex | None = None, **changes: Any) -> BatchPlan:
    settings: dict[str, Any] = {"frames": 9, "fps": 8.0, "size": 16, "batch": 4, "seed": 0, "image_batch": 3}
    return BatchPlan(index, index.keys("video"), image_index=images, image_weight=2, **settings | changes)


def equal(one: Batch, two: Batch) -> bool:
    return torch.equal(one.video, two.video) and torch.equal(one.labels, two.labels) and rest(one) == rest(two)


def rest(batch: Batch) -> tuple[object, ...]:
    return batch.keys, batch.captions, batch.modality, batch.rejects


def test_axes_range_and_what_belongs_together(synthetic_index: ShardIndex, image_index: ShardIndex) -> None:
    plan, samples = make(synthetic_index, image_index), synthetic_index.by_key()
    seen = Counter[str]()
    for step in range(24):
        batch = plan[step]
        seen[batch.modality] += 1
        assert batch.modality == plan.modality(step)
        assert batch.video.shape == ((4, 3, 9, 16, 16) if batch.modality == "video" else (3, 3, 1, 16, 16))
        assert -1 <= batch.video.min() < batch.video.max() <= 1
        if batch.modality == "video":
            assert batch.captions == [samples[key].caption() for key in batch.keys]
            assert batch.labels.tolist() == [samples[key].label for key in batch.keys]
        else:
            assert batch.labels.tolist() == [-1, -1, -1]
    assert seen["image"] > 0
    assert seen["video"] > 0


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(synthetic_index: ShardIndex, image_index: ShardIndex, workers: int) -> None:
    plan = make(synthetic_index, image_index)
    alone = [plan[step] for step in range(12)]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    together = list(batches(make(synthetic_index, image_index), range(12), workers=workers))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(together) == 12
    assert all(equal(one, two) for one, two in zip(alone, together, strict=True))


def test_spawned_workers_change_nothing(synthetic_index: ShardIndex) -> None:
    plan = make(synthetic_index)
    together = list(batches(plan, range(3, 5), workers=1, context="spawn"))
    assert all(equal(plan[step], batch) for step, batch in zip((3, 4), together, strict=True))


def test_resuming_in_the_middle_changes_nothing(synthetic_index: ShardIndex, image_index: ShardIndex) -> None:
    whole = list(batches(make(synthetic_index, image_index), range(10)))
    resumed = list(batches(make(synthetic_index, image_index), range(6, 10), workers=2))
    assert all(equal(one, two) for one, two in zip(whole[6:], resumed, strict=True))


def test_the_cache_changes_nothing(synthetic_index: ShardIndex) -> None:
    plans = [make(synthetic_index, cache_mb=size) for size in (0, 0.2, 128)]
    for step in range(12):
        reference = plans[0][step]
        assert all(equal(reference, plan[step]) for plan in plans[1:])


def test_ranks_together_are_one_rank_with_the_whole_batch(synthetic_index: ShardIndex, image_index: ShardIndex) -> None:
    whole = make(synthetic_index, image_index, batch=4, image_batch=2)
    parts = [make(synthetic_index, image_index, batch=2, image_batch=1, rank=rank, ranks=2) for rank in range(2)]
    for step in range(8):
        assert torch.equal(whole[step].video, torch.cat([part[step].video for part in parts]))
        assert whole[step].keys == [key for part in parts for key in part[step].keys]


def test_every_epoch_draws_each_clip_once_in_a_new_order(synthetic_index: ShardIndex) -> None:
    plan = make(synthetic_index, batch=7)
    epochs = [plan[2 * epoch].keys + plan[2 * epoch + 1].keys for epoch in range(3)]
    assert all(sorted(epoch) == sorted(synthetic_index.keys()) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    # An epoch seen before comes back the same although its order is no longer remembered.
    assert plan[0].keys + plan[1].keys == epochs[0]


def test_the_seed_changes_order_windows_and_modalities(synthetic_index: ShardIndex, image_index: ShardIndex) -> None:
    one, two = make(synthetic_index, image_index), make(synthetic_index, image_index, seed=1)
    assert [one.modality(step) for step in range(60)] != [two.modality(step) for step in range(60)]
    settings: dict[str, Any] = {"frames": 9, "fps": 8.0, "size": 16, "batch": 1}
    single = [BatchPlan(synthetic_index, synthetic_index.keys()[:1], seed=seed, **settings) for seed in range(4)]
    windows = [plan[step].video for plan in single for step in range(4)]
    assert sum(not torch.equal(windows[0], window) for window in windows) >= 12


def test_modalities_come_by_their_weights(synthetic_index: ShardIndex, image_index: ShardIndex) -> None:
    plan = make(synthetic_index, image_index)
    share = sum(plan.modality(step) == "image" for step in range(4000)) / 4000
    assert share == pytest.approx(2 / 9, abs=0.02)
    assert all(make(synthetic_index).modality(step) == "video" for step in range(50))
    assert all(make(synthetic_index, image_index, video_weight=0).modality(step) == "image" for step in range(50))


@pytest.fixture
def half_broken(pack: Pack, synthetic_index: ShardIndex) -> ShardIndex:
    good = [sample.read() for sample in synthetic_index.samples[:6]]
    files = {f"good{i}.mp4": data for i, data in enumerate(good)}
    files |= {"cut.mp4": good[0][:-100], "text.mp4": b"no video", "empty.mp4": b""}
    # Meta lines that lie about everything; the files are believed.
    meta = [json.dumps({"key": name.split(".")[0], "fps": 0, "duration": 1e9, "width": 1}) for name in files]
    return index_shards(pack("half", files, meta))


def test_rejected_clips_are_replaced_and_named(half_broken: ShardIndex) -> None:
    plan, again = make(half_broken, batch=3), make(half_broken, batch=3, cache_mb=0)
    rejected = dict[str, str]()
    for epoch in range(2):
        names = list[str]()
        for step in range(3 * epoch, 3 * epoch + 3):
            batch = plan[step]
            assert equal(batch, again[step])
            assert all(key.startswith("good") for key in batch.keys)
            names += batch.keys
            rejected |= dict(batch.rejects)
        assert len(names) == 9
        assert set(names) == {f"good{i}" for i in range(6)}
    assert rejected == {"cut": "truncated", "text": "not_video", "empty": "not_video"}


def test_a_window_outside_the_damage_is_read_with_and_without_cache(pack: Pack, synthetic_index: ShardIndex) -> None:
    data = bytearray(synthetic_index.samples[0].read())
    for place in range(len(data) * 3 // 4, len(data) - 1500, 50):
        data[place] ^= 0x55
    with pytest.raises(ClipError, match="decode_error"):
        read_all(bytes(data), size=16)
    index = index_shards(pack("late", {"late.mp4": bytes(data), "good.mp4": synthetic_index.samples[1].read()}))
    plans = [make(index, batch=1, cache_mb=size) for size in (0, 128)]
    results = [[plan[step] for step in range(20)] for plan in plans]
    assert all(equal(one, two) for one, two in zip(*results, strict=True))
    assert "late" in {batch.keys[0] for batch in results[0]}
    assert "late" in {key for batch in results[0] for key, _ in batch.rejects}


def test_a_useless_data_set_stops_with_names(pack: Pack) -> None:
    index = index_shards(pack("bad", {"x.mp4": b"1", "y.mp4": b"2"}))
    with pytest.raises(ValueError, match=r"16 video samples in a row.*[xy] \(not_video\)"):
        make(index)[0]
    with pytest.raises(ValueError, match=r"^data: 16 video samples in a row"):
        next(batches(make(index), range(1), workers=1))


def test_wrong_selections_are_refused(synthetic_index: ShardIndex, image_index: ShardIndex) -> None:
    settings: dict[str, Any] = {"frames": 9, "fps": 8.0, "size": 16, "batch": 1, "seed": 0}
    with pytest.raises(ValueError, match="no video to read"):
        BatchPlan(synthetic_index, [], **settings)
    with pytest.raises(ValueError, match="'nobody'"):
        BatchPlan(synthetic_index, ["nobody"], **settings)
    with pytest.raises(ValueError, match="are no video"):
        BatchPlan(image_index, image_index.keys(), **settings)
    with pytest.raises(ValueError, match=r"train\.batch=0"):
        make(synthetic_index, batch=0)
    with pytest.raises(ValueError, match="odds"):
        make(synthetic_index, image_index, image_batch=1, video_weight=-1)


@pytest.mark.example_data
def test_real_clips_and_images_mix(example_data: Path) -> None:
    videos, images = index_shards(example_data / "video"), index_shards(example_data / "image")
    plan = make(videos, images, frames=5, size=(32, 48), batch=1, image_batch=2, video_weight=2)
    steps = {plan.modality(step): step for step in range(20)}
    assert plan[steps["video"]].video.shape == (1, 3, 5, 32, 48)
    assert plan[steps["image"]].video.shape == (2, 3, 1, 32, 48)
