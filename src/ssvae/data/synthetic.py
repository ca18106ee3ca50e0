"""Synthetic clips that are worth compressing: the bench's default data.

A clip shows a textured main object that moves over a textured background, up to two smaller objects that drift
behind or in front of it, and a camera that is still, pans or zooms. Every surface is natural-image-like noise:
power falling as 1/f^2 in spatial frequency, most of it shared by the three colours (natural clips share most of
their texture over colours; independent colours are unnaturally hard to compress). All motion is sub-pixel and all
edges are anti-aliased. Rendering is float64, so rounding to uint8 does not depend on the linear-algebra library.

Dimension legend
    T frames, H = W = size pixels     frames   (T,H,W,3), uint8, RGB
    N texture period in pixels        texture  (N,N) or (3,N,N), float64, mean 0, standard deviation 1
Lengths inside are in screen pixels at zoom 1; positions are relative to the centre of the screen, y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssvae.core.seeds import numpy_generator
from ssvae.data.captions import (
    CLASSES,
    COLOURS,
    VOCABULARY,
    label,
    make_caption,
    parse_caption,
    targets,
    wrong_caption,
)

__all__ = [
    "CLASSES",
    "SYNTHETIC_VERSION",
    "VOCABULARY",
    "SyntheticClip",
    "label",
    "make_caption",
    "parse_caption",
    "pink_texture",
    "render",
    "render_image",
    "targets",
    "wrong_caption",
]

SYNTHETIC_VERSION = 1
"""Raised whenever the pixels, captions or labels of a given (seed, index) change."""

OBJECT_SPEED = 0.22
PAN_SPEED = 0.14
ZOOM_RATE = 0.28
"""Per second: share of the screen, share of the screen, natural logarithm of the scale."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SyntheticClip:
    """One clip: frames (T,H,W,3) uint8 RGB, its caption, its class in [0, CLASSES), its attributes."""

    frames: NDArray[np.uint8]
    caption: str
    label: int
    attributes: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Object:
    """A textured shape: centre (T,2) as (x, y) and half size (T,) on the screen, over the clip."""

    shape: str
    colour: Array
    texture: Array
    centre: Array
    radius: Array


