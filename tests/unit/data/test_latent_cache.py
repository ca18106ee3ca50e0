"""Latents come back bit for bit, statistics are exact and apart, and a half-written cache never shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ssvae.data.latents import LatentCache, LatentWriter, NormalizedLatents, channel_statistics, write_normalizer


@pytest.fixture
def latents() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 3.0, 0.01, 50.0]).view(1, 4, 1, 1, 1)
    shift = torch.tensor([0.0, 1000.0, -2.0, 5.0]).view(1, 4, 1, 1, 1)
    return torch.randn(150, 4, 3, 5, 2, generator=generator) * scale + shift


def write(folder: Path, latents: torch.Tensor, batch: int = 40) -> LatentCache:
    with LatentWriter(folder, {"vae": "tiny", "frames": 9}) as writer:
        for start in range(0, len(latents), batch):
            rows = range(start, min(start + batch, len(latents)))
            keys = [f"k{row}" for row in rows]
            writer.add(latents[start : start + batch], keys, [f"c{row}" for row in rows], [row % 7 for row in rows])
    return LatentCache.open(folder)


def test_everything_comes_back(tmp_path: Path, latents: torch.Tensor) -> None:
    cache = write(tmp_path / "latents", latents)
    assert len(cache) == 150
    assert torch.equal(cache.raw(slice(None)), latents)
    assert torch.equal(cache.raw(7), latents[7])
    assert torch.equal(cache.raw([3, 149, 3]), latents[[3, 149, 3]])
    assert (cache.samples[149].key, cache.samples[149].caption, cache.samples[149].label) == ("k149", "c149", 2)
    assert cache.manifest == {"vae": "tiny", "frames": 9}
    assert isinstance(cache.latents, np.memmap)
    # An ordinary numpy file for everybody else.
    assert np.array_equal(np.load(tmp_path / "latents" / "latents.npy"), latents.numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["latents"]


def test_the_file_is_right_at_every_number_of_digits(tmp_path: Path) -> None:
    for count in (1, 9, 10, 99, 101, 1001):
        cache = write(tmp_path / str(count), torch.arange(count).float().view(count, 1, 1, 1, 1), batch=50)
        assert torch.equal(cache.raw(slice(None)).flatten(), torch.arange(count).float())


def test_statistics_are_those_of_float64(tmp_path: Path, latents: torch.Tensor) -> None:
    cache = write(tmp_path / "latents", latents)
    exact = latents.double().transpose(0, 1).flatten(1)
    assert cache.mean.dtype == cache.std.dtype == torch.float64
    assert torch.allclose(cache.mean, exact.mean(1), rtol=1e-13, atol=0)
    assert torch.allclose(cache.std, exact.std(1, correction=0), rtol=1e-12, atol=0)
    rows = NormalizedLatents(cache)
    assert len(rows) == len(latents) and rows.shape == latents.shape
    normal = rows[torch.arange(len(rows))].double().transpose(0, 1).flatten(1)
    assert torch.allclose(normal.mean(1), torch.zeros(4, dtype=torch.float64), atol=1e-4)
    assert torch.allclose(normal.std(1, correction=0), torch.ones(4, dtype=torch.float64), atol=1e-4)
    picked = torch.tensor([5, 0, 5])
    assert torch.equal(rows[picked], rows[torch.arange(len(rows))][picked])
    # In the coordinates of another set, as held-out latents are seen by a model of the training side.
    other = write(tmp_path / "other", 3 * latents + 1)
    expected = (latents[:2].double() - other.mean.view(-1, 1, 1, 1)) / other.std.view(-1, 1, 1, 1)
    assert torch.equal(NormalizedLatents(cache, by=other)[torch.arange(2)], expected.float())


def test_the_normaliser_changes_without_the_latents(tmp_path: Path, latents: torch.Tensor) -> None:
    folder = write(tmp_path / "latents", latents).folder
    before = (folder / "latents.npy").stat().st_mtime_ns
    mean, std = (torch.tensor(row, dtype=torch.float64) for row in ([1 / 3, 0, 0, 0], [2.0, 1, 1, 1]))
    write_normalizer(folder, mean, std)
    cache = LatentCache.open(folder)
    assert torch.equal(cache.mean, mean)
    assert torch.equal(
        NormalizedLatents(cache)[torch.tensor([0])][0, 0], ((latents[0, 0].double() - 1 / 3) / 2).float()
    )
    assert (folder / "latents.npy").stat().st_mtime_ns == before
    assert sorted(path.name for path in folder.iterdir()) == [
        "latents.npy",
        "manifest.json",
        "normalizer.json",
        "samples.jsonl",
    ]
    with pytest.raises(ValueError, match="positive std"):
        write_normalizer(folder, mean, std * 0)


def test_dead_channels_do_not_divide_by_zero() -> None:
    assert channel_statistics(np.ones((3, 2, 1, 1, 1), np.float32))[1].tolist() == [1e-6, 1e-6]


def test_a_failure_leaves_the_old_cache_and_no_rest(tmp_path: Path, latents: torch.Tensor) -> None:
    write(tmp_path / "latents", latents[:10])
    with pytest.raises(RuntimeError, match="stop"), LatentWriter(tmp_path / "latents") as writer:
        writer.add(latents[:5], list("abcde"))
        raise RuntimeError("stop")
    assert len(LatentCache.open(tmp_path / "latents")) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["latents"]
    write(tmp_path / "latents", latents[:20])
    assert len(LatentCache.open(tmp_path / "latents")) == 20


def test_wrong_latents_are_refused(tmp_path: Path, latents: torch.Tensor) -> None:
    writer = LatentWriter(tmp_path / "latents")
    with pytest.raises(ValueError, match="a key each"):
        writer.add(latents[:2], ["one"])
    writer.add(latents[:1], ["one"])
    with pytest.raises(ValueError, match="in a cache of shape"):
        writer.add(latents[:1, :2], ["two"])
    with pytest.raises(ValueError, match="'two' and its batch are not finite"):
        writer.add(latents[:1] / 0, ["two"])
    writer.abandon()
    with pytest.raises(ValueError, match="no latents were written"), LatentWriter(tmp_path / "empty"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_incomplete_or_mixed_up_caches_are_refused(tmp_path: Path, latents: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"no latent cache.*latents\.npy"):
        LatentCache.open(tmp_path)
    folder = write(tmp_path / "latents", latents[:4]).folder
    lines = (folder / "samples.jsonl").read_text().splitlines()
    (folder / "samples.jsonl").write_text("\n".join(lines[:3]) + "\n")
    with pytest.raises(ValueError, match="do not belong together"):
        LatentCache.open(folder)
    assert json.loads(lines[0]) == {"key": "k0", "caption": "c0", "label": 0}
