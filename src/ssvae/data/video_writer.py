"""Write an H.264 file frame by frame, however long it gets; or a picture.

Dimension legend
    t frames of a piece, 3 colours, H W pixels    frames (t,3,H,W) uint8 RGB
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import av
import torch.nn.functional as functional
from av.video.stream import VideoStream
from PIL import Image
from torch import Tensor

QUALITY = 12
"""Constant rate factor of libx264: differences to the source cannot be seen."""
BT709 = 1
"""Number of the ITU-R BT.709 matrix, primaries and transfer in H.264; players guess where a file does not say."""


def even(side: int) -> int:
    """``side``, or one more: yuv420p, which every player shows, has one colour for 2 x 2 pixels."""
    return side + side % 2


class FrameWriter(Protocol):
    """A context that takes frames (t,3,H,W) uint8 in order; on leaving it without an error the file is complete."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, frames: Tensor) -> None: ...


class VideoWriter:
    """Encodes to ``path`` (mp4, yuv420p, BT.709) at exactly ``fps``; see :class:`FrameWriter`.

    Sides that are odd get one more row or column, a repeat of the last. pixel_aspect: width over height of a pixel.
    Only the encoder's look-ahead is in memory. A file that an error leaves behind is not playable: give a temporary
    name and rename it when all is well.
    """

    def __init__(
        self, path: Path, *, fps: Fraction, height: int, width: int, pixel_aspect: Fraction = Fraction(1)
    ) -> None:
        self._size = (height, width)
        self._container = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        options = {"crf": str(QUALITY), "preset": "medium"}
        self._stream: VideoStream = self._container.add_stream("libx264", rate=fps, options=options)
        self._stream.height, self._stream.width, self._stream.pix_fmt = even(height), even(width), "yuv420p"
        context = self._stream.codec_context
        context.time_base = 1 / fps
        context.sample_aspect_ratio = pixel_aspect
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = 1  # 16..235, as players expect of yuv420p
        self._time_base = 1 / fps
        self.frames = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def write(self, frames: Tensor) -> None:
        """Append t frames (t,3,H,W) uint8; ValueError for another size than the file's."""
        if tuple(frames.shape[2:]) != self._size:
            raise ValueError(f"frames of {tuple(frames.shape[2:])} pixels do not fit into a video of {self._size}")
        height, width = self._size
        filled = functional.pad(
            frames.float(), (0, even(width) - width, 0, even(height) - height), mode="replicate"
        ).byte()
        for picture in filled.permute(0, 2, 3, 1).contiguous().numpy():
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            frame.pts, frame.time_base = self.frames, self._time_base
            self._container.mux(self._stream.encode(frame))
            self.frames += 1


class PngWriter:
    """Writes a single picture to ``path``, without loss; see :class:`FrameWriter`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def write(self, frames: Tensor) -> None:
        """Write the one frame (1,3,H,W) uint8; ValueError for several."""
        if frames.shape[0] != 1:
            raise ValueError(f"a PNG holds one picture, got {frames.shape[0]} frames")
        Image.fromarray(frames[0].permute(1, 2, 0).contiguous().numpy()).save(self._path, "PNG")
