"""Reading a window gives the frames of a full decoding, bit for bit, and bad files say what is wrong with them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from ssvae.data.clips import pick_frames, probe_clip, read_all, read_clip, read_window
from ssvae.data.pixels import ClipError, fit, to_video
from ssvae.data.synthetic import render

MakeClip = Callable[..., bytes]


def counted(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Frames whose grey level names them: 8 levels apart."""
    levels = (8 + 8 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def names(window: torch.Tensor) -> list[int]:
    """Numbers of the frames of a window of :func:`counted`."""
    return [round((level - 8) / 8) for level in window.float().mean(dim=(1, 2, 3)).tolist()]


def decode_everything(data: bytes) -> tuple[list[float], list[np.ndarray]]:
    """Independent reference: PyAV's own loop over all frames in showing order."""
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(video=0))
    assert all(frame.time is not None for frame in frames)
    return [frame.time - frames[0].time for frame in frames], [frame.to_ndarray(format="rgb24") for frame in frames]


@pytest.mark.parametrize("options", [{}, {"g": "6"}, {"bf": "0"}, {"bf": "3", "b-pyramid": "normal", "g": "15"}])
@pytest.mark.parametrize("kind", ["mp4", "mp4 faststart", "matroska"])
def test_windows_equal_full_decoding(make_clip: MakeClip, options: dict[str, str], kind: str) -> None:
    data = make_clip(render(3, frames=30, size=32).frames, options=options, kind=kind)
    times, pictures = decode_everything(data)
    for start in (0.0, 0.4, 1.3, 2.6):
        wanted = [int(np.argmin([abs(time - start - i / 8) - 1e-9 * -time for time in times])) for i in range(9)]
        window = read_window(data, frames=9, fps=8, size=24, start=start)
        assert torch.equal(window, torch.stack([fit(pictures[which], 24) for which in wanted]))


def test_leaving_out_frames_that_none_depends_on_changes_nothing(make_clip: MakeClip) -> None:
    data = make_clip(render(3, frames=30, size=32).frames, options={"bf": "3", "x264-params": "b-adapt=0"})
    with av.open(io.BytesIO(data)) as container:
        kinds = [frame.pict_type for frame in container.decode(video=0)]
    assert kinds.count(av.video.frame.PictureType.B) > 15
    whole = read_all(data, size=32)[1]
    assert torch.equal(read_window(data, frames=8, fps=2, size=32), whole[[0, 4, 8, 12, 16, 20, 24, 28]])


def test_the_rate_is_the_one_asked_for(make_clip: MakeClip) -> None:
    data = make_clip(counted(30), rate=24)
    assert names(read_window(data, frames=9, fps=8, size=16)) == list(range(0, 27, 3))
    assert names(read_window(data, frames=4, fps=12, size=16, start=0.5)) == [12, 14, 16, 18]
    assert names(read_window(data, frames=3, fps=48, size=16, start=0.5)) == [12, 12, 13]


def test_variable_frame_rate_goes_by_time_stamps(make_clip: MakeClip) -> None:
    pts = [0, 1, 2, 3, 10, 20, 30, 31, 32, 40]
    data = make_clip(counted(10), pts=pts, rate=10)
    assert np.allclose(read_all(data, size=16)[0], np.array(pts) / 10)
    assert names(read_window(data, frames=5, fps=1, size=16)) == [0, 4, 5, 6, 9]
    info = probe_clip(data)
    assert (info.frames, info.fps) == (10, pytest.approx(9 / 4.0))


def test_frames_that_an_edit_list_cuts_away_are_not_shown(make_clip: MakeClip) -> None:
    data = make_clip(counted(16), begin=-4, options={"bf": "0"})
    with av.open(io.BytesIO(data)) as container:
        assert sum(packet.is_discard for packet in container.demux(video=0)) == 4
    assert probe_clip(data).frames == 12
    assert names(read_window(data, frames=3, fps=8, size=16)) == [4, 5, 6]
    with pytest.raises(ClipError, match="too_short"):
        read_window(data, frames=13, fps=8, size=16)


def test_streams_without_time_stamps_go_by_their_rate_or_are_rejected(make_clip: MakeClip) -> None:
    # FFmpeg takes a bare H.264 stream for 25 fps.
    plain = make_clip(counted(20), kind="h264", options={"bf": "0"})
    assert names(read_window(plain, frames=4, fps=5, size=16)) == [0, 5, 10, 15]
    reordered = make_clip(counted(20), kind="h264", options={"bf": "2", "x264-params": "b-adapt=0"})
    with pytest.raises(ClipError) as caught:
        read_clip(reordered, frames=4, fps=5, size=16)
    assert caught.value.reason == "zero_fps"


def test_position_spreads_the_window_over_all_places(make_clip: MakeClip) -> None:
    data = make_clip(counted(24))
    first, middle, last = (read_window(data, frames=9, fps=8, size=16, position=place) for place in (0.0, 0.5, 1.0))
    assert (names(first)[0], names(middle)[0], names(last)[-1]) == (0, 7, 23)


