"""Colours of the error map, and pictures side by side."""

from __future__ import annotations

import pytest
import torch

from ssvae.data.panels import error_frames, side_by_side, to_frames


@pytest.mark.parametrize(
    ("error", "colour"),
    [
        (0.0, (0, 0, 0)),
        (1 / 24, (128, 0, 0)),
        (1 / 12, (255, 0, 0)),
        (1 / 6, (255, 255, 0)),
        (0.25, (255, 255, 255)),
        (0.5, (255, 255, 255)),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_errors_become_the_documented_colours(error: float, colour: tuple[int, int, int], sign: int) -> None:
    video = torch.zeros(1, 3, 2, 4, 5)
    recon = video + sign * 2 * error  # [-1, 1] is twice as wide as [0, 1]
    found = error_frames(recon, video)
    assert found.shape == (2, 3, 4, 5) and found.dtype == torch.uint8
    expected = torch.tensor(colour).view(1, 3, 1, 1).expand_as(found)
    assert (found.int() - expected).abs().max() <= 1


def test_the_mean_is_over_colours_and_the_reconstruction_is_clamped() -> None:
    video = torch.ones(1, 3, 1, 1, 1)
    assert not error_frames(video + 5, video).any()
    recon = video.clone()
    recon[:, 1] -= 0.5  # a quarter of the range, in one of three colours
    assert error_frames(recon, video).flatten().tolist() == [255, 0, 0]


def test_frames_of_any_float_type_are_clamped_and_rounded() -> None:
    video = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).view(1, 1, 1, 1, 5).expand(1, 3, 2, 4, 5)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        found = to_frames(video.to(dtype))
        assert found.shape == (2, 3, 4, 5)
        assert found[1, 2, 3].tolist() == [0, 0, 128, 255, 255]
    assert video[0, 0, 0, 0, 0] == -3


def test_panels_stand_from_left_to_right() -> None:
    panels = [torch.full((2, 3, 4, 5), value, dtype=torch.uint8) for value in (1, 2, 3)]
    found = side_by_side(panels)
    assert found.shape == (2, 3, 4, 15)
    assert found[1, 1, 1].tolist() == [1] * 5 + [2] * 5 + [3] * 5
