"""Decode exactly the frames of a clip that are wanted, from bytes in memory.

A clip is planned from the time stamps of its packets before anything is decoded: the frames nearest to
start + i/fps are picked, decoding begins at the last keyframe before them, packets that nobody needs are never
sent to the decoder, and only the picked frames are converted to RGB. The frames are bit-identical to those of a
full decoding. The effective rate is the one asked for: the official SSVAE reader truncates indices and reads at
about 7.6 fps when asked for 8.

Pixels: RGB, bicubic resize with antialiasing so that the picture covers the wanted size, centre crop,
x/127.5 - 1 (pre-processing of the official SSVAE code). Rotation flags of phones are applied.

Dimension legend
    T frames, 3 colours, H W pixels    frames (T,3,H,W) uint8 before :func:`to_video`; video (3,T,H,W) in [-1, 1]
    n frames of the whole clip         times  (n,) float64, seconds from the first frame, ascending
"""

from __future__ import annotations

import io
import itertools
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import av
import av.logging
import numpy as np
import torch
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor

from ssvae.data.pixels import ClipError, fit, to_video

# FFmpeg's messages must not pass through Python: with decoder threads that can deadlock on the interpreter lock.
av.logging.restore_default_callback()
av.logging.set_libav_level(av.logging.PANIC)

Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """What the file itself says: size in pixels as shown (rotated), mean rate, seconds, number of frames.

    ``duration`` counts the last frame in full: frames / fps.
    """

    width: int
    height: int
    fps: float
    duration: float
    frames: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """Packets in decoding order, and the time stamp (stream units) of every shown frame in showing order."""

    packets: list[av.Packet]
    stamps: list[int]
    times: Times


def probe_clip(data: bytes) -> ClipInfo:
    """Size, rate and length of a video file; decodes one frame. Raises :class:`ClipError`."""
    with _open(data) as (container, stream):
        plan = _plan(container, stream)
        ((_, frame),) = _decode(stream, plan, {plan.stamps[0]})
        turned = frame.rotation % 180 == 90
        height, width = (frame.width, frame.height) if turned else (frame.height, frame.width)
    fps = _mean_rate(plan.times, stream)
    return ClipInfo(width, height, fps, len(plan.times) / fps, len(plan.times))


def read_clip(
    data: bytes,
    *,
    frames: int,
    fps: float,
    size: int | tuple[int, int],
    start: float | None = None,
    position: float | None = None,
    upscale: bool = True,
) -> Tensor:
    """``frames`` frames at ``fps`` from a video file as video (3,T,H,W) float32 in [-1, 1].

    size: side, or (H, W), in pixels. The window begins at ``start`` seconds after the first frame, or at the share
    ``position`` in [0, 1] of all places where it fits; at 0 when neither is given. With ``upscale=False`` a clip
    that is smaller than ``size`` is rejected as too_small. Raises :class:`ClipError` for a clip that cannot be used.
    """
    return to_video(
        read_window(data, frames=frames, fps=fps, size=size, start=start, position=position, upscale=upscale)
    )


def read_window(
    data: bytes,
    *,
    frames: int,
    fps: float,
    size: int | tuple[int, int],
    start: float | None = None,
    position: float | None = None,
    upscale: bool = True,
) -> Tensor:
    """As :func:`read_clip`, but (T,3,H,W) uint8 before the scaling to [-1, 1]."""
    with _open(data) as (container, stream):
        plan = _plan(container, stream)
        picks = pick_frames(plan.times, frames=frames, fps=fps, start=start, position=position)
        wanted = [plan.stamps[pick] for pick in picks]
        pictures = {
            stamp: fit(to_rgb(frame), size, upscale=upscale) for stamp, frame in _decode(stream, plan, set(wanted))
        }
    return torch.stack([pictures[stamp] for stamp in wanted])


def read_all(data: bytes, *, size: int | tuple[int, int], upscale: bool = True) -> tuple[Times, Tensor]:
    """Every frame of a (short) clip: times (n,) in seconds and frames (n,3,H,W) uint8."""
    with _open(data) as (container, stream):
        plan = _plan(container, stream)
        decoded = _decode(stream, plan, set(plan.stamps))
        pictures = {stamp: fit(to_rgb(frame), size, upscale=upscale) for stamp, frame in decoded}
    return plan.times, torch.stack([pictures[stamp] for stamp in plan.stamps])


