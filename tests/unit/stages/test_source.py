"""A data set as stages see it: fingerprint by content, split by key, a killed rendering is started again."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssvae.config.compose import resolve
from ssvae.config.data import DataConfig, DataKind
from ssvae.core.files import read_json
from ssvae.core.progress import Silent
from ssvae.data.shards import index_shards
from ssvae.stages.source import Source, open_source, synthetic_folder
from tiny_runs import TINY

PROGRESS = Silent()


@pytest.fixture(scope="module")
def data() -> DataConfig:
    (cell,) = resolve(TINY)
    return copy.deepcopy(cell.cfg.stages.pretrain.data)


@pytest.fixture(scope="module")
def root(data: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the tiny data rendered."""
    root = tmp_path_factory.mktemp("root")
    open_source(data, root, PROGRESS)
    return root


def as_webdataset(data: DataConfig, path: Path) -> DataConfig:
    return replace(data, kind=DataKind.webdataset, path=str(path), synthetic=None)


def test_the_embedded_data_are_rendered_once(data: DataConfig, root: Path) -> None:
    folder = synthetic_folder(data, root)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    source = open_source(data, root, PROGRESS)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert len(source.train) + len(source.heldout) == 12
    assert not set(source.train) & set(source.heldout)


def test_a_killed_rendering_is_started_again_and_its_remains_go(data: DataConfig, tmp_path: Path) -> None:
    folder = synthetic_folder(data, tmp_path)
    left = folder.with_name(f".{folder.name}-ab12")
    left.mkdir(parents=True)
    (left / "000000.tar").write_text("half")
    open_source(data, tmp_path, PROGRESS)
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted([f".{folder.name}.lock", folder.name])


def test_fingerprint_follows_content_not_place(data: DataConfig, root: Path, tmp_path: Path) -> None:
    folder = synthetic_folder(data, root)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in folder.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    first = open_source(data, root, PROGRESS).fingerprint
    assert open_source(as_webdataset(data, moved), root, PROGRESS).fingerprint == first
    tar = moved / "000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b".txt", b".txu"))
    assert open_source(as_webdataset(data, moved), root, PROGRESS).fingerprint != first


def test_images_are_part_of_the_content(data: DataConfig, root: Path, example_data: Path) -> None:
    clips = as_webdataset(data, example_data / "video")
    with_images = replace(clips, image_path=str(example_data / "image"))
    assert open_source(clips, root, PROGRESS).fingerprint != open_source(with_images, root, PROGRESS).fingerprint


def test_one_clip_leaves_nothing_to_measure_on(data: DataConfig, root: Path) -> None:
    index = open_source(data, root, PROGRESS).index
    single = replace(index, samples=index.samples[:1])
    with pytest.raises(ValueError, match="at least 2 clips"):
        Source(data, single, None)


def test_batches_are_of_training_clips_windows_of_what_is_asked(data: DataConfig, root: Path) -> None:
    (cell,) = resolve(TINY)
    source = open_source(data, root, PROGRESS)
    clip = cell.cfg.stages.pretrain.resolution
    seen = list(source.batches(data, clip, batch=2, seed=0, workers=0)(range(10)))
    assert {key for batch in seen for key in batch.keys} <= set(source.train)
    assert all(batch.video.shape == (2, 3, 9, 16, 16) for batch in seen)
    windows = list(source.windows(source.heldout, clip, 4, 3))
    assert {key for window in windows for key in window.keys} <= set(source.heldout)
    again = list(source.windows(source.heldout, clip, 4, 1))
    assert torch.equal(torch.cat([w.video for w in windows]), torch.cat([w.video for w in again]))


@pytest.fixture
def damaged(data: DataConfig, root: Path, tmp_path: Path) -> DataConfig:
    """The tiny data with every fourth clip's media overwritten."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in synthetic_folder(data, root).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for sample in index_shards(folder).samples[::4]:
        with sample.tar.open("rb+") as file:
            file.seek(sample.media.offset)
            file.write(b"x" * sample.media.size)
    return replace(as_webdataset(data, folder), reject_share=1.0)


def test_unusable_clips_are_counted_the_same_however_often_a_stage_was_stopped(
    damaged: DataConfig, root: Path, tmp_path: Path
) -> None:
    clip = resolve(TINY)[0].cfg.stages.pretrain.resolution

    def read(folder: Path, *parts: tuple[int, int]) -> dict[str, int]:
        """Read batches, each part with a fresh source as a new process would, the last with the statistics pass."""
        for start, stop in parts:
            folder.mkdir(exist_ok=True)
            source = open_source(damaged, root, PROGRESS)
            source.count_rejects(folder)
            list(source.batches(damaged, clip, batch=2, seed=0, workers=0)(range(start, stop)))
        list(source.windows(source.heldout, clip, 4, 2))
        return source.rejected

    whole = read(tmp_path / "whole", (0, 10))
    assert sum(whole.values()) == 3
    assert read(tmp_path / "stopped", (0, 5), (3, 8), (8, 10)) == whole
    names = [read_json(tmp_path / folder / "rejects.json")["reasons"] for folder in ("whole", "stopped")]
    assert names[0] == names[1]


def test_each_stage_counts_for_itself(damaged: DataConfig, root: Path, tmp_path: Path) -> None:
    clip = resolve(TINY)[0].cfg.stages.pretrain.resolution
    source = open_source(damaged, root, PROGRESS)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        source.count_rejects(tmp_path / name)
        assert source.rejected == {}
        list(source.windows(source.train, clip, 12, 2))
        assert sum(source.rejected.values()) > 0


def test_a_folder_without_clips_is_refused(data: DataConfig, root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.path"):
        open_source(as_webdataset(data, tmp_path), root, PROGRESS)
