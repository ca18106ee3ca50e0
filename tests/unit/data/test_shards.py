"""The index finds what is there, names what is not, and its fingerprint follows the content."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ssvae.data.shards import ShardIndex, expand, find_tars, index_shards, split
from ssvae.data.tarscan import scan_tar

Pack = Callable[..., Path]
FILES = {f"k{i}.{kind}": f"{kind}{i}".encode() * 300 for i in range(4) for kind in ("mp4", "id", "txt")}
META = [json.dumps({"key": f"k{i}", "caption": f"meta {i}", "label": i}) for i in range(4)]


def test_offsets_lead_to_the_bytes_that_tarfile_reads(synthetic_folder: Path, synthetic_index: ShardIndex) -> None:
    expected = {}
    for path in sorted(synthetic_folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                expected[member.name] = file.read()
    assert len(synthetic_index) == 14
    for sample in synthetic_index.samples:
        assert sample.read() == expected[f"{sample.key}.mp4"]
        assert sample.caption() == expected[f"{sample.key}.txt"].decode()
        assert sample.kind == "video"


def test_captions_and_labels(pack: Pack) -> None:
    files = {"a.mp4": b"x", "a.txt": b" from file\n", "b.mp4": b"x", "c.mp4": b"x", "d.jpg": b"x"}
    meta = ['{"key": "a", "caption": "m", "label": 3}', '{"key": "b", "caption": "from meta", "label": true}']
    index = index_shards(pack("one", files, [*meta, '{"key": "c"}', '{"key": "d"}']))
    samples = index.by_key()
    assert [samples[key].caption() for key in "abcd"] == ["from file", "from meta", None, None]
    assert [samples[key].label for key in "abcd"] == [3, None, None, None]
    assert (index.keys("video"), index.keys("image")) == (["a", "b", "c"], ["d"])
    assert index.counts() == {}


def test_keys_group_like_webdataset_and_repeat_across_tars(pack: Pack) -> None:
    files = {"x/a.mp4": b"1", "y.v/a.mp4": b"2", "x/a.cls.txt": b"no caption", "a.b.mp4": b"no media: b.mp4"}
    pack("one", files, None)
    pack("two", {"x/a.mp4": b"3"}, None)
    index = index_shards(pack("three", {"x/a.mp4": b"4"}, None).parent)
    # Tars come by name: one, three, two.
    assert index.keys() == ["x/a", "y.v/a", "x/a#2", "x/a#3"]
    assert index.by_key()["x/a#2"].read() == b"4"
    assert index.counts() == {"no_media": 1, "missing_meta_file": 3}


@pytest.mark.parametrize("broken", ["{", "[1]", '{"no": "key"}', '"k1"', "\x00"])
def test_malformed_meta_lines_are_counted_and_passed_over(pack: Pack, broken: str) -> None:
    index = index_shards(pack("one", FILES, [META[0], broken, "", META[2], META[3]]))
    assert index.counts() == {"malformed_meta": 1, "missing_meta": 1}
    assert [problem.name.rpartition("/")[2] for problem in index.problems] == ["one.meta.jsonl:2", "one.tar:k1"]
    assert index.keys() == ["k0", "k1", "k2", "k3"]
    assert [sample.label for sample in index.samples] == [0, None, 2, 3]


def test_a_tar_cut_anywhere_keeps_what_is_whole(pack: Pack) -> None:
    path = pack("one", FILES, META)
    data = path.read_bytes()
    whole = scan_tar(path)[0]
    assert scan_tar(path)[1] is None
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        members, problem = scan_tar(path)
        fits = [member for member in whole if member.offset + member.size <= length]
        assert members == fits[: len(members)]
        assert len(members) >= len(fits) - 1
        # The last payload fills three blocks; one block of zeros ends a tar.
        ended = length >= whole[-1].offset + 3 * 512 + 512
        assert (problem is None) == ended, (length, problem)


def test_cut_and_damaged_tars_are_named_in_the_index(pack: Pack) -> None:
    pack("good", {"g.mp4": b"good"}, ['{"key": "g"}'])
    path = pack("bad", FILES, META)
    data = bytearray(path.read_bytes())
    path.write_bytes(data[: len(data) // 2])
    index = index_shards(path.parent)
    assert index.counts()["damaged_tar"] == 1
    assert {"g", "k0"} <= set(index.by_key())
    assert "k3" not in index.by_key()
    header = scan_tar(path)[0][3].offset - 512
    data[header : header + 100] = b"\xff" * 100
    path.write_bytes(data)
    index = index_shards(path.parent)
    assert [problem for problem in index.problems if "damaged header" in problem.detail]
    assert sorted(set(index.by_key()) - {"g"}) == ["k0"]


def test_fingerprint_follows_content_not_place(pack: Pack, tmp_path: Path) -> None:
    path = pack("one", FILES, META)
    reference = index_shards(path).fingerprint
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(path, moved / "renamed.tar")
    assert index_shards(moved).fingerprint == reference
    for change in (
        {"k1.mp4": b"mp4X" + FILES["k1.mp4"][4:]},
        {"k1.mp4": FILES["k1.mp4"][:-1] + b"X"},
        {"k1.txt": b"other"},
        {"k9.mp4": b"more"},
        {"k1.mp4": FILES["k1.mp4"] + b"1"},
    ):
        assert index_shards(pack("one", FILES | change, META)).fingerprint != reference, change


def test_paths_expand() -> None:
    assert expand("a/{00..02}.tar, b ,{c,d}/e") == ["a/00.tar", "a/01.tar", "a/02.tar", "b", "c/e", "d/e"]
    assert expand(" ") == []


def test_several_places_in_the_order_given(pack: Pack) -> None:
    for name in ("s1", "s0", "t"):
        pack(name, {f"{name}.mp4": b"x"}, None)
    folder = pack("u", {"u.mp4": b"x"}, None).parent
    assert [tar.stem for tar in find_tars(f"{folder}/t.tar,{folder}/s{{0..1}}.tar")] == ["t", "s0", "s1"]
    assert [tar.stem for tar in find_tars(str(folder))] == ["s0", "s1", "t", "u"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "data.path is empty.*data=synthetic"),
        ("{tmp}/nowhere", "data.path='.*nowhere'.*no such file or folder"),
        ("{tmp}", r"no \.tar shard.*give the folder"),
        ("https://host/000.tar", "data.path='https://host/000.tar'.*download the shards"),
        ("pipe:cat a.tar", "shell pipes are not run"),
    ],
)
def test_bad_paths_name_key_value_and_remedy(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        index_shards(path.replace("{tmp}", str(tmp_path)))


@pytest.mark.parametrize("files", [{}, {"a.txt": b"only text"}])
def test_tars_without_media_are_refused(pack: Pack, files: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"no sample with a video or an image.*KEY\.mp4"):
        index_shards(pack("one", files))


def test_split_is_a_partition_that_never_moves_a_key() -> None:
    keys = [f"clip{i}" for i in range(2000)]
    train, held = split(keys, 0.2, seed=1)
    assert sorted(train + held) == sorted(keys)
    assert held == [key for key in keys if key in set(held)]
    assert 0.17 < len(held) / len(keys) < 0.23
    small_train, small_held = split(reversed(keys[:300]), 0.2, seed=1)
    assert set(small_train) <= set(train)
    assert set(small_held) <= set(held)
    assert split(keys, 0.2, seed=2)[1] != held
    assert set(split(keys, 0.1, seed=1)[1]) < set(held)


def test_split_leaves_neither_side_empty() -> None:
    for count in range(2, 30):
        for share in (0.001, 0.5, 0.999):
            train, held = split([f"k{i}" for i in range(count)], share)
            assert train
            assert held
    assert split(["only"], 0.0) == (["only"], [])
    assert split(["a", "b"], 0.0) == (["a", "b"], [])
    with pytest.raises(ValueError, match="heldout_share=1"):
        split(["a"], 1.0)


def test_copies_of_a_clip_stay_on_one_side() -> None:
    train, held = split([f"k{i}{copy}" for i in range(200) for copy in ("", "#2")], 0.3)
    assert not {key.split("#")[0] for key in train} & {key.split("#")[0] for key in held}


@pytest.mark.example_data
def test_real_shards_index_cleanly(example_data: Path) -> None:
    index = index_shards(f"{example_data}/{{video,image}}")
    assert (len(index.keys("video")), len(index.keys("image"))) == (10, 20)
    assert index.counts() == {}
    assert any(sample.caption() for sample in index.samples if sample.kind == "image")
