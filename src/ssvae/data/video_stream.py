"""Read a whole video file of any length, a few frames at a time, or one image, as it is meant to be shown.

A file is decoded twice. The first pass sees that it is sound to its end, how many frames it shows and when; only then
is it worth a model's time, and a damaged one is refused with the number of frames before the damage. The second pass
hands the frames out. Neither keeps frames. FFmpeg sees the content without its name, by which it would render a text
as a video, and may open no other file or address that the content names.

Dimension legend
    3 colours, t frames of a piece, H W pixels    piece (1,3,t,H,W) float32 in [-1, 1]; picture (H,W,3) uint8 RGB
    n frames of the whole clip                    stamps (n,) int64, ascending, in units of the stream's time base
"""

from __future__ import annotations

import io
import mmap
import struct
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Literal

import av
import numpy as np
import torch
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ssvae.data.clips import cut_short, to_rgb
from ssvae.data.frame_rate import frame_rate, say_rate
from ssvae.data.pixels import ClipError, fit, read_image, to_video

IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats of Pillow that are taken for images; Pillow also claims some video files."""
MOVING_FORMATS = ("GIF", "PNG")
"""Those whose files are clips if they hold several pictures."""
FALLBACK_FPS = Fraction(25)
"""For a file that has neither time stamps nor a rate."""
CUT = "the file ends before the length that its header states"
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)
"""EXIF tag, and its values that exchange height and width."""

Counter = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Clip:
    """A sound file and how it is shown.

    height, width: pixels as shown, after ``rotation`` (degrees counter-clockwise). frames: how many are used. fps:
    exact rate, None for an image. constant: whether frames come at that rate; else it is their average. pixel_aspect:
    width over height of one shown pixel. notes: what a user should be told.
    """

    path: Path
    kind: Literal["video", "image"]
    height: int
    width: int
    frames: int
    fps: Fraction | None
    constant: bool
    rotation: int
    pixel_aspect: Fraction
    notes: tuple[str, ...]

    def pieces(self, length: int, size: tuple[int, int] | None = None) -> Iterator[Tensor]:
        """The frames in order, ``length`` at a time (the last piece may be shorter), (1,3,t,H,W) in [-1, 1].

        size: (H, W) to resize to, bicubic, so that the picture covers it, with a crop of the centre; None keeps it.
        """
        size = (self.height, self.width) if size is None else size
        if self.kind == "image":
            yield read_image(self.path.read_bytes(), size)[None]
            return
        frames: list[Tensor] = []
        for _, frame in _decoded(self.path, self.frames):
            frames.append(fit(to_rgb(frame), size))
            if len(frames) == length:
                yield to_video(torch.stack(frames))[None]
                frames.clear()
        if frames:
            yield to_video(torch.stack(frames))[None]


def open_clip(path: Path, *, limit: int | None = None, progress: Counter | None = None) -> Clip:
    """Look through a video file or an image file; what it is goes by its content, not by its name.

    limit: use at most that many frames from the start, and look at no others. progress: called with the number of
    frames seen. Raises ValueError for a path that is no file, and :class:`ClipError` for a file that is neither video
    nor image, holds no picture, is cut short, or is damaged within the frames to be used.
    """
    if not path.is_file():
        raise ValueError(f"{path}: " + ("is no file; give a video or an image" if path.exists() else "no such file"))
    image = _open_image(path)
    return image if image is not None else _open_video(path, limit, progress)


def _open_video(path: Path, limit: int | None, progress: Counter | None) -> Clip:
    stamps, frames = array("q"), 0
    first: tuple[int, int, int] | None = None
    for stream, frame in _decoded(path, limit):
        shape = (frame.height, frame.width, frame.rotation % 360)
        if first is None:
            first, header = shape, _Header.of(stream)
        if shape != first:
            raise ClipError("decode_error", f"the picture changes its size or rotation {_after(frames)}")
        if frame.pts is not None:
            stamps.append(frame.pts)
        frames += 1
        if progress is not None:
            progress(frames)
    if first is None:
        raise ClipError("decode_error", "not one frame of it could be decoded")
    height, width, rotation = first
    aspect, notes = header.pixel_aspect, []
    if rotation % 180 == 90:
        height, width, aspect = width, height, 1 / aspect
    if rotation:
        notes.append(f"turned by {rotation} degrees counter-clockwise, as its rotation flag says")
    fps, constant, remarks = _rate(np.array(stamps, dtype=np.int64), header, frames)
    shown, stated = float(frames / fps), header.seconds
    if limit is None and stated is not None and stated > 1.1 * shown + 1:
        remarks.append(f"its pictures end after {shown:.2f} s of the {stated:.2f} s that it states")
    return Clip(path, "video", height, width, frames, fps, constant, rotation, aspect, (*notes, *remarks))


@dataclass(frozen=True, slots=True)
class _Header:
    """What a file states about its frames: rates, unit of time stamps, width over height of a pixel, length."""

    rates: tuple[Fraction | None, ...]
    time_base: Fraction | None
    pixel_aspect: Fraction
    seconds: float | None

    @classmethod
    def of(cls, stream: VideoStream) -> _Header:
        assert isinstance(stream.container, InputContainer)
        length = stream.container.duration
        return cls(
            rates=(stream.average_rate, stream.guessed_rate, stream.base_rate),
            time_base=stream.time_base,
            pixel_aspect=Fraction(stream.sample_aspect_ratio or 1),
            seconds=None if length is None else length / av.time_base,
        )


def _rate(stamps: NDArray[np.int64], header: _Header, frames: int) -> tuple[Fraction, bool, list[str]]:
    """(fps, constant, notes); stamps (n,), fewer than ``frames`` where some have none."""
    usable = len(stamps) == frames and bool((np.diff(stamps) >= 0).all()) and stamps[-1] > stamps[0]
    if usable and header.time_base:
        rate, constant = frame_rate(stamps, header.time_base, header.rates)
        if constant:
            return rate, True, []
        lasts = np.diff(stamps) * float(header.time_base)
        between = f"frames last {lasts.min():.4g} to {lasts.max():.4g} s"
        return rate, False, [f"its frame rate varies ({between}): written at the average, {say_rate(rate)}"]
    known = next((rate for rate in header.rates if rate), None)
    if frames == 1 and known:
        return known, True, []
    lack = "has no usable time stamps" if known else "states neither time stamps nor a frame rate"
    rate = known or FALLBACK_FPS
    return rate, False, [f"it {lack}: taken as {say_rate(rate)}"]


def _decoded(path: Path, limit: int | None) -> Iterator[tuple[VideoStream, av.VideoFrame]]:
    """Frames in the order they are shown, from the first keyframe on; ClipError where the file breaks."""
    count, begun = 0, False
    with _opened(path) as (container, stream, cut):
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise _broken("a packet is damaged", count, cut)
                # Recordings may begin in the middle of a scene; nothing can be decoded before the first keyframe.
                begun = begun or packet.is_keyframe
                for frame in packet.decode() if begun else []:
                    if frame.is_corrupt:
                        raise _broken("a frame is damaged", count, cut)
                    yield stream, frame
                    count += 1
                    if count == limit:
                        return
        except av.FFmpegError as error:
            raise _broken(type(error).__name__, count, cut) from error
    if cut:
        raise _broken("", count, cut)


def _broken(what: str, count: int, cut: bool) -> ClipError:
    if cut:
        return ClipError("truncated", f"{CUT} {_after(count)}")
    return ClipError("decode_error", f"{what} {_after(count)}")


def _after(count: int) -> str:
    remedy = f"; --frames {count} uses only those" if count else ""
    return f"after {count} intact frame{'' if count == 1 else 's'}{remedy}"


class _Nameless:
    """A file to read, without its name."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read, self.tell = file.read, file.tell

    def seek(self, offset: int, whence: int = 0) -> int:
        """-1, which FFmpeg takes for an error, where a damaged index points outside of all files."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, OverflowError, ValueError):
            return -1


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream, bool]]:
    """The container, its first video stream, decoding in this thread, and whether the file is cut short."""
    if path.stat().st_size == 0:
        raise ClipError("not_video", "the file is empty")
    with path.open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            cut = cut_short(data)
        try:
            container = av.open(_Nameless(file), "r", metadata_errors="replace", options={"protocol_whitelist": "none"})
        except av.FFmpegError as error:
            if cut:
                raise ClipError("truncated", CUT) from error
            raise ClipError("not_video", "neither a video that FFmpeg knows nor an image that Pillow knows") from error
        with container:
            streams = [stream for stream in container.streams.video if stream.codec_context is not None]
            streams = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
            if not streams:
                raise ClipError("not_video", "no video stream")
            # With threads the number of frames before a damage would depend on their number.
            streams[0].codec_context.thread_type = "NONE"
            streams[0].codec_context.thread_count = 1
            yield container, streams[0], cut


def _open_image(path: Path) -> Clip | None:
    """The image in ``path``, decoded once to see that it is sound; None if it holds none, or a moving one."""
    data = path.read_bytes() if _begins_like_image(path) else b""
    if not data:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            pictures = getattr(image, "n_frames", 1)
            if pictures > 1 and image.format in MOVING_FORMATS:
                return None
            turned = image.getexif().get(ORIENTATION) in TURNED
            height, width = (image.width, image.height) if turned else (image.height, image.width)
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise ClipError("decode_error", f"{type(error).__name__}: {error}") from error
    read_image(data, (height, width))
    notes = (f"it holds {pictures} pictures: the first is used",) if pictures > 1 else ()
    return Clip(path, "image", height, width, 1, None, True, 0, Fraction(1), notes)


def _begins_like_image(path: Path) -> bool:
    try:
        with Image.open(path, formats=IMAGE_FORMATS):
            return True
    except UnidentifiedImageError:
        return False
    except Image.DecompressionBombError as error:
        raise ClipError("decode_error", str(error)) from error
