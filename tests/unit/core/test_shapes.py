"""How clips map to latents, and messages that name what fits."""

from __future__ import annotations

import pytest

from ssvae.core.shapes import check_frames, check_ndim, check_size, latent_grid, nearest_frame_counts


@pytest.mark.parametrize(
    ("clip", "ratios", "grid"),
    [
        ((9, 32, 32), (4, 4), (3, 8, 8)),
        ((17, 256, 256), (4, 16), (5, 16, 16)),
        ((1, 32, 48), (4, 8), (1, 4, 6)),
        ((5, 16, 16), (1, 1), (5, 16, 16)),
    ],
)
def test_grid(clip: tuple[int, int, int], ratios: tuple[int, int], grid: tuple[int, int, int]) -> None:
    assert latent_grid(*clip, *ratios) == grid


@pytest.mark.parametrize(("frames", "below", "above"), [(10, 9, 13), (8, 5, 9), (16, 13, 17), (2, 1, 5), (0, 1, 5)])
def test_a_length_that_does_not_fit_names_the_nearest_two(frames: int, below: int, above: int) -> None:
    assert nearest_frame_counts(max(frames, 1), 4) == (below, above)
    with pytest.raises(ValueError, match=f"{below} and {above}"):
        check_frames(frames, 4)


@pytest.mark.parametrize(("size", "words"), [((30, 32), "height 30"), ((32, 31), "width 31"), ((0, 32), "height 0")])
def test_a_size_that_does_not_divide_is_named(size: tuple[int, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_size(*size, 4)


def test_axes_are_named() -> None:
    check_ndim("video", (1, 3, 5, 8, 8), 5, "(B,3,T,H,W)")
    with pytest.raises(ValueError, match=r"video must have axes \(B,3,T,H,W\), got shape \(3, 8\)"):
        check_ndim("video", (3, 8), 5, "(B,3,T,H,W)")
