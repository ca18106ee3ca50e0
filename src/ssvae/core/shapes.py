"""Shape rules that several parts share: how many frames fit, how clips map to latents.

T = 1 + k·r for a temporal compression r (the first frame stands alone), F = 1 + (T - 1)/r.
"""

from __future__ import annotations

from collections.abc import Sequence


def nearest_frame_counts(frames: int, ratio: int) -> tuple[int, int]:
    """The two frame counts 1 + k·ratio around ``frames`` (below, above)."""
    below = 1 + ratio * max(0, (frames - 1) // ratio)
    return below, below + ratio


def check_frames(frames: int, ratio: int) -> None:
    """Raise ValueError, naming the two nearest that fit, unless ``frames`` = 1 + k·ratio."""
    if frames >= 1 and (frames - 1) % ratio == 0:
        return
    below, above = nearest_frame_counts(max(frames, 1), ratio)
    raise ValueError(
        f"a clip of {frames} frames does not fit a temporal compression of {ratio}: "
        f"the count must be 1 + {ratio}k; the nearest that fit are {below} and {above}"
    )


def check_size(height: int, width: int, ratio: int) -> None:
    """Raise ValueError unless height and width are divisible by the spatial compression."""
    for name, size in (("height", height), ("width", width)):
        if size <= 0 or size % ratio:
            low = max(ratio, size // ratio * ratio)
            raise ValueError(
                f"{name} {size} is not divisible by the spatial compression {ratio}: "
                f"the nearest that fit are {low} and {low + ratio}"
            )


def latent_grid(frames: int, height: int, width: int, temporal: int, spatial: int) -> tuple[int, int, int]:
    """(F, h, w) of a clip (frames, height, width); raises ValueError when it does not fit."""
    check_frames(frames, temporal)
    check_size(height, width, spatial)
    return 1 + (frames - 1) // temporal, height // spatial, width // spatial


def check_ndim(name: str, shape: Sequence[int], ndim: int, axes: str) -> None:
    """Raise ValueError unless ``shape`` has ``ndim`` axes; the message names them."""
    if len(shape) != ndim:
        raise ValueError(f"{name} must have axes {axes}, got shape {tuple(shape)}")
