"""Whole files, frame by frame: every frame once, upright, at the exact rate; images as clips of one."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from video_files import all_of, counted, decode_all, encoded

from ssvae.data.clips import read_all
from ssvae.data.pixels import read_image, to_video
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


@pytest.mark.parametrize("options", [{}, {"bf": "0"}, {"bf": "3", "b-pyramid": "normal", "g": "15"}])
@pytest.mark.parametrize("kind", ["mp4", "mp4 faststart", "matroska"])
def test_frames_are_those_of_the_whole_decoding(
    make_clip: MakeClip, save: Save, kind: str, options: dict[str, str]
) -> None:
    data = make_clip(render(3, frames=23, size=32).frames, options=options, kind=kind)
    clip = open_clip(save("clip", data))
    assert (clip.kind, clip.height, clip.width, clip.frames, clip.rotation) == ("video", 32, 32, 23, 0)
    assert (clip.fps, clip.constant, clip.notes) == (Fraction(8), True, ())
    expected = to_video(read_all(data, size=32)[1])[None]
    for length in (1, 7, 23, 100):
        assert torch.equal(all_of(clip, length), expected)
    assert torch.equal(all_of(clip, size=(16, 24)), to_video(read_all(data, size=(16, 24))[1])[None])


def test_frames_that_an_edit_list_cuts_away_are_not_shown(make_clip: MakeClip, save: Save) -> None:
    clip = open_clip(save("clip", make_clip(counted(16), begin=-4, options={"bf": "0"})))
    levels = (all_of(clip).mean((0, 1, 3, 4)) + 1) * 127.5
    assert [round((float(level) - 8) / 8) for level in levels] == list(range(4, 16))


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotation_flags_are_applied_and_named(make_clip: MakeClip, save: Save, rotation: int) -> None:
    frames = np.zeros((4, 32, 48, 3), np.uint8)
    frames[:, :16, :24] = 255
    data = make_clip(frames, rotation=rotation)
    clip = open_clip(save("clip", data))
    assert (clip.height, clip.width) == ((32, 48) if rotation == 180 else (48, 32))
    assert clip.rotation == rotation % 360
    assert len(clip.notes) == 1 and str(rotation % 360) in clip.notes[0]
    assert torch.equal(all_of(clip), to_video(read_all(data, size=(clip.height, clip.width))[1])[None])


def test_pixels_that_are_not_square_turn_with_the_picture(tmp_path: Path) -> None:
    for rotation, expected in ((0, Fraction(4, 3)), (90, Fraction(3, 4))):
        path = tmp_path / f"{rotation}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
            stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
            stream.set_display_rotation(rotation)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(counted(1)[0], format="rgb24")))
            container.mux(stream.encode(None))
        assert open_clip(path).pixel_aspect == expected


@pytest.mark.parametrize("kind", ["mp4", "matroska", "mpegts", "avi"])
@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(25), Fraction(15, 2)])
def test_the_rate_is_exact_whatever_the_unit_of_time_stamps(save: Save, kind: str, rate: Fraction) -> None:
    data = encoded(counted(20), kind, "mpeg4" if kind == "avi" else "libx264", rate=rate)
    clip = open_clip(save("clip", data))
    assert (clip.fps, clip.constant, clip.frames) == (rate, True, 20)


def test_a_variable_rate_is_averaged_and_said(make_clip: MakeClip, save: Save) -> None:
    data = make_clip(counted(10), pts=[0, 1, 2, 3, 10, 20, 30, 31, 32, 40], rate=10)
    clip = open_clip(save("clip", data))
    assert (clip.fps, clip.constant, clip.frames) == (Fraction(9, 4), False, 10)
    assert "varies (frames last 0.1 to 1 s)" in clip.notes[0] and "9/4 = 2.25 fps" in clip.notes[0]


def test_a_missing_rate_is_taken_from_the_header_and_said(make_clip: MakeClip, save: Save) -> None:
    clip = open_clip(save("clip", make_clip(counted(20), kind="h264", options={"bf": "2"})))
    assert (clip.fps, clip.frames, clip.constant) == (Fraction(25), 20, False)
    assert clip.notes == ("it has no usable time stamps: taken as 25 fps",)
    assert open_clip(save("one", make_clip(counted(1)))).fps == Fraction(8)


def test_a_limit_looks_no_further(make_clip: MakeClip, save: Save) -> None:
    data = make_clip(counted(20))
    seen: list[int] = []
    clip = open_clip(save("clip", data), limit=5, progress=seen.append)
    assert clip.frames == 5 and seen == [1, 2, 3, 4, 5]
    assert torch.equal(all_of(clip, 2), to_video(read_all(data, size=(32, 48))[1])[None, :, :5])
    assert open_clip(save("clip", data), limit=50).frames == 20


def test_an_animation_is_a_clip_and_a_still_is_an_image(save: Save) -> None:
    clip = open_clip(save("clip.jpg", encoded(counted(6), "gif", "gif", rate=10)))
    assert (clip.kind, clip.frames, clip.fps) == ("video", 6, Fraction(10))
    buffer = io.BytesIO()
    Image.fromarray(counted(1)[0]).save(buffer, "GIF")
    assert open_clip(save("still.mp4", buffer.getvalue())).kind == "image"


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_images_are_upright_clips_of_one_frame(save: Save, orientation: int) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(render(0, frames=1, size=32).frames[0][:, :24]).save(buffer, "JPEG", exif=exif)
    clip = open_clip(save("photo.bin", buffer.getvalue()))
    size = (24, 32) if orientation in (6, 8) else (32, 24)
    assert (clip.kind, (clip.height, clip.width), clip.frames, clip.fps) == ("image", size, 1, None)
    assert torch.equal(all_of(clip), read_image(buffer.getvalue(), size)[None])


def test_several_pictures_in_one_image_are_named(save: Save) -> None:
    buffer = io.BytesIO()
    pictures = [Image.fromarray(picture) for picture in counted(3)]
    pictures[0].save(buffer, "TIFF", save_all=True, append_images=pictures[1:])
    clip = open_clip(save("scan", buffer.getvalue()))
    assert (clip.kind, clip.notes) == ("image", ("it holds 3 pictures: the first is used",))


def test_a_recording_that_begins_within_a_scene_is_used_from_its_first_keyframe(save: Save) -> None:
    whole = encoded(render(1, frames=24, size=32).frames, "mpegts", g="12", bf="0")
    begin = 188 * 6  # tables are sent again beside every keyframe
    clip = open_clip(save("cut", whole[begin:]))
    assert clip.frames == 12
    expected = to_video(torch.from_numpy(decode_all(whole)[12:]).permute(0, 3, 1, 2))[None]
    assert torch.equal(all_of(clip), expected)


@pytest.mark.example_data
def test_real_clips(example_data: Path, save: Save) -> None:
    with tarfile.open(example_data / "video" / "test.tar") as tar:
        member = next(member for member in tar if member.name.endswith(".mp4"))
        file = tar.extractfile(member)
        assert file is not None
        data = file.read()
    clip = open_clip(save("clip", data), limit=20)
    assert (clip.height, clip.width, clip.frames, clip.constant) == (300, 534, 20, True)
    assert clip.fps is not None and abs(float(clip.fps) - 29.97) < 0.01
    expected = to_video(torch.from_numpy(decode_all(data)[:20]).permute(0, 3, 1, 2))[None]
    assert torch.equal(all_of(clip), expected)
