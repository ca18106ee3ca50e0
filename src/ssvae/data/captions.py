"""What a synthetic clip shows, as a caption and back.

Five attributes, each from a small closed vocabulary, are everything that a caption says and everything that a
caption can be wrong about::

    "a red square moves left over a green background while the camera pans right"

The class of a clip (``label``) is shape x colour, 24 classes; motion and camera are left to the video features
that look at time (:func:`targets` gives every attribute as an integer).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.18, 0.16),
    "green": (0.20, 0.70, 0.24),
    "blue": (0.20, 0.32, 0.88),
    "yellow": (0.90, 0.82, 0.20),
    "purple": (0.62, 0.24, 0.78),
    "cyan": (0.22, 0.78, 0.80),
}
"""RGB in [0, 1] of the main object; a background takes a muted version of the same six."""

VOCABULARY: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "cross"),
    "colour": tuple(COLOURS),
    "motion": ("left", "right", "up", "down"),
    "background": tuple(COLOURS),
    "camera": ("still", "pan left", "pan right", "zoom in", "zoom out"),
}
"""Closed vocabulary of each attribute. ``motion`` is as the viewer sees it, on the screen."""

CLASSES = len(VOCABULARY["shape"]) * len(VOCABULARY["colour"])
"""Number of classes of :func:`label`."""

_CAMERA_PHRASES = {
    "still": "the camera is still",
    "pan left": "the camera pans left",
    "pan right": "the camera pans right",
    "zoom in": "the camera zooms in",
    "zoom out": "the camera zooms out",
}
_CAMERA_BY_PHRASE = {phrase: name for name, phrase in _CAMERA_PHRASES.items()}


def _one_of(name: str, values: tuple[str, ...]) -> str:
    return f"(?P<{name}>{'|'.join(re.escape(value) for value in values)})"


_PATTERN = re.compile(
    f"an? {_one_of('colour', VOCABULARY['colour'])} {_one_of('shape', VOCABULARY['shape'])}"
    f" moves {_one_of('motion', VOCABULARY['motion'])}"
    f" over an? {_one_of('background', VOCABULARY['background'])} background"
    f" while {_one_of('camera', tuple(_CAMERA_BY_PHRASE))}"
)


def make_caption(attributes: Mapping[str, str]) -> str:
    """The caption that states all five attributes."""
    return (
        f"a {attributes['colour']} {attributes['shape']} moves {attributes['motion']}"
        f" over a {attributes['background']} background while {_CAMERA_PHRASES[attributes['camera']]}"
    )


def parse_caption(caption: str) -> dict[str, str] | None:
    """The attributes that a caption states (inverse of :func:`make_caption`); None for any other text."""
    match = _PATTERN.fullmatch(caption.strip())
    if match is None:
        return None
    attributes = match.groupdict()
    attributes["camera"] = _CAMERA_BY_PHRASE[attributes["camera"]]
    return {name: attributes[name] for name in VOCABULARY}


def targets(attributes: Mapping[str, str]) -> dict[str, int]:
    """Index of each attribute in its vocabulary, for training classifiers."""
    return {name: values.index(attributes[name]) for name, values in VOCABULARY.items()}


def label(attributes: Mapping[str, str]) -> int:
    """Class in [0, CLASSES): shape index x number of colours + colour index."""
    index = targets(attributes)
    return index["shape"] * len(VOCABULARY["colour"]) + index["colour"]


def wrong_caption(attributes: Mapping[str, str], generator: torch.Generator) -> str:
    """A caption of the same form that is false: one attribute always differs, each other one with probability 1/4.

    The object never takes the colour of the background, so the caption describes a clip that could exist.
    """
    names = list(VOCABULARY)
    first = int(torch.randint(len(names), (), generator=generator))
    also = torch.rand(len(names), generator=generator) < 0.25
    changed = dict(attributes)
    for position, name in enumerate(names):
        if position != first and not bool(also[position]):
            continue
        taken = {attributes[name]}
        if name in ("colour", "background"):
            taken.add(changed["background" if name == "colour" else "colour"])
        choices = [value for value in VOCABULARY[name] if value not in taken]
        changed[name] = choices[int(torch.randint(len(choices), (), generator=generator))]
    return make_caption(changed)
