"""Write a clip as an H.264 file that any player shows.

Dimension legend: video (3,T,H,W) in [-1, 1].
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ssvae.core.files import write_atomic
from ssvae.data.pixels import to_uint8
from ssvae.data.synthetic_shards import encode_mp4


def write_video(path: Path, video: Tensor, fps: float) -> None:
    """Write ``video`` (3,T,H,W), clamped to [-1, 1], to ``path`` at ``fps``; height and width must be even."""
    frames = to_uint8(video.clamp(-1, 1)).permute(1, 2, 3, 0).numpy()
    write_atomic(path, lambda temporary: temporary.write_bytes(encode_mp4(frames, fps)))
