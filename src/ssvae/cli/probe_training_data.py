"""Clips and augmentations that the shipped probe networks learn from.

Clips are rendered as long as the bench's shards hold them, lossily coded and resized as the reader does; training
cuts windows from them. Mirror images and reversed time are new clips with known attributes, for free.

Dimension legend
    N clips, L frames rendered, T = 9 frames of a window, S = 32 pixels   clips (N,L,3,S,S) uint8; video (B,3,T,S,S)
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssvae.core.seeds import numpy_generator
from ssvae.data.synthetic import VOCABULARY, render, targets
from ssvae.metrics.degradations import DEGRADATIONS, add_noise, blur, freeze_frames, shuffle_frames
from ssvae.models.features import FRAMES, SIDE

RENDERED_FRAMES, RENDERED_SIDE, FPS = 24, 64, 8.0
MOST_BLUR, MOST_NOISE = 2.5, 0.5
"""Level 1 of blur (pixels of a 32 x 32 frame) and of noise (standard deviation, of a range of 2)."""
_MIRROR = {"left": "right", "right": "left", "pan left": "pan right", "pan right": "pan left"}
_REVERSE = {**_MIRROR, "up": "down", "down": "up", "zoom in": "zoom out", "zoom out": "zoom in"}


@dataclass(frozen=True, slots=True)
class LabelledClips:
    """clips (N,L,3,S,S) uint8 and the index of each attribute's value, (N,) int64 an attribute."""

    clips: Tensor
    labels: dict[str, Tensor]

    def __len__(self) -> int:
        return self.clips.shape[0]


def render_clips(count: int, *, seed: int) -> LabelledClips:
    """Render ``count`` labelled clips of data seed ``seed``; half of them go through a lossy block-DCT codec."""
    clips = torch.empty(count, RENDERED_FRAMES, 3, SIDE, SIDE, dtype=torch.uint8)
    labels = {name: torch.empty(count, dtype=torch.int64) for name in VOCABULARY}
    for index in range(count):
        clip = render(index, seed=seed, frames=RENDERED_FRAMES, size=RENDERED_SIDE, fps=FPS)
        rng = numpy_generator(seed, "probe.codec", index)
        quality = int(rng.integers(60, 96)) if rng.random() < 0.5 else None
        frames = np.stack([_shrink(frame, quality) for frame in clip.frames])
        clips[index] = torch.from_numpy(frames).permute(0, 3, 1, 2)
        for name, value in targets(clip.attributes).items():
            labels[name][index] = value
    return LabelledClips(clips, labels)


def _shrink(frame: NDArray[np.uint8], quality: int | None) -> NDArray[np.uint8]:
    """Code a frame (H,W,3) at ``quality`` unless None, then resize it to (S,S,3), bicubic and anti-aliased."""
    picture = Image.fromarray(frame)
    if quality is not None:
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=quality)
        picture = Image.open(buffer)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def windows(data: LabelledClips, rows: Tensor, starts: Tensor) -> Tensor:
    """Windows of T frames that begin at ``starts`` (B,) of clips ``rows`` (B,): video (B,3,T,S,S) in [-1,1]."""
    frames = starts[:, None] + torch.arange(FRAMES)
    picked = data.clips[rows[:, None], frames]
    return picked.transpose(1, 2).float() / 127.5 - 1.0


def middle_windows(data: LabelledClips) -> Tensor:
    """The window (N,3,T,S,S) in the middle of every clip."""
    return windows(data, torch.arange(len(data)), torch.full((len(data),), (RENDERED_FRAMES - FRAMES) // 2))


def draw_batch(data: LabelledClips, size: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Random windows (B,3,T,S,S), each mirrored and played backwards with probability 1/2, and their labels (B,)."""
    rows = torch.randint(len(data), (size,), generator=generator)
    starts = torch.randint(RENDERED_FRAMES - FRAMES + 1, (size,), generator=generator)
    video = windows(data, rows, starts)
    labels = {name: values[rows].clone() for name, values in data.labels.items()}
    for axis, swap in ((-1, _MIRROR), (2, _REVERSE)):
        chosen = torch.rand(size, generator=generator) < 0.5
        video[chosen] = video[chosen].flip(axis)
        for name, table in _swap_tables(swap).items():
            labels[name][chosen] = table[labels[name][chosen]]
    return video, labels


def _swap_tables(swap: Mapping[str, str]) -> dict[str, Tensor]:
    """For each attribute the index that a value has after the swap."""
    return {
        name: torch.tensor([values.index(swap.get(value, value)) for value in values])
        for name, values in VOCABULARY.items()
        if name in ("motion", "camera")
    }


def degrade(video: Tensor, generator: torch.Generator, *, clean_share: float) -> tuple[Tensor, Tensor]:
    """Spoil each clip in one way by a random level, or (with ``clean_share``) not at all.

    Returns the clips and the levels (B, kinds) in [0,1], in the order of DEGRADATIONS. Blur and noise grow with the
    square of their level, so that small amounts are seen often and told apart; one in eight clips is spoilt fully.
    """
    size, frames = video.shape[0], video.shape[2]
    kind = torch.randint(len(DEGRADATIONS), (size,), generator=generator)
    spoilt = torch.rand(size, generator=generator) >= clean_share
    level = (torch.rand(size, generator=generator) * 8 / 7).clamp_max(1.0) * spoilt
    levels = level[:, None] * torch.nn.functional.one_hot(kind, len(DEGRADATIONS))
    shuffled = (levels[:, 2] * frames).round().long()
    frozen = (levels[:, 3] * (frames - 1)).round().long()
    shuffled[shuffled == 1] = 0
    levels[:, 2], levels[:, 3] = shuffled / frames, frozen / (frames - 1)
    video = freeze_frames(shuffle_frames(video, shuffled, generator), frozen)
    video = blur(video, levels[:, 0].square() * MOST_BLUR)
    return add_noise(video, levels[:, 1].square() * MOST_NOISE, generator), levels
