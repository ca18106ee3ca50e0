"""``reconstruct``: what it refuses, in one line and with nothing written, and that half a result is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from reconstruct_calls import call, make_vae, record, write_clip
from torch import Tensor

from ssvae.models import roundtrip
from ssvae.models.weights import save_vae


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae") / "vae"
    save_vae(folder, make_vae())
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_call_leaves_nothing_behind(
    vae_folder: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    older: bool,
    error: type[BaseException],
) -> None:
    out = tmp_path / "out"
    if older:
        assert call(clip, vae_folder, out, "--frames", "3") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()} if older else None
    real = roundtrip.reconstruct

    def breaks(*args: Any, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
        pairs = real(*args, **options)
        yield next(pairs)
        raise error("in the middle")

    monkeypatch.setattr(roundtrip, "reconstruct", breaks)
    if error is KeyboardInterrupt:
        assert call(clip, vae_folder, out, "--chunk", "2") == 130
    else:
        with pytest.raises(error):
            call(clip, vae_folder, out, "--chunk", "2")
    if before is None:
        assert list(tmp_path.iterdir()) == []
    else:
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


MISTAKES: dict[str, tuple[list[str], str]] = {
    "chunk": (["--chunk", "0"], "--chunk 0: must be at least 1"),
    "frames": (["--frames", "0"], "--frames 0: must be at least 1"),
    "size": (["--size", "0", "16"], "--size 0 16: both must be at least 1"),
    "tile": (["--tile", "18", "16"], "tile height 18 must be a multiple of the VAE's spatial compression 4"),
    "no tile": (["--tile", "16", "0"], "--tile 16 0: both must be at least 1"),
    "overlap alone": (["--overlap", "8"], "only tiles overlap; give --tile too"),
    "overlap": (["--tile", "16", "16", "--overlap", "16"], "tile overlap 16 must be smaller than the tile"),
    "negative overlap": (["--tile", "16", "16", "--overlap", "-4"], "--overlap -4: must be at least 0"),
    "device": (["--device", "nowhere"], "--device nowhere: cannot be used here"),
    "device without numbers": (["--device", "meta"], "--device meta: cannot be used here"),
    "vae": (["--vae", "nowhere"], "nowhere is no VAE folder"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_bad_options_write_nothing(
    name: str, vae_folder: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, word = MISTAKES[name]
    assert call(clip, vae_folder, tmp_path / "out", *more) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("reconstruct: ") and word in said[-1]
    assert list(tmp_path.iterdir()) == []


CLIPS: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "no such file"),
    "empty": (b"", "not_video: the file is empty"),
    "text": (b"no video at all\n" * 100, "not_video"),
    "zeros": (bytes(4000), "not_video"),
    "cut png": (b"\x89PNG\r\n\x1a\n" + bytes(60), "bad.mp4: "),
}


@pytest.mark.parametrize("name", CLIPS)
def test_files_that_are_no_clips_write_nothing(
    name: str, vae_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, word = CLIPS[name]
    path = tmp_path / "bad.mp4"
    if data is not None:
        path.write_bytes(data)
    assert call(path, vae_folder, tmp_path / "out") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"reconstruct: {path}: ") and word in said
    assert list(tmp_path.iterdir()) == ([path] if data is not None else [])


def test_a_damaged_clip_says_how_much_can_be_used(
    vae_folder: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "bad.mp4", tmp_path / "out"
    whole_file = clip.read_bytes()
    path.write_bytes(whole_file[: len(whole_file) // 2])
    assert call(path, vae_folder, out) == 2
    assert "truncated: the file ends before the length" in capsys.readouterr().err
    with av.open(str(clip)) as container:
        last = max((packet.pos, packet.size) for packet in container.demux(video=0) if packet.size)
    data = bytearray(whole_file)
    data[last[0] : last[0] + last[1]] = bytes(255 - byte for byte in data[last[0] : last[0] + last[1]])
    path.write_bytes(data)
    assert call(path, vae_folder, out) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "decode_error" in said and "uses only those" in said and not out.exists()
    intact = said.split("--frames ")[1].split()[0]
    assert call(path, vae_folder, out, "--frames", intact) == 0
    assert record(out)["frames"] == int(intact) > 5


def test_out_may_not_be_in_the_way_of_others(
    vae_folder: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "done.json").write_text("{}")
    places = {"file": "is a file", "stage": "holds other things (done.json)", "file/below": "is no folder"}
    for name, words in places.items():
        assert call(clip, vae_folder, tmp_path / name) == 2
        assert words in capsys.readouterr().err
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "file",
        "stage",
        "stage/done.json",
    ]
