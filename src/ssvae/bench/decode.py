"""Clips a second out of H.264 files: seek and decode only what is needed, against decoding and converting everything.

Both sides run one decoding thread, pick the same frames and resize them alike; their pixels are equal bit for bit.

Dimension legend
    T frames, H W pixels, 3 colours    frames (T,H,W,3) uint8 RGB as encoded; window (T,3,H,W) uint8 as read
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssvae.bench.pair import Pair
from ssvae.data.clips import pick_frames, read_window
from ssvae.data.pixels import fit
from ssvae.data.synthetic import render, render_image
from ssvae.data.synthetic_shards import encode_mp4

POSITIONS = (0.1, 0.5, 0.9)
"""Where windows lie, as shares of the places where they fit; taken in turns."""


@dataclass(frozen=True)
class Window:
    """frames at fps, resized and cropped to size x size pixels."""

    frames: int
    fps: float
    size: int


def pairs() -> list[Pair]:
    """``decode_default``: files of the embedded data; ``decode_long``: 300 frames of 320x240, as libx264 encodes."""
    small = [encode_mp4(render(index).frames, 8.0) for index in range(4)]
    long = [encode_plainly(panned(300, 240, 320), 30)]
    return [
        decode_pair("decode_default", "24 frames of 64x64 (H.264)", small, Window(9, 8.0, 32)),
        decode_pair("decode_long", "300 frames of 320x240 at 30 fps (H.264)", long, Window(17, 8.0, 128)),
    ]


def decode_pair(name: str, what: str, files: list[bytes], window: Window) -> Pair:
    """Reading one window at each of :data:`POSITIONS` of each file."""
    places = list(itertools.product(files, POSITIONS))

    def read_all_windows(read: Callable[[bytes, Window, float], Tensor]) -> list[Tensor]:
        return [read(data, window, position) for data, position in places]

    def difference() -> float:
        ours, theirs = (read_all_windows(read) for read in (read_needed, read_everything))
        return max(float((a.short() - b.short()).abs().max()) for a, b in zip(ours, theirs, strict=True))

    return Pair(
        name=name,
        what=f"{window.frames} frames at {window.fps:g} fps and {window.size} px out of {what}",
        reference="ssvae.bench.decode.read_everything",
        fast=lambda: read_all_windows(read_needed),
        naive=lambda: read_all_windows(read_everything),
        difference=difference,
        tolerance=0.0,
        unit="clips/s",
        clips=len(places),
    )


def read_needed(data: bytes, window: Window, position: float) -> Tensor:
    """(T,3,H,W) uint8 by the package's reader."""
    return read_window(data, frames=window.frames, fps=window.fps, size=window.size, position=position)


def read_everything(data: bytes, window: Window, position: float) -> Tensor:
    """(T,3,H,W) uint8: decode the whole file, convert every frame to RGB, then choose."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        decoded = list(_pictures(container.decode(stream)))
    times = np.array([time for time, _ in decoded]) - decoded[0][0]
    picks = pick_frames(times, frames=window.frames, fps=window.fps, position=position)
    return torch.stack([fit(decoded[pick][1], window.size) for pick in picks])


def _pictures(frames: Iterator[av.VideoFrame]) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    for frame in frames:
        assert frame.time is not None
        yield frame.time, np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)


def panned(frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """(T,H,W,3): a camera that pans over a still texture, back and forth."""
    margin = 32
    picture, _ = render_image(0, size=max(height, width) + margin)
    phase = np.arange(frames) * 2 * np.pi / 150
    tops = np.round((1 + np.sin(phase)) * margin / 2).astype(int)
    lefts = np.round((1 + np.cos(phase)) * margin / 2).astype(int)
    return np.stack([picture[top : top + height, left : left + width] for top, left in zip(tops, lefts, strict=True)])


def encode_plainly(frames: NDArray[np.uint8], rate: int) -> bytes:
    """H.264 mp4 with libx264's own choice of keyframes (at most 250 apart) and B-frames: what most files are like."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"preset": "veryfast", "threads": "1", "crf": "20"}
        stream = container.add_stream("libx264", rate=Fraction(rate), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()
