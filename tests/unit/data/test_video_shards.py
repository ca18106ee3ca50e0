"""VideoShards gives every clip once a pass, seeded, from folders and from URLs."""

from __future__ import annotations

import functools
import http.server
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from ssvae.data import VideoShards
from ssvae.data.shards import ShardIndex
from ssvae.data.video_shards import stream_tar

SETTINGS = {"frames": 9, "fps": 8.0, "size": (16, 24)}


def test_one_pass_gives_every_clip_once(synthetic_folder: Path, synthetic_index: ShardIndex) -> None:
    samples = synthetic_index.by_key()
    clips = list(VideoShards(str(synthetic_folder), frames=9, size=(16, 24)))
    assert sorted(clip["key"] for clip in clips) == sorted(samples)
    assert [clip["key"] for clip in clips] != sorted(samples)
    for clip in clips:
        assert set(clip) == {"video", "key", "caption"}
        assert (clip["video"].shape, clip["video"].dtype) == ((3, 9, 16, 24), torch.float32)
        assert clip["video"].abs().max() <= 1
        assert clip["caption"] == samples[clip["key"]].caption()


def test_the_seed_and_the_epoch_fix_order_and_windows(synthetic_folder: Path) -> None:
    one, two, other = (VideoShards(str(synthetic_folder), seed=seed, **SETTINGS) for seed in (4, 4, 5))
    first, same = list(one), list(two)
    assert [clip["key"] for clip in first] == [clip["key"] for clip in same]
    assert all(torch.equal(a["video"], b["video"]) for a, b in zip(first, same, strict=True))
    assert [clip["key"] for clip in other] != [clip["key"] for clip in first]
    second = {clip["key"]: clip["video"] for clip in one}
    assert list(second) != [clip["key"] for clip in first]
    assert any(not torch.equal(second[clip["key"]], clip["video"]) for clip in first)
    one.epoch = 0
    assert all(torch.equal(a["video"], b["video"]) for a, b in zip(first, one, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_workers_share_the_clips(synthetic_folder: Path, workers: int) -> None:
    alone = {clip["key"]: clip["video"] for clip in VideoShards(str(synthetic_folder), **SETTINGS)}
    loader = DataLoader(VideoShards(str(synthetic_folder), **SETTINGS), batch_size=None, num_workers=workers)
    together = list(loader)
    assert sorted(clip["key"] for clip in together) == sorted(alone)
    assert all(torch.equal(clip["video"], alone[clip["key"]]) for clip in together)


def parts(make: Callable[[int], VideoShards], world: int, workers: int = 0) -> list[list[str]]:
    """The keys that each rank reads."""
    return [
        [clip["key"] for clip in DataLoader(make(rank), batch_size=None, num_workers=workers)] for rank in range(world)
    ]


@pytest.mark.parametrize(("world", "workers"), [(2, 0), (3, 0), (4, 2), (16, 0)])
def test_ranks_and_their_workers_share_the_clips(
    synthetic_folder: Path, synthetic_index: ShardIndex, world: int, workers: int
) -> None:
    """14 clips: not a multiple of any of these, and fewer than 16."""
    path = str(synthetic_folder)
    shared = parts(lambda rank: VideoShards(path, rank=rank, world=world, **SETTINGS), world, workers)
    assert sorted(key for part in shared for key in part) == sorted(synthetic_index.keys()), "each once"
    if not workers:
        assert max(map(len, shared)) - min(map(len, shared)) <= 1


def test_ranks_are_those_of_the_launcher_unless_they_are_said(
    synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = pickle.dumps(VideoShards(str(synthetic_folder), **SETTINGS))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    shards = VideoShards(str(synthetic_folder), **SETTINGS)
    assert shards.ranks == (1, 3)
    assert len(list(shards)) == 5
    assert VideoShards(str(synthetic_folder), rank=0, world=1, **SETTINGS).ranks == (0, 1)
    assert pickle.loads(early).ranks == (1, 3), "a copy made before there were ranks"
    sent = pickle.dumps(shards)
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert pickle.loads(sent).ranks == (1, 3), "a loader worker of that rank, which is in no group itself"
    for rank, world in (("3", "3"), ("x", "2"), ("-1", "2")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", world)
        with pytest.raises(ValueError, match=f"RANK={rank}, WORLD_SIZE={world}"):
            list(VideoShards(str(synthetic_folder), **SETTINGS))
    for ranks in ({"rank": 2, "world": 2}, {"rank": 0}, {"world": 2}, {"rank": -1, "world": 2}):
        with pytest.raises(ValueError, match="give both, with 0 <= rank < world"):
            VideoShards(str(synthetic_folder), **ranks)


def test_bad_clips_are_left_out_and_counted(pack: Callable[..., Path], synthetic_index: ShardIndex) -> None:
    files = {"a.mp4": synthetic_index.samples[0].read(), "b.mp4": b"no", "c.jpg": b"no clip"}
    shards = VideoShards(str(pack("mixed", files)), **SETTINGS)
    assert [clip["key"] for clip in shards] == ["a"]
    assert shards.rejects.counts() == {"not_video": 1}
    with pytest.raises(ValueError, match=r"no clip could be used \(not_video 1: b\)"):
        list(VideoShards(str(pack("bad", {"b.mp4": b"no"})), **SETTINGS))
    with pytest.raises(ValueError, match="images but no clip"):
        list(VideoShards(str(pack("images", {"c.jpg": b"no clip"})), **SETTINGS))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s3://bucket/000.tar", "only http:// and https://"),
        ("https://host/000.tar,/local", "mixes URLs and local paths"),
        ("pipe:curl https://host/0.tar", "only http:// and https://"),
        ("pipe:cat 0.tar", "shell pipes are not run"),
    ],
)
def test_places_that_cannot_be_read(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoShards(path)


@pytest.fixture
def served(tmp_path: Path, synthetic_folder: Path) -> Iterator[tuple[str, Path]]:
    """(address, folder) of a web server on this machine with the synthetic shards."""
    folder = shutil.copytree(synthetic_folder, tmp_path / "served")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def test_urls_are_read_in_order(served: tuple[str, Path], synthetic_index: ShardIndex) -> None:
    address = served[0]
    shards = VideoShards(f"{address}/{{000000..000002}}.tar", **SETTINGS)
    clips = list(shards)
    samples = synthetic_index.by_key()
    assert [clip["key"] for clip in clips] == synthetic_index.keys()
    assert all(clip["caption"] == samples[clip["key"]].caption() for clip in clips)
    loader = DataLoader(VideoShards(f"{address}/{{000000..000002}}.tar", **SETTINGS), batch_size=None, num_workers=2)
    other = {clip["key"]: clip["video"] for clip in loader}
    assert all(torch.equal(other[clip["key"]], clip["video"]) for clip in clips)
    assert len(other) == len(clips)


@pytest.mark.parametrize(("world", "workers"), [(2, 0), (3, 0), (5, 0), (2, 2)])
def test_ranks_share_tars_behind_urls_also_fewer_tars_than_ranks(
    served: tuple[str, Path], synthetic_index: ShardIndex, world: int, workers: int
) -> None:
    path = f"{served[0]}/{{000000..000002}}.tar"
    shared = parts(lambda rank: VideoShards(path, rank=rank, world=world, **SETTINGS), world, workers)
    assert sorted(key for part in shared for key in part) == sorted(synthetic_index.keys()), "each once"
    assert all(shared), "three tars of 5, 5 and 4 clips leave nobody without"


def test_a_url_that_breaks_off_keeps_what_came(served: tuple[str, Path]) -> None:
    address, folder = served
    tar = folder / "000000.tar"
    whole = [key for key, _ in stream_tar(f"{address}/000000.tar")]
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size * 2 // 3])
    (folder / "000000.meta.jsonl").unlink()
    kept = [clip["key"] for clip in VideoShards(f"{address}/000000.tar", **SETTINGS)]
    assert len(whole) == 5
    assert 2 <= len(kept) < 5
    assert kept == whole[: len(kept)]


def test_a_url_that_is_not_there_is_named(served: tuple[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"data\.path='http://127.*nothing\.tar' cannot be opened.*404"):
        list(VideoShards(f"{served[0]}/nothing.tar"))