def pink_texture(size: int, rng: np.random.Generator, exponent: float = 2.0) -> Array:
    """Periodic noise (size, size) with power spectrum 1/f^exponent, mean 0, standard deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = 1.0
    amplitude = frequency ** (-exponent / 2)
    amplitude[0, 0] = 0.0
    texture = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) * amplitude, s=(size, size))
    return texture / texture.std()


def render(index: int, *, seed: int = 0, frames: int = 24, size: int = 64, fps: float = 8.0) -> SyntheticClip:
    """Render clip ``index`` of the data set ``seed``; (seed, index) fixes everything that the clip shows.

    frames, size, fps: length, side in pixels and rate of the sampling of that one scene. Objects stay on the
    screen for any length: beyond about three seconds they slow down. Raises ValueError for sizes below 8.
    """
    if frames < 1 or size < 8 or not fps > 0:
        raise ValueError(f"render needs frames >= 1, size >= 8 and fps > 0, got {frames}, {size}, {fps}")
    rng = numpy_generator(seed, "data.synthetic", index)
    attributes = _draw_attributes(rng)
    duration = max((frames - 1) / fps, 1e-6)
    time = np.arange(frames) / fps - duration / 2
    pan_sign = {"pan left": -1.0, "pan right": 1.0}.get(attributes["camera"], 0.0)
    zoom_sign = {"zoom in": 1.0, "zoom out": -1.0}.get(attributes["camera"], 0.0)
    pan = pan_sign * min(PAN_SPEED, 0.42 / duration) * size * rng.uniform(0.8, 1.2) * time
    zoom = np.exp(zoom_sign * min(ZOOM_RATE, 0.8 / duration) * rng.uniform(0.8, 1.2) * time)

    picture = _background(attributes["background"], rng, size, pan, zoom)
    main = _main_object(attributes, rng, size, time, duration, zoom)
    behind, front = _other_objects(attributes, rng, size, time, duration, pan, zoom)
    for item in (*behind, main, *front):
        _paint(picture, item)
    pixels = np.clip(np.rint(picture * 255.0), 0, 255).astype(np.uint8)
    return SyntheticClip(
        frames=np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)),
        caption=make_caption(attributes),
        label=label(attributes),
        attributes=attributes,
    )


def render_image(index: int, *, seed: int = 0, size: int = 64) -> tuple[NDArray[np.uint8], str]:
    """A picture (H,W,3) uint8 of the same world and its caption, from scenes that no clip of that seed shows."""
    clip = render(-1 - index, seed=seed, frames=1, size=size)
    shown = clip.attributes
    return clip.frames[0], f"a {shown['colour']} {shown['shape']} over a {shown['background']} background"


def _draw_attributes(rng: np.random.Generator) -> dict[str, str]:
    attributes = {name: values[int(rng.integers(len(values)))] for name, values in VOCABULARY.items()}
    others = [colour for colour in COLOURS if colour != attributes["colour"]]
    attributes["background"] = others[int(rng.integers(len(others)))]
    return attributes


def _background(colour: str, rng: np.random.Generator, size: int, pan: Array, zoom: Array) -> Array:
    """(T,3,H,W): muted colour, a shared luma texture and a weaker texture a colour, moved by the camera."""
    period = 2 * size
    shared = pink_texture(period, rng) * rng.uniform(0.13, 0.19)
    chroma = np.stack([pink_texture(period, rng) for _ in range(3)]) * 0.04
    base = 0.42 + 0.34 * (np.array(COLOURS[colour]) - 0.5) + rng.uniform(-0.05, 0.05)
    world = base[:, None, None] + shared + chroma
    grid = np.arange(size) + 0.5 - size / 2
    columns = _resampling(grid / zoom[:, None] + pan[:, None], period, zoom)
    rows = _resampling(grid / zoom[:, None], period, zoom)
    return np.matmul(np.matmul(rows[:, None], world[None]), columns.transpose(0, 2, 1)[:, None])


def _main_object(
    attributes: dict[str, str], rng: np.random.Generator, size: int, time: Array, duration: float, zoom: Array
) -> _Object:
    direction = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}[attributes["motion"]]
    speed = min(OBJECT_SPEED, 0.62 / duration) * size * rng.uniform(0.85, 1.15)
    middle = rng.uniform(-0.12, 0.12, 2) * size
    centre = middle + speed * time[:, None] * np.array(direction)
    radius = rng.uniform(0.17, 0.22) * size * np.sqrt(zoom)
    return _Object(attributes["shape"], np.array(COLOURS[attributes["colour"]]), _skin(rng, size), centre, radius)


def _other_objects(
    attributes: dict[str, str],
    rng: np.random.Generator,
    size: int,
    time: Array,
    duration: float,
    pan: Array,
    zoom: Array,
) -> tuple[list[_Object], list[_Object]]:
    """Up to two small objects of other colours that drift slowly in the world: (behind, in front of) the main one."""
    colours = [name for name in COLOURS if name not in (attributes["colour"], attributes["background"])]
    layers: tuple[list[_Object], list[_Object]] = ([], [])
    for _ in range(int(rng.integers(3))):
        colour = 0.75 * np.array(COLOURS[colours[int(rng.integers(len(colours)))]]) + 0.08
        shape = VOCABULARY["shape"][int(rng.integers(len(VOCABULARY["shape"])))]
        angle = rng.uniform(0, 2 * np.pi)
        drift = min(0.05, 0.15 / duration) * size * np.array([np.cos(angle), np.sin(angle)])
        world = rng.uniform(-0.42, 0.42, 2) * size + drift * time[:, None]
        world[:, 0] -= pan
        radius = rng.uniform(0.07, 0.12) * size * zoom
        layers[int(rng.integers(2))].append(_Object(shape, colour, _skin(rng, size), world * zoom[:, None], radius))
    return layers


def _skin(rng: np.random.Generator, size: int) -> Array:
    return pink_texture(size, rng) * rng.uniform(0.09, 0.14)


def _paint(picture: Array, item: _Object) -> None:
    """Composite one object over ``picture`` (T,3,H,W) in place; its texture moves and grows with it."""
    size = picture.shape[-1]
    grid = np.arange(size) + 0.5 - size / 2
    x = grid[None, :] - item.centre[:, :1]
    y = grid[None, :] - item.centre[:, 1:]
    scale = item.radius / item.radius.mean()
    rows = _resampling(y / scale[:, None], size, scale)
    columns = _resampling(x / scale[:, None], size, scale)
    surface = np.matmul(np.matmul(rows, item.texture), columns.transpose(0, 2, 1))
    inside = np.clip(0.5 - _distance(item.shape, x[:, None, :], y[:, :, None], item.radius[:, None, None]), 0.0, 1.0)
    for channel in range(3):
        picture[:, channel] += inside * (item.colour[channel] + surface - picture[:, channel])


def _distance(shape: str, x: Array, y: Array, radius: Array) -> Array:
    """Signed distance in pixels (T,H,W) to the outline, negative inside; areas are about equal at equal radius."""
    if shape == "circle":
        return np.sqrt(x * x + y * y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.89 * radius
    if shape == "triangle":
        # Three half planes at 120 degrees, the point up; 0.78 is the inscribed radius of a triangle of that area.
        slanted = np.sqrt(0.75) * np.abs(x) - 0.5 * y
        return np.maximum(slanted, y) - 0.78 * radius
    assert shape == "cross", shape
    near, far = np.minimum(np.abs(x), np.abs(y)), np.maximum(np.abs(x), np.abs(y))
    return np.maximum(near - 0.42 * radius, far - 1.12 * radius)


def _resampling(position: Array, period: int, scale: Array) -> Array:
    """Matrices (T, len, period) that read a periodic texture at ``position`` (T, len) through a cubic kernel.

    Keys' cubic (a = -1/2), widened when the picture shrinks (scale < 1) so that nothing aliases. Two such matrices
    resample a plane, which makes pan and zoom two small products a frame.
    """
    width = np.maximum(1.0, 1.0 / scale)[:, None, None]
    offset = position[:, :, None] - (np.arange(period) + 0.5 - period / 2)
    offset = np.abs(offset - period * np.rint(offset / period)) / width
    near = 1.0 + offset * offset * (1.5 * offset - 2.5)
    far = 2.0 + offset * (offset * (2.5 - 0.5 * offset) - 4.0)
    weights = np.where(offset < 1.0, near, np.where(offset < 2.0, far, 0.0))
    return weights / weights.sum(axis=2, keepdims=True)