def pick_frames(
    times: Times, *, frames: int, fps: float, start: float | None = None, position: float | None = None
) -> list[int]:
    """Indices (T,) of the frames nearest to start + i/fps; of two equally near ones the earlier.

    times (n,): seconds from the first frame. The window may reach past the last frame by half the spacing of its
    neighbours, because that frame is still the nearest there. Raises ClipError "too_short" when it does not fit.
    """
    if frames < 1 or not fps > 0:
        raise ValueError(f"a window needs frames >= 1 and fps > 0, got frames={frames}, fps={fps}")
    if start is not None and position is not None:
        raise ValueError("give the window's start in seconds or its position in [0, 1], not both")
    length = (frames - 1) / fps
    room = float(times[-1]) - length
    slack = 0.5 * float(times[-1]) / max(len(times) - 1, 1) + 1e-9
    if position is not None:
        start = position * max(room, 0.0)
    start = 0.0 if start is None else start
    if start < 0 or start > room + slack:
        raise ClipError(
            "too_short", f"{frames} frames at {fps:g} fps from {start:.3f} s do not fit into {times[-1]:.3f} s"
        )
    targets = start + np.arange(frames) / fps
    right = np.clip(np.searchsorted(times, targets), 1, max(len(times) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(times) - 1)
    # 1e-9 s: times are rounded ratios; a tie must not be decided by the last bit.
    nearer = np.abs(times[right] - targets) < np.abs(targets - times[left]) - 1e-9
    return [int(pick) for pick in np.where(nearer, right, left)]


@contextmanager
def _open(data: bytes) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream, decoding in this thread; FFmpeg's errors become ClipError."""
    if cut_short(data):
        raise ClipError("truncated", "the file ends before the length that its header states")
    try:
        # Without protocols a play list among the samples cannot make the decoder open other files.
        container = av.open(io.BytesIO(data), "r", metadata_errors="replace", options={"protocol_whitelist": "none"})
    except av.FFmpegError as error:
        raise ClipError("not_video", f"no container that FFmpeg knows ({type(error).__name__})") from error
    with container:
        streams = [stream for stream in container.streams.video if stream.codec_context is not None]
        if not streams:
            raise ClipError("not_video", "no video stream")
        stream = streams[0]
        # Loader workers are the parallelism; decoder threads would fight them for the cores.
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        try:
            yield container, stream
        except av.FFmpegError as error:
            raise ClipError("decode_error", f"{type(error).__name__}: {error.strerror}") from error


def cut_short(data: bytes | mmap.mmap) -> bool:
    """Whether an mp4/mov file ends inside one of its top-level boxes or before its index."""
    if data[4:8] != b"ftyp":
        return False
    position, kinds = 0, set()
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kinds.add(data[position + 4 : position + 8])
        if length == 1:
            length = int.from_bytes(data[position + 8 : position + 16], "big")
        if length == 0:
            return b"moov" not in kinds
        if length < 8:
            return False
        position += length
    return position != len(data) or b"moov" not in kinds


def _plan(container: InputContainer, stream: VideoStream) -> _Plan:
    packets = [packet for packet in container.demux(stream) if packet.size]
    if not packets:
        raise ClipError("truncated", "no video packets")
    if stream.time_base is None:
        raise ClipError("zero_fps", "the stream has no time base")
    if any(packet.pts is None for packet in packets):
        _number_packets(packets, stream)
    # Packets that an edit list cuts away are decoded but never shown.
    stamps = sorted(packet.pts for packet in packets if packet.pts is not None and not packet.is_discard)
    if not stamps:
        raise ClipError("decode_error", "no frame is shown")
    if any(one == two for one, two in itertools.pairwise(stamps)):
        raise ClipError("zero_fps", "frames share a time stamp")
    seconds = [float((stamp - stamps[0]) * stream.time_base) for stamp in stamps]
    return _Plan(packets, stamps, np.array(seconds, dtype=np.float64))


def _number_packets(packets: Sequence[av.Packet], stream: VideoStream) -> None:
    """Give packets of formats without time stamps (raw streams, some AVI) the frame rate's, in stored order."""
    rate = stream.average_rate or stream.guessed_rate
    if not rate or stream.time_base is None:
        raise ClipError("zero_fps", "neither time stamps nor a frame rate")
    if stream.codec_context.has_b_frames:
        raise ClipError("zero_fps", "reordered frames without time stamps")
    step = Fraction(1) / (rate * stream.time_base)
    for index, packet in enumerate(packets):
        packet.pts = round(index * step)


def _decode(stream: VideoStream, plan: _Plan, wanted: set[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames with the ``wanted`` time stamps, each once."""
    first, last = min(wanted), max(wanted)
    begin = 0
    for index, packet in enumerate(plan.packets):
        if packet.is_keyframe and packet.pts is not None and packet.pts <= first:
            begin = index
    missing = set(wanted)
    context = stream.codec_context
    remaining: list[av.Packet | None] = [*plan.packets[begin:], None]
    for coded in remaining:
        # No other frame is predicted from a non-reference frame: the decoder may skip it and nothing else changes.
        context.skip_frame = "DEFAULT" if coded is None or coded.pts in wanted else "NONREF"
        for frame in context.decode(coded):
            if frame.pts not in missing:
                continue
            if frame.is_corrupt:
                raise ClipError("decode_error", f"the frame at stamp {frame.pts} is damaged")
            missing.remove(frame.pts)
            yield frame.pts, frame
        if not missing:
            return
    raise ClipError("decode_error", f"{len(missing)} of {len(wanted)} frames up to stamp {last} did not decode")


def to_rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """(H,W,3) uint8 as shown: the rotation flag is counted counter-clockwise and applied."""
    picture = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    turns, rest = divmod(frame.rotation % 360, 90)
    if rest or not turns:
        return picture
    return np.ascontiguousarray(np.rot90(picture, turns))


def _mean_rate(times: Times, stream: VideoStream) -> float:
    if len(times) > 1:
        return (len(times) - 1) / float(times[-1])
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise ClipError("zero_fps", "a single frame without a rate")
    return float(rate)
