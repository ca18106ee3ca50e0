"""The clips that metrics are computed on: fixed windows, each exactly once.

Dimension legend
    3 colours, T frames, H W pixels    video (3,T,H,W) float32 in [-1, 1]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssvae.data.mix import select
from ssvae.data.pixels import ClipError, to_video
from ssvae.data.reader import WindowReader
from ssvae.data.rejects import RejectLog
from ssvae.data.shards import ShardIndex


@dataclass(frozen=True, slots=True)
class EvaluationClip:
    """One window: the key of its clip, video (3,T,H,W) in [-1, 1], caption, class, which window of the clip it is, and
    its place among all windows that were asked for, whoever reads them and whatever is left out."""

    key: str
    video: Tensor
    caption: str | None
    label: int | None
    window: int
    place: int


def evaluation_windows(clips: int, count: int) -> list[tuple[int, int, float]]:
    """(clip number, window number, position in [0, 1]) of ``count`` windows spread over ``clips`` clips.

    With count <= clips: the middle of evenly spaced clips. Otherwise all clips, the first ones with one window more
    if it does not divide, windows evenly spaced from the beginning to the end of the clip.
    """
    if clips < 1 or count < 1:
        raise ValueError(f"evaluation needs at least one clip and one window, got {clips} clips and count={count}")
    if count <= clips:
        return [(number * clips // count, 0, 0.5) for number in range(count)]
    each, more = divmod(count, clips)
    windows = []
    for clip in range(clips):
        here = each + (clip < more)
        windows += [(clip, window, 0.5 if here == 1 else window / (here - 1)) for window in range(here)]
    return windows


def evaluation_clips(
    index: ShardIndex,
    keys: Sequence[str],
    *,
    frames: int,
    fps: float,
    size: int | tuple[int, int],
    count: int | None = None,
    rejects: RejectLog | None = None,
    rank: int = 0,
    ranks: int = 1,
    upscale: bool = True,
) -> Iterator[EvaluationClip]:
    """``count`` deterministic windows of the clips ``keys`` (all clips once by default); no randomness.

    With several ranks each clip goes to exactly one of them, none is repeated to fill up. A clip that cannot be
    used is left out and counted in ``rejects``; a window that shows the same frames as the one before it (the clip
    is too short for that many) is left out silently, so fewer than ``count`` may come.
    """
    samples = select(index, keys, "video")
    reader = WindowReader(frames=frames, fps=fps, size=size, upscale=upscale, cache_mb=16.0)
    windows = evaluation_windows(len(samples), len(samples) if count is None else count)
    before: tuple[int, Tensor] | None = None
    turn = {clip: number for number, clip in enumerate(dict.fromkeys(clip for clip, _, _ in windows))}
    for place, (clip, window, position) in enumerate(windows):
        if turn[clip] % ranks != rank:
            continue
        sample = samples[clip]
        try:
            pixels = reader.window(sample, position)
        except ClipError as error:
            if rejects is not None:
                rejects.add(0, [(sample.key, error.reason)])
            continue
        if before is not None and before[0] == clip and torch.equal(before[1], pixels):
            continue
        before = (clip, pixels)
        if rejects is not None:
            rejects.add(1, [])
        yield EvaluationClip(sample.key, to_video(pixels), sample.caption(), sample.label, window, place)
