"""Small video files, and whole readings of them, that several tests share."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssvae.data.video_stream import Clip


def counted(count: int, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    """Frames whose grey level names them."""
    levels = (8 + 8 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def encoded(frames: NDArray[np.uint8], kind: str, codec: str = "libx264", **options: Any) -> bytes:
    """A file of ``kind`` at options["rate"] (25)."""
    buffer = io.BytesIO()
    rate = options.pop("rate", 25)
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def all_of(clip: Clip, length: int = 7, size: tuple[int, int] | None = None) -> Tensor:
    pieces = list(clip.pieces(length, size))
    assert all(piece.shape[2] == length for piece in pieces[:-1]) and 1 <= pieces[-1].shape[2] <= length
    assert all(piece.dtype == torch.float32 and piece.shape[:2] == (1, 3) for piece in pieces)
    return torch.cat(pieces, 2)


def decode_all(data: bytes) -> NDArray[np.uint8]:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
