"""Degradations spoil by exactly the stated amount, and nothing at level 0."""

from __future__ import annotations

import pytest
import torch

from ssvae.core.seeds import torch_generator
from ssvae.metrics.degradations import add_noise, blur, freeze_frames, shuffle_frames


def clips() -> torch.Tensor:
    return torch.rand(3, 3, 6, 10, 12, generator=torch_generator(0, "clips"), dtype=torch.float64) * 2 - 1


def test_level_zero_changes_nothing() -> None:
    video, zero = clips(), torch.zeros(3)
    none = torch.zeros(3, dtype=torch.int64)
    assert torch.equal(blur(video, zero), video)
    assert torch.equal(add_noise(video, zero, torch_generator(0, "n")), video)
    assert torch.equal(shuffle_frames(video, none, torch_generator(0, "s")), video)
    assert torch.equal(freeze_frames(video, none), video)


def test_blur_of_a_point_is_a_gaussian_of_that_deviation() -> None:
    video = torch.zeros(2, 3, 1, 41, 41, dtype=torch.float64)
    video[..., 20, 20] = 1.0
    out = blur(video, torch.tensor([1.5, 3.0]))
    torch.testing.assert_close(out.sum((-1, -2)), torch.ones(2, 3, 1, dtype=torch.float64), atol=1e-5, rtol=0)
    offset = (torch.arange(41) - 20.0).double().square()
    spread = (out.sum(-1) * offset).sum(-1).sqrt()
    torch.testing.assert_close(spread[:, 0, 0], torch.tensor([1.5, 3.0], dtype=torch.float64), atol=1e-3, rtol=0)
    torch.testing.assert_close(out, out.transpose(-1, -2))


def test_blur_keeps_flat_clips_up_to_the_border() -> None:
    video = torch.full((2, 3, 2, 8, 8), 0.7, dtype=torch.float64)
    torch.testing.assert_close(blur(video, torch.tensor([1.0, 4.0])), video)


def test_noise_has_its_deviation_and_stays_in_range() -> None:
    video = torch.zeros(2, 3, 9, 32, 32)
    out = add_noise(video, torch.tensor([0.1, 0.2]), torch_generator(0, "n"))
    torch.testing.assert_close(out.flatten(1).std(1), torch.tensor([0.1, 0.2]), atol=3e-3, rtol=0)
    loud = add_noise(video, torch.tensor([3.0, 3.0]), torch_generator(0, "n"))
    assert float(loud.abs().max()) == 1.0


@pytest.mark.parametrize("count", [2, 3, 6])
def test_shuffle_moves_exactly_that_many_frames_and_loses_none(count: int) -> None:
    video = clips()
    out = shuffle_frames(video, torch.full((3,), count), torch_generator(0, "s"))
    for before, after in zip(video, out, strict=True):
        moved = sum(not torch.equal(before[:, t], after[:, t]) for t in range(6))
        assert moved == count
        assert all(any(torch.equal(before[:, t], after[:, s]) for s in range(6)) for t in range(6))


def test_freeze_holds_the_frame_before_the_last_ones() -> None:
    video = clips()
    out = freeze_frames(video, torch.tensor([0, 2, 5]))
    assert torch.equal(out[0], video[0])
    assert torch.equal(out[1, :, :4], video[1, :, :4])
    for t in (4, 5):
        assert torch.equal(out[1, :, t], video[1, :, 3])
    assert bool((out[2] == video[2, :, :1]).all())
    with pytest.raises(ValueError, match="at most 5"):
        freeze_frames(video, torch.tensor([0, 0, 6]))
