"""Resizing agrees with an independent implementation; images are turned, made RGB, and refused when broken."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from ssvae.data.pixels import ClipError, fit, read_image, to_uint8, to_video
from ssvae.data.synthetic import render


def photo(height: int, width: int) -> np.ndarray:
    side = max(height, width) + max(height, width) % 2
    return np.ascontiguousarray(render(2, frames=1, size=side).frames[0, :height, :width])


def encoded(picture: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("height", "width"), [(60, 107), (107, 60), (64, 64), (33, 90)])
@pytest.mark.parametrize("size", [(32, 32), (24, 40), (64, 64)])
def test_fit_agrees_with_pillow(height: int, width: int, size: tuple[int, int]) -> None:
    picture = photo(height, width)
    scale = max(size[0] / height, size[1] / width)
    resized = max(size[0], round(height * scale)), max(size[1], round(width * scale))
    image = Image.fromarray(picture).resize((resized[1], resized[0]), Image.Resampling.BICUBIC)
    top, left = (resized[0] - size[0]) // 2, (resized[1] - size[1]) // 2
    expected = np.asarray(image)[top : top + size[0], left : left + size[1]].astype(int)
    difference = np.abs(fit(picture, size).permute(1, 2, 0).numpy().astype(int) - expected)
    assert difference.max() <= 1


def test_a_fitting_picture_is_untouched() -> None:
    picture = photo(32, 32)
    assert np.array_equal(fit(picture, 32).permute(1, 2, 0).numpy(), picture)


def test_video_scaling_is_exact_both_ways() -> None:
    frames = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    video = to_video(frames)
    assert (video.min().item(), video.max().item()) == (-1.0, 1.0)
    assert torch.equal(to_uint8(video), frames.transpose(0, 1))
    assert to_uint8(torch.tensor([-1.7, 1.3])).tolist() == [0, 255]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_applied(orientation: int) -> None:
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :24] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = read_image(encoded(picture, exif=exif), (32, 48) if orientation in (1, 3) else (48, 32))
    corner = {1: (0.25, 0.25), 3: (0.75, 0.75), 6: (0.25, 0.75), 8: (0.75, 0.25)}[orientation]
    assert shown.shape == (3, 1, *((32, 48) if orientation in (1, 3) else (48, 32)))
    assert shown[0, 0, int(corner[0] * shown.shape[2]), int(corner[1] * shown.shape[3])] == 1.0
    assert shown.mean().item() == pytest.approx(-0.5, abs=0.01)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo(20, 20)).convert(mode).save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    assert read_image(buffer.getvalue(), 16).shape == (3, 1, 16, 16)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_image"),
        (b"no image", "not_image"),
        (encoded(photo(64, 64), "JPEG")[:900], "truncated"),
        (encoded(photo(64, 64), "PNG")[:4000], "truncated"),
    ],
)
def test_broken_images_say_why(data: bytes, reason: str) -> None:
    with pytest.raises(ClipError) as caught:
        read_image(data, 16)
    assert caught.value.reason == reason


def test_small_images_are_rejected_on_request() -> None:
    with pytest.raises(ClipError, match="too_small"):
        read_image(encoded(photo(20, 40)), 32, upscale=False)


def test_the_error_survives_pickling_and_knows_only_its_reasons() -> None:
    error = pickle.loads(pickle.dumps(ClipError("too_short", "two frames")))
    assert (error.reason, error.detail, str(error)) == ("too_short", "two frames", "too_short: two frames")
    with pytest.raises(AssertionError):
        ClipError("bad_weather", "")
