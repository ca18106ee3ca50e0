"""What a rendered clip shows is what its caption says, and its surfaces have natural statistics."""

from __future__ import annotations

import numpy as np
import pytest

from ssvae.core.seeds import numpy_generator
from ssvae.data.captions import COLOURS, label, parse_caption
from ssvae.data.synthetic import SyntheticClip, _other_objects, pink_texture, render, render_image


def spectral_slope(pictures: np.ndarray) -> float:
    """Exponent of the radial power spectrum of (n,N,N) windowed pictures, fitted over the middle frequencies."""
    size = pictures.shape[-1]
    window = np.hanning(size)
    centred = pictures - pictures.mean(axis=(1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(centred * window[:, None] * window)) ** 2).mean(axis=0)
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :]) * size
    rings = np.arange(3, size // 3)
    curve = [power[(radius >= ring - 0.5) & (radius < ring + 0.5)].mean() for ring in rings]
    return float(np.polyfit(np.log(rings), np.log(curve), 1)[0])


def clips_with(count: int, **wanted: str) -> list[SyntheticClip]:
    found = []
    for index in range(2000):
        clip = render(index, seed=1, frames=1, size=8)
        if all(clip.attributes[name] == value for name, value in wanted.items()):
            found.append(render(index, seed=1, frames=9, size=48))
            if len(found) == count:
                return found
    raise AssertionError(wanted)


def mask(clip: SyntheticClip) -> np.ndarray:
    """(T,H,W) where the colour is nearest to the main object's, of all colours and the background's muted one."""
    muted = 0.42 + 0.34 * (np.array(COLOURS[clip.attributes["background"]]) - 0.5)
    palette = np.array([*COLOURS.values(), muted, muted * 0.6, muted * 1.4])
    distance = ((clip.frames[..., None, :] / 255.0 - palette) ** 2).sum(-1)
    return distance.argmin(-1) == list(COLOURS).index(clip.attributes["colour"])


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_textures_have_the_power_law_they_are_asked_for(exponent: float) -> None:
    rng = numpy_generator(0, "test.texture")
    textures = np.stack([pink_texture(96, rng, exponent) for _ in range(12)])
    assert abs(textures.mean()) < 1e-12
    assert np.allclose(textures.std(axis=(1, 2)), 1.0)
    assert spectral_slope(textures) == pytest.approx(-exponent, abs=0.2)


def test_rendered_frames_have_about_the_spectrum_of_natural_pictures() -> None:
    frames = np.stack([render(index, seed=2, frames=1).frames[0].mean(axis=-1) for index in range(40)])
    assert -2.7 < spectral_slope(frames) < -1.6


def test_colours_share_most_of_their_texture() -> None:
    frames = np.stack([render(index, seed=2, frames=1).frames[0] for index in range(20)]).astype(np.float64)
    fine = frames[:, 1:, 1:] - frames[:, :-1, :-1]
    correlation = np.corrcoef(fine.reshape(-1, 3), rowvar=False)
    assert correlation[np.triu_indices(3, 1)].min() > 0.6
    assert correlation[np.triu_indices(3, 1)].max() < 0.97


def test_seed_and_index_fix_the_clip() -> None:
    one, two = render(5, seed=1), render(5, seed=1)
    assert np.array_equal(one.frames, two.frames)
    assert (one.caption, one.label, one.attributes) == (two.caption, two.label, two.attributes)
    assert one.frames.shape == (24, 64, 64, 3)
    assert not np.array_equal(one.frames, render(6, seed=1).frames)
    assert not np.array_equal(one.frames, render(5, seed=2).frames)


def test_the_scene_does_not_depend_on_how_it_is_sampled() -> None:
    for index in range(10):
        small, large = render(index, frames=3, size=16), render(index, frames=24, size=64)
        assert small.attributes == large.attributes
        assert parse_caption(small.caption) == small.attributes
        assert small.label == label(small.attributes)
        assert small.attributes["colour"] != small.attributes["background"]


def test_golden_attributes_of_version_1() -> None:
    assert render(0, seed=0, frames=1).caption == (
        "a cyan circle moves down over a yellow background while the camera pans left"
    )
    assert render(123, seed=7, frames=1).caption == (
        "a green triangle moves down over a blue background while the camera is still"
    )


@pytest.mark.parametrize(("motion", "axis", "sign"), [("left", 2, -1), ("right", 2, 1), ("up", 1, -1), ("down", 1, 1)])
def test_the_object_moves_as_the_caption_says(motion: str, axis: int, sign: int) -> None:
    for clip in clips_with(4, motion=motion):
        seen = mask(clip)
        place = [np.argwhere(frame)[:, axis - 1].mean() for frame in seen]
        # 0.22 of 48 pixels a second, over one second; shapes that leave or are hidden shift the mean a little.
        assert sign * (place[-1] - place[0]) > 4, clip.caption
        assert 0.03 < seen.mean() < 0.3


def global_shift(one: np.ndarray, two: np.ndarray) -> float:
    """Horizontal shift in pixels that makes ``two`` fit ``one`` best, over whole pixels."""
    one, two = one - one.mean(), two - two.mean()
    scores = {shift: (one[:, 8:-8] * np.roll(two, -shift, axis=1)[:, 8:-8]).mean() for shift in range(-8, 9)}
    return max(scores, key=lambda shift: scores[shift])


@pytest.mark.parametrize(("camera", "sign"), [("pan left", 1), ("still", 0), ("pan right", -1)])
def test_the_background_moves_against_the_camera(camera: str, sign: int) -> None:
    for clip in clips_with(3, camera=camera, motion="up"):
        # A corner strip that the rising object rarely crosses.
        rows = clip.frames[:, -12:, :].mean(axis=-1)
        shift = global_shift(rows[0], rows[-1])
        assert shift == 0 if sign == 0 else 4 <= sign * shift <= 8, (clip.caption, shift)


def test_other_objects_stay_with_the_background_when_the_camera_pans() -> None:
    time = np.linspace(-1, 1, 9)
    for seed in range(12):
        layers = _other_objects(
            clips_with(1)[0].attributes, numpy_generator(seed, "test"), 64, time, 2.0, 9.0 * time, np.ones(9)
        )
        for item in (*layers[0], *layers[1]):
            # 18 pixels of pan to the right, give or take the object's own drift of at most 6.4.
            assert -25 < item.centre[-1, 0] - item.centre[0, 0] < -11


@pytest.mark.parametrize(("camera", "sign"), [("zoom in", 1), ("zoom out", -1)])
def test_the_object_grows_when_the_camera_zooms_in(camera: str, sign: int) -> None:
    for clip in clips_with(4, camera=camera, shape="circle"):
        area = mask(clip).sum(axis=(1, 2))
        assert sign * (area[5] - area[3]) > 0, (clip.caption, area)


def test_motion_is_finer_than_a_pixel() -> None:
    clip = render(4, frames=2, size=32, fps=200.0)
    difference = np.abs(clip.frames[1].astype(int) - clip.frames[0].astype(int))
    assert 0 < difference.mean() < 3


def test_images_are_other_scenes() -> None:
    picture, caption = render_image(0, size=32)
    assert picture.shape == (32, 32, 3)
    assert "background" in caption
    assert parse_caption(caption) is None
    assert not np.array_equal(picture, render(0, frames=1, size=32).frames[0])


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"size": 4}, {"fps": 0.0}])
def test_impossible_clips_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="render needs"):
        render(0, **wrong)  # type: ignore[arg-type]
