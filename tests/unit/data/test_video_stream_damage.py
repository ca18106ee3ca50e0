"""Files that are no clips, are cut short or damaged: what is said, and what of them can still be used."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from video_files import all_of, counted, encoded

from ssvae.data.clips import read_all
from ssvae.data.pixels import ClipError, to_video
from ssvae.data.synthetic import render
from ssvae.data.video_stream import open_clip

MakeClip = Callable[..., bytes]
Save = Callable[[str, bytes], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def sound_only() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        for index in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, 1024 * index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


NO_CLIP: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not_video: the file is empty"),
    "text": (b"hello world\n" * 500, "not_video"),
    "zeros": (bytes(5000), "not_video"),
    "noise": (np.random.default_rng(0).bytes(20000), "not_video"),
    "sound": (sound_only(), "not_video: no video stream"),
    "png head": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not_video|decode_error"),
}


@pytest.mark.parametrize("suffix", ["mp4", "txt", "jpg"])
@pytest.mark.parametrize("name", NO_CLIP)
def test_what_is_no_clip_is_named_so_whatever_its_name(save: Save, name: str, suffix: str) -> None:
    data, message = NO_CLIP[name]
    with pytest.raises(ClipError, match=message):
        open_clip(save(f"clip.{suffix}", data))


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        open_clip(tmp_path / "nowhere.mp4")
    with pytest.raises(ValueError, match="is no file"):
        open_clip(tmp_path)


def test_play_lists_open_no_other_file(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Names in a list without a name of its own are looked for where the program runs.
    monkeypatch.chdir(tmp_path)
    save("other.ts", encoded(counted(8), "mpegts"))
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:3,\nother.ts\n#EXT-X-ENDLIST\n"
    for name, text in (("list.m3u8", hls), ("list.ffconcat", "ffconcat version 1.0\nfile other.ts\n")):
        path = save(name, text.encode())
        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 8, "FFmpeg follows the list when it is let"
        with pytest.raises(ClipError, match="not_video"):
            open_clip(path)


def test_a_cut_file_says_how_much_of_it_is_intact(make_clip: MakeClip, save: Save) -> None:
    data = make_clip(render(1, frames=24, size=32).frames, kind="mp4 faststart", options={"bf": "0", "g": "6"})
    path = save("cut", data[: int(0.7 * len(data))])
    with pytest.raises(
        ClipError, match=r"truncated: .* after (\d+) intact frames; --frames \1 uses only those"
    ) as caught:
        open_clip(path)
    intact = int(str(caught.value).split("--frames ")[1].split()[0])
    assert 8 < intact < 24
    assert torch.equal(all_of(open_clip(path, limit=intact)), to_video(read_all(data, size=32)[1])[None, :, :intact])
    index_lost = make_clip(counted(12))
    with pytest.raises(ClipError, match=r"truncated: the file ends before the length that its header states$"):
        open_clip(save("cut", index_lost[: len(index_lost) // 2]))


def test_damage_in_the_middle_says_how_much_is_intact(make_clip: MakeClip, save: Save) -> None:
    data = make_clip(render(1, frames=24, size=64).frames, options={"bf": "0", "g": "6"})
    with av.open(io.BytesIO(data)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    begin, length = packets[12]
    broken = bytearray(data)
    broken[begin : begin + length] = bytes(255 - byte for byte in broken[begin : begin + length])
    path = save("broken", bytes(broken))
    with pytest.raises(ClipError, match=r"decode_error: .* after 12 intact frames; --frames 12 uses only those"):
        open_clip(path)
    assert torch.equal(all_of(open_clip(path, limit=12)), to_video(read_all(data, size=64)[1])[None, :, :12])
    with pytest.raises(ClipError, match="after 12 intact frames"):
        open_clip(path, limit=13)


def test_pictures_that_the_decoder_painted_over_are_refused(make_clip: MakeClip, save: Save) -> None:
    data = make_clip(render(1, frames=12, size=64).frames)
    pictures = data.index(b"mdat") + 1000
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(40):
        broken = bytearray(data)
        for place in rng.integers(pictures, pictures + 6000, size=4):
            broken[place] ^= 0x55
        try:
            open_clip(save("broken", bytes(broken)))
        except ClipError as error:
            refused += "a frame is damaged" in str(error)
    # FFmpeg patches most damage up, silently but for its mark on the frame.
    assert refused > 20


def test_a_matroska_file_that_stops_early_is_used_and_said(make_clip: MakeClip, save: Save) -> None:
    data = make_clip(render(1, frames=40, size=32).frames, kind="matroska", options={"bf": "0"})
    clip = open_clip(save("cut", data[: int(0.6 * len(data))]))
    assert 10 < clip.frames < 35
    assert f"its pictures end after {clip.frames / 8:.2f} s of the 5.00 s that it states" in clip.notes


def test_damaged_images_are_refused(save: Save) -> None:
    buffer = io.BytesIO()
    Image.fromarray(render(0, frames=1, size=64).frames[0]).save(buffer, "PNG")
    data = buffer.getvalue()
    with pytest.raises(ClipError, match=r"decode_error|truncated"):
        open_clip(save("image.png", data[: len(data) // 2]))


def test_damage_anywhere_raises_nothing_but_clip_errors(make_clip: MakeClip, save: Save) -> None:
    data = make_clip(render(1, frames=12, size=32).frames)
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(80):
        broken = bytearray(data)
        for place in rng.integers(len(data), size=8):
            broken[place] = rng.integers(256)
        try:
            outcomes.add(all_of(open_clip(save("broken", bytes(broken)))).shape[2])
        except ClipError as error:
            outcomes.add(error.reason)
    assert {"decode_error", 12} <= outcomes
