"""The cache: what a hit saves, what makes a miss, and files that were damaged on purpose."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors import safe_open

from ssvae.metrics.feature_cache import StatisticsKey, cached_statistics, data_hash
from ssvae.metrics.feature_set import FeatureStatistics, frechet

KEY = StatisticsKey("w" * 64, "fdd/1;frames=1", data_hash("shards", ["a", "b"]), (9, 64, 64), 8.0, 12)


def made(count: int = 12, dim: int = 5) -> FeatureStatistics:
    statistics = FeatureStatistics(dim)
    statistics.update(torch.randn(count, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    return statistics


class Counting:
    def __init__(self, dim: int = 5) -> None:
        self.dim = dim
        self.calls = 0

    def __call__(self) -> FeatureStatistics:
        self.calls += 1
        return made(dim=self.dim)


@pytest.mark.parametrize("dim", [5, 20])
def test_a_second_call_reads_the_same_numbers(tmp_path: Path, dim: int) -> None:
    compute = Counting(dim)
    first, second = (cached_statistics(tmp_path / "cache", KEY, compute) for _ in range(2))
    assert compute.calls == 1
    state, again = first.state_dict(), second.state_dict()
    assert state.keys() == again.keys() and all(torch.equal(state[name], again[name]) for name in state)
    assert frechet(first, second) == 0.0
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [KEY.file_name]  # nothing temporary stays


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "v" * 64},
        {"preprocessing": "fdd/1;frames=2"},
        {"data": data_hash("shards", ["b", "a"])},
        {"data": data_hash("others", ["a", "b"])},
        {"window": (9, 64, 32)},
        {"fps": None},
    ],
)
def test_everything_that_changes_the_numbers_is_in_the_key(tmp_path: Path, change: dict[str, Any]) -> None:
    compute = Counting()
    cached_statistics(tmp_path, KEY, compute)
    cached_statistics(tmp_path, replace(KEY, **change), compute)
    assert compute.calls == 2 and len(list(tmp_path.iterdir())) == 2


def test_the_file_repeats_its_key(tmp_path: Path) -> None:
    cached_statistics(tmp_path, KEY, made)
    with safe_open(tmp_path / KEY.file_name, framework="pt") as file:
        text = file.metadata()["key"]
    for word in ("feature_statistics/1", KEY.weights, KEY.preprocessing, KEY.data, '"count":12', "[9,64,64]"):
        assert word in text


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(content[:-8])
    elif how == "bit":
        content[-3] ^= 1
        path.write_bytes(content)
    elif how == "empty":
        path.write_bytes(b"")
    else:
        other = replace(KEY, weights="v" * 64)
        cached_statistics(path.parent / "other", other, made)
        (path.parent / "other" / other.file_name).replace(path)


@pytest.mark.parametrize(
    "how, words", [("cut", "is damaged"), ("bit", "content"), ("empty", "is damaged"), ("moved", "for another key")]
)
def test_a_file_that_is_not_the_keys_is_named_and_replaced(
    tmp_path: Path, how: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    compute = Counting()
    good = cached_statistics(tmp_path, KEY, compute)
    path = tmp_path / KEY.file_name
    damage(path, how)
    with caplog.at_level(logging.WARNING):
        again = cached_statistics(tmp_path, KEY, compute)
    assert compute.calls == 2 and frechet(good, again) == 0.0
    assert str(path) in caplog.text and words in caplog.text
    caplog.clear()
    cached_statistics(tmp_path, KEY, compute)
    assert compute.calls == 2 and not caplog.text


def test_another_count_than_asked_for_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gave 11 features, 12 were asked for"):
        cached_statistics(tmp_path, KEY, lambda: made(11))
    assert list(tmp_path.iterdir()) == []


def _racer(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    for _ in range(300):
        found = cached_statistics(Path(folder), KEY, made)
        assert found.count == 12
        (Path(folder) / KEY.file_name).unlink(missing_ok=True)


def test_two_processes_may_race_on_one_file(tmp_path: Path) -> None:
    """Each writes and removes the other's file in turn: what is read is always whole, or not there."""
    mp.spawn(_racer, (str(tmp_path),), nprocs=2)
    assert frechet(cached_statistics(tmp_path, KEY, made), made()) == 0.0
