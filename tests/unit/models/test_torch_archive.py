"""Hostile and damaged checkpoint files: nothing of them runs, and each is refused with one clear line."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from ssvae.models.inert_pickle import UNPICKLING_ERRORS, StoredTensor, Stub, read_inert
from ssvae.models.official import load_official
from ssvae.models.torch_archive import TorchArchive

GOLDEN = Path(__file__).parents[2] / "golden" / "official_tiny.ckpt"


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def state() -> dict[str, Any]:
    return dict(torch.load(GOLDEN, weights_only=True)["state_dict"])


@pytest.mark.parametrize("place", ["beside", "inside", "bare pickle", "old format"])
def test_a_call_in_the_file_is_never_made(tmp_path: Path, state: dict[str, Any], place: str) -> None:
    path, made = tmp_path / "evil.ckpt", tmp_path / "made"
    evil = Calls(os.mkdir, str(made))
    content = {"state_dict": {**state, "x": evil} if place == "inside" else state, "callbacks": evil}
    if place == "bare pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=place != "old format")
    if place == "beside":
        assert load_official(path).vae.channels == 48
    else:
        with pytest.raises(ValueError) as error:
            load_official(path)
        assert "\n" not in str(error.value)
        if place == "inside":
            assert "x in state_dict is no tensor" in str(error.value) and "posix.mkdir" in str(error.value)
    assert not made.exists()
    if place in ("beside", "inside"):
        torch.load(path, weights_only=False)
        assert made.exists(), "the file does execute code when it is unpickled without care"


def test_no_module_is_imported(tmp_path: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign_module.py").write_text(f"open({str(tmp_path / 'made')!r}, 'w')\nclass Thing:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import foreign_module  # type: ignore[import-not-found]

    thing = foreign_module.Thing()
    thing.attribute = [1, 2]
    torch.save(
        {"state_dict": state, "hyper_parameters": {"thing": thing, "class": foreign_module.Thing}}, tmp_path / "a"
    )
    del sys.modules["foreign_module"]
    (tmp_path / "made").unlink()
    load_official(tmp_path / "a")
    assert "foreign_module" not in sys.modules and not (tmp_path / "made").exists()


def test_objects_of_every_kind_become_stubs() -> None:
    class_less: list[Any] = [
        {1, 2},
        frozenset({3}),
        range(4),
        slice(1, 2),
        complex(1, 2),
        bytearray(b"x"),
        Exception("e"),
    ]
    content = read_inert(pickle.dumps({"plain": (1, "a", None, 2.5, {"k": [True]}), "foreign": class_less}, protocol=2))
    assert content.content["plain"] == (1, "a", None, 2.5, {"k": [True]})
    assert all(isinstance(item, Stub) for item in content.content["foreign"])
    assert isinstance(read_inert(pickle.dumps(OrderedDict(a=1))).content, dict)
    from collections import Counter, defaultdict, deque

    for odd in (Counter("aab"), defaultdict(list, a=[1]), deque([1, 2])):  # filled item by item while unpickling
        assert isinstance(read_inert(pickle.dumps(odd)).content, Stub)


def test_stand_ins_cannot_be_altered() -> None:
    """BUILD sets attributes on whatever lies on the stack: here, on the stand-ins themselves."""
    for module, name in (("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict"), ("os", "system")):
        for build in (b"}U\x08__call__K\x01sb.", b"N}U\x08__call__K\x01s\x86b."):
            data = b"\x80\x02c" + f"{module}\n{name}\n".encode() + build
            try:
                read_inert(data)
            except UNPICKLING_ERRORS:
                continue
    tensor = read_inert(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02K\x03K\x04tR.").content
    assert tensor == StoredTensor(1, 2, 3, 4)
    assert isinstance(read_inert(b"\x80\x02cos\nsystem\n)R.").content, Stub)
    assert read_inert(b"\x80\x02ccollections\nOrderedDict\n)R.").content == {}


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02}r\xff\xff\xff\x7f.",  # memo number 2^31 - 1: would be 16 GB of empty memo
        b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"x.",  # 1 TB of bytes announced
        b"\x80\x02U\x04abcd",  # no end
        b"\x80\x02(tQ.",  # a persistent id that is no storage
        b"plain text\n",
        b"",
    ],
)
def test_damaged_pickles_are_refused_before_they_take_memory(data: bytes) -> None:
    with pytest.raises(UNPICKLING_ERRORS):
        read_inert(data)


def repacked(tmp_path: Path, changes: dict[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> Path:
    """The golden file with records replaced, added (bytes) or left out (None)."""
    path = tmp_path / "changed.ckpt"
    with zipfile.ZipFile(GOLDEN) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in {**dict.fromkeys(old.namelist()), **changes}:
            content = changes.get(name, old.read(name) if name in old.namelist() else None)
            if content is not None:
                new.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"official_tiny/data.pkl": None}, r"holds no data\.pkl"),
        ({"official_tiny/data.pkl": b"\x80\x02}."}, "holds no state_dict"),
        ({"official_tiny/data.pkl": b"no pickle"}, r"data\.pkl is no valid pickle"),
        ({"official_tiny/data/0": None}, "record official_tiny/data/0 is missing"),
        ({"official_tiny/data/0": b"short"}, "record 0 has 5 bytes, not 648 numbers of torch.float32"),
        ({"official_tiny/byteorder": b"big"}, "stores numbers big-endian"),
    ],
)
def test_damaged_archives(tmp_path: Path, changes: dict[str, bytes | None], word: str) -> None:
    with pytest.raises(ValueError, match=word) as error:
        load_official(repacked(tmp_path, changes))
    assert "\n" not in str(error.value)


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    assert load_official(repacked(tmp_path, {})).vae.channels == 48
    with pytest.raises(ValueError, match="is compressed"):
        load_official(repacked(tmp_path, {}, zipfile.ZIP_DEFLATED))


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    path, whole = tmp_path / "file.ckpt", GOLDEN.read_bytes()
    for content, word in (
        (b"just text\n" * 50, "not a file that torch.save wrote"),
        (b"", "not a file that torch.save wrote"),
        (whole[: len(whole) // 2], "damaged or cut short"),
        (whole[:-1], "damaged or cut short"),
        (whole[100:], r"damaged|not a file that torch.save wrote"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=word) as error:
            load_official(path)
        assert "\n" not in str(error.value)
    torch.save({"state_dict": {}}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="PyTorch's old format"):
        load_official(path)


def test_one_flipped_bit_among_the_weights_is_noticed(tmp_path: Path) -> None:
    whole = bytearray(GOLDEN.read_bytes())
    bias = torch.load(GOLDEN, weights_only=True)["state_dict"]["decoder.out.2.conv.bias"].numpy().tobytes()
    whole[whole.index(bias) + 2] ^= 4
    (tmp_path / "flipped.ckpt").write_bytes(whole)
    with pytest.raises(ValueError, match="Bad CRC-32"):
        load_official(tmp_path / "flipped.ckpt")


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": 646},
        {"offset": -1},
        {"offset": True},
        {"shape": (8, 3, 3, 3, 1 << 62)},
        {"shape": (8, -3, 3, 3, 3)},
        {"shape": [8, 3, 3, 3, 3]},
        {"stride": (81, 27, 9, 3)},
        {"stride": (1 << 70, 27, 9, 3, 1)},
        {"storage": Stub()},
    ],
)
def test_tensors_that_reach_beyond_their_numbers(fields: dict[str, Any]) -> None:
    with TorchArchive(GOLDEN) as archive:
        stored = archive.content["state_dict"]["encoder.conv_in.conv.weight"]
        archive.check("fits", stored)
        with pytest.raises(ValueError, match="is damaged: wrong"):
            archive.check("wrong", stored._replace(**fields))


def test_only_what_is_asked_for_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training checkpoint's optimiser state is larger than the model: it must cost nothing."""
    read: list[str] = []
    real = zipfile.ZipFile.read
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda self, name, *rest: read.append(str(name)) or real(self, name))
    load_official(GOLDEN)
    tensors = torch.load(GOLDEN, weights_only=True)["state_dict"]
    wanted = [name for name in tensors if not name.startswith("loss.")]
    assert len([name for name in read if "/data/" in name]) == len(wanted) < len(tensors)
