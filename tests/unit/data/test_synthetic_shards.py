"""What is written is real H.264 in the common format, complete or not there at all, and equal every time."""

from __future__ import annotations

import io
import json
import multiprocessing
import tarfile
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import webdataset

from ssvae.data.clips import probe_clip, read_all
from ssvae.data.shards import ShardIndex, index_shards
from ssvae.data.synthetic import SYNTHETIC_VERSION, render, render_image
from ssvae.data.synthetic_shards import encode_mp4, write_synthetic


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_files_are_h264_with_the_keyframes_promised(synthetic_index: ShardIndex) -> None:
    data = synthetic_index.samples[0].read()
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (container.format.name.split(",")[0], stream.codec_context.name) == ("mov", "h264")
        packets = [packet for packet in container.demux(stream) if packet.size]
    assert sum(packet.is_keyframe for packet in packets) == 2
    info = probe_clip(data)
    assert (info.width, info.height, info.frames, info.fps) == (64, 64, 24, pytest.approx(8))


def test_the_pictures_are_the_rendered_ones(synthetic_index: ShardIndex) -> None:
    for number, sample in enumerate(synthetic_index.samples[:3]):
        clip = render(number, seed=3)
        stored = read_all(sample.read(), size=64)[1].permute(0, 2, 3, 1).numpy()
        # Luma survives the encoder; chroma is stored at half the resolution.
        luma = np.array([0.299, 0.587, 0.114])
        error = (stored @ luma - clip.frames @ luma) / 255
        assert -10 * np.log10((error**2).mean()) > 36
        assert (sample.caption(), sample.label) == (clip.caption, clip.label)
        assert sample.meta["duration"] == 3.0


def test_images_are_the_rendered_ones(image_index: ShardIndex) -> None:
    assert len(image_index.keys("image")) == 6
    assert image_index.samples[2].caption() == render_image(2, seed=3, size=64)[1]


def test_webdataset_reads_the_shards(synthetic_folder: Path) -> None:
    urls = sorted(str(path) for path in synthetic_folder.glob("*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert len(urls) == 3
    assert [sample["__key__"] for sample in samples] == [f"s3-{i:08d}" for i in range(14)]
    assert all({"mp4", "id", "txt"} <= set(sample) for sample in samples)
    meta = [json.loads(line) for line in (synthetic_folder / "000001.meta.jsonl").read_text().splitlines()]
    assert [line["key"] for line in meta] == [sample["__key__"] for sample in samples[5:10]]


def test_equal_parameters_give_equal_bytes(synthetic_folder: Path, tmp_path: Path) -> None:
    again = write_synthetic(tmp_path / "again", clips=14, images=6, shard_size=5, seed=3)
    assert files(again) == files(synthetic_folder)
    other = write_synthetic(tmp_path / "other", clips=2, seed=4)
    assert not set(index_shards(other).keys()) & set(index_shards(again).keys())


def test_an_existing_set_is_reused_and_another_one_refused(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    folder = write_synthetic(
        tmp_path / "set", clips=3, images=2, frames=9, size=16, progress=lambda *done: calls.append(done)
    )
    assert calls == [(i, 5) for i in range(1, 6)]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_synthetic(folder, clips=3, images=2, frames=9, size=16, progress=lambda *done: calls.append(done))
    assert len(calls) == 5
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(ValueError, match=r"different: clips, size\).*choose another folder"):
        write_synthetic(folder, clips=4, images=2, frames=9, size=32)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["version"] == SYNTHETIC_VERSION
    foreign = tmp_path / "mine"
    foreign.mkdir()
    with pytest.raises(ValueError, match="not a synthetic data set"):
        write_synthetic(foreign, clips=1)


def test_an_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "set", clips=4, frames=4, size=16, progress=stop)
    assert list(tmp_path.iterdir()) == []


def _write(folder: Path, barrier: object, failures: object) -> None:
    def together(done: int, total: int) -> None:
        # All have found no folder and finish at about the same time: every one tries to publish.
        if done == total:
            barrier.wait(30)  # type: ignore[attr-defined]

    try:
        write_synthetic(folder, clips=2, frames=4, size=16, progress=together)
    except (ValueError, OSError, threading.BrokenBarrierError) as error:
        failures.put(repr(error))  # type: ignore[attr-defined]


def test_processes_may_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, failures = context.Barrier(3), context.SimpleQueue()
    writers = [context.Process(target=_write, args=(tmp_path / "set", barrier, failures)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert failures.empty()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert len(index_shards(tmp_path / "set")) == 2


@pytest.mark.parametrize("wrong", [{"clips": 0}, {"images": -1}, {"shard_size": 0}])
def test_impossible_parameters_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be >= 1"):
        write_synthetic(tmp_path / "set", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "set").exists()


def test_odd_sizes_are_refused_by_the_encoder() -> None:
    with pytest.raises(ValueError, match="even"):
        encode_mp4(np.zeros((2, 15, 16, 3), np.uint8), 8.0)


def test_tars_are_reproducible_plain_files(synthetic_folder: Path) -> None:
    with tarfile.open(synthetic_folder / "000000.tar") as tar:
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in tar} == {(0, 0, 0, "")}
