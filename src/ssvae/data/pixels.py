"""From RGB pixels to what a model sees, and the error for samples that cannot be used.

Dimension legend
    T frames, 3 colours, H W pixels    picture (H,W,3) uint8; fitted (3,H,W) uint8; video (3,T,H,W) in [-1, 1]
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

REASONS = (
    "not_video",
    "not_image",
    "truncated",
    "too_short",
    "too_small",
    "zero_fps",
    "decode_error",
)
"""Every reason for which a sample can be rejected."""


class ClipError(ValueError):
    """A clip or image that cannot be used; ``reason`` is one of :data:`REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS, reason
        # Both go to the base class so that the error survives the way out of a loader worker.
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def both_sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """(H, W) of a side or of (H, W)."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def fit(picture: NDArray[np.uint8], size: int | tuple[int, int], *, upscale: bool = True) -> Tensor:
    """Resize (H,W,3) so that it just covers ``size`` and crop the centre: (3,H,W) uint8.

    Bicubic with antialiasing, aspect kept. Raises ClipError "too_small" when that would enlarge the picture and
    ``upscale`` is False.
    """
    height, width = both_sides(size)
    scale = max(height / picture.shape[0], width / picture.shape[1])
    if scale > 1 and not upscale:
        raise ClipError("too_small", f"{picture.shape[1]}x{picture.shape[0]} pixels do not cover {width}x{height}")
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    resized = max(height, round(picture.shape[0] * scale)), max(width, round(picture.shape[1] * scale))
    if resized != picture.shape[:2]:
        tensor = functional.interpolate(tensor[None], size=resized, mode="bicubic", antialias=True)[0]
    top, left = (resized[0] - height) // 2, (resized[1] - width) // 2
    return tensor[:, top : top + height, left : left + width].contiguous()


def to_video(frames: Tensor) -> Tensor:
    """frames (T,3,H,W) uint8 -> video (3,T,H,W) float32 in [-1, 1]: x/127.5 - 1."""
    return frames.transpose(0, 1).to(torch.float32).div_(127.5).sub_(1.0).contiguous()


def to_uint8(video: Tensor) -> Tensor:
    """video (..., any axes) in [-1, 1] -> uint8 of the same axes, rounded and clamped: inverse of :func:`to_video`."""
    return video.add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def read_image(data: bytes, size: int | tuple[int, int], *, upscale: bool = True) -> Tensor:
    """An image file as a one-frame video (3,1,H,W) float32 in [-1, 1]; EXIF orientation applied, made RGB.

    Transparency is dropped, as a conversion to RGB does. Raises :class:`ClipError`.
    """
    return to_video(read_picture(data, size, upscale=upscale))


def read_picture(data: bytes, size: int | tuple[int, int], *, upscale: bool = True) -> Tensor:
    """As :func:`read_image`, but (1,3,H,W) uint8 before the scaling to [-1, 1]."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            picture = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError as error:
        raise ClipError("not_image", "no image format that Pillow knows") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "truncated" if "truncated" in str(error) else "decode_error"
        raise ClipError(reason, f"{type(error).__name__}: {error}") from error
    return fit(picture, size, upscale=upscale)[None]