def test_probe_believes_the_file(make_clip: MakeClip) -> None:
    info = probe_clip(make_clip(counted(20, 32, 48), rate=10))
    assert (info.width, info.height, info.frames) == (48, 32, 20)
    assert (info.fps, info.duration) == (pytest.approx(10), pytest.approx(2.0))


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotation_flags_are_applied(make_clip: MakeClip, rotation: int) -> None:
    frames = np.zeros((4, 32, 48, 3), np.uint8)
    frames[:, :16, :24] = 255
    data = make_clip(frames, rotation=rotation)
    info = probe_clip(data)
    upright = (info.height, info.width)
    assert upright == ((32, 48) if rotation == 180 else (48, 32))
    shown = read_window(data, frames=1, fps=8, size=upright)[0].float().mean(dim=0)
    # Counter-clockwise by 90 degrees: what was at the top left comes to the bottom left.
    corners = {90: (0.75, 0.25), -90: (0.25, 0.75), 180: (0.75, 0.75)}
    down, right = corners[rotation]
    assert shown[int(down * upright[0]), int(right * upright[1])] > 200
    assert shown.mean() == pytest.approx(255 / 4, abs=6)


def test_range_and_axes_of_the_video(make_clip: MakeClip) -> None:
    data = make_clip(counted(9))
    video = read_clip(data, frames=9, fps=8, size=(16, 24))
    assert (video.shape, video.dtype) == ((3, 9, 16, 24), torch.float32)
    assert torch.equal(video, to_video(read_window(data, frames=9, fps=8, size=(16, 24))))
    assert video[:, 0].mean() == pytest.approx(8 / 127.5 - 1, abs=0.02)


@pytest.mark.parametrize("frames", [17, 25])
def test_too_short_clips_are_named_so(make_clip: MakeClip, frames: int) -> None:
    with pytest.raises(ClipError) as caught:
        read_clip(make_clip(counted(16)), frames=frames, fps=8, size=16)
    assert caught.value.reason == "too_short"


def test_start_beyond_the_room_is_too_short(make_clip: MakeClip) -> None:
    data = make_clip(counted(16))
    assert names(read_window(data, frames=9, fps=8, size=16, start=7 / 8))[-1] == 15
    with pytest.raises(ClipError) as caught:
        read_window(data, frames=9, fps=8, size=16, start=1.0)
    assert caught.value.reason == "too_short"


def test_small_clips_are_rejected_only_on_request(make_clip: MakeClip) -> None:
    data = make_clip(counted(9, 32, 48))
    assert read_clip(data, frames=9, fps=8, size=64).shape == (3, 9, 64, 64)
    with pytest.raises(ClipError) as caught:
        read_clip(data, frames=9, fps=8, size=64, upscale=False)
    assert caught.value.reason == "too_small"


@pytest.mark.parametrize("kind", ["mp4", "mp4 faststart"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95, 0.999])
def test_cut_files_are_truncated(make_clip: MakeClip, kind: str, share: float) -> None:
    data = make_clip(render(1, frames=12, size=32).frames, kind=kind)
    with pytest.raises(ClipError) as caught:
        read_clip(data[: int(len(data) * share)], frames=3, fps=8, size=16)
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("data", [b"", b"hello", bytes(4096), b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_what_is_no_video_is_named_so(data: bytes) -> None:
    with pytest.raises(ClipError) as caught:
        probe_clip(data)
    assert caught.value.reason in ("not_video", "decode_error")


def test_damage_anywhere_raises_nothing_but_clip_errors(make_clip: MakeClip) -> None:
    data = make_clip(render(1, frames=12, size=32).frames)
    rng = np.random.default_rng(0)
    reasons = set()
    for _ in range(150):
        broken = bytearray(data)
        for place in rng.integers(len(data), size=8):
            broken[place] = rng.integers(256)
        try:
            read_clip(bytes(broken), frames=5, fps=8, size=16)
        except ClipError as error:
            reasons.add(error.reason)
    assert "decode_error" in reasons


def test_most_damaged_pictures_are_refused_instead_of_patched_up(make_clip: MakeClip) -> None:
    data = make_clip(render(1, frames=12, size=64).frames)
    pictures = data.index(b"mdat") + 1000
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(40):
        broken = bytearray(data)
        for place in rng.integers(pictures, pictures + 6000, size=4):
            broken[place] ^= 0x55
        try:
            read_window(bytes(broken), frames=12, fps=8, size=64)
        except ClipError as error:
            refused += error.reason == "decode_error"
    # FFmpeg paints over damage silently unless its mark on the frame is looked at: then nearly none is refused.
    assert refused > 20


def test_ties_go_to_the_earlier_frame_and_arguments_are_checked() -> None:
    times = np.arange(10) / 4
    assert pick_frames(times, frames=3, fps=8) == [0, 0, 1]
    assert pick_frames(np.zeros(1), frames=1, fps=8) == [0]
    with pytest.raises(ValueError, match="not both"):
        pick_frames(times, frames=1, fps=8, start=0.0, position=0.5)
    with pytest.raises(ValueError, match="frames >= 1"):
        pick_frames(times, frames=0, fps=8)


@pytest.mark.example_data
def test_real_clips_equal_full_decoding_although_their_meta_lies(example_data: Path) -> None:
    with tarfile.open(example_data / "video" / "test.tar") as tar:
        files = [tar.extractfile(member) for member in tar if member.name.endswith(".mp4")][:2]
        clips = [file.read() for file in files if file is not None]
    for data in clips:
        info = probe_clip(data)
        assert (info.width, info.height) == (534, 300)
        assert info.fps == pytest.approx(29.97, abs=0.01)
        times, pictures = decode_everything(data)
        assert len(times) == info.frames
        window = read_window(data, frames=17, fps=8, size=64, start=0.31)
        for i, frame in enumerate(window):
            nearest = int(np.argmin(np.abs(np.array(times) - 0.31 - i / 8)))
            assert torch.equal(frame, fit(pictures[nearest], 64))
