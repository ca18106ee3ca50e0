from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ssvae.bench.naive import local_correlation_naive
from ssvae.stats.local_corr import channel_statistics, check_window, default_window, local_correlation

GOLDEN = Path(__file__).parents[2] / "golden" / "local_correlation.npz"


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", range(5))
def test_value_and_gradient_agree_with_the_official_code(case: int, channels_last: bool) -> None:
    with np.load(GOLDEN) as golden:
        data = {name: golden[f"{name}_{case}"] for name in ("mean", "window", "first", "video", "avg", "hinge", "grad")}
    mean = torch.from_numpy(data["mean"])
    if channels_last:
        mean = mean.contiguous(memory_format=torch.channels_last_3d)
    mean.requires_grad_()
    result = local_correlation(mean, tuple(int(n) for n in data["window"]))
    assert result.first.item() == pytest.approx(float(data["first"]), abs=2e-6)
    if np.isnan(data["video"]):
        assert result.video is None
    else:
        assert result.video is not None
        assert result.video.item() == pytest.approx(float(data["video"]), abs=2e-6)
    assert result.mean.item() == pytest.approx(float(data["avg"]), abs=2e-6)
    hinge = torch.relu(0.75 - result.mean)
    assert hinge.item() == pytest.approx(float(data["hinge"]), abs=2e-6)
    hinge.backward()
    assert mean.grad is not None
    scale = np.abs(data["grad"]).max()
    np.testing.assert_allclose(mean.grad.numpy(), data["grad"], rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize(
    "shape, window", [((2, 5, 3, 4, 6), (2, 2, 3)), ((1, 7, 1, 4, 4), (2, 2, 2)), ((2, 3, 4, 2, 2), (3, 1, 2))]
)
def test_agrees_with_the_pair_matrix_in_float64(shape: tuple[int, ...], window: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 1
    fast, slow = values.clone().requires_grad_(), values.clone().requires_grad_()
    a, b = local_correlation(fast, window).mean, local_correlation_naive(slow, window)
    assert a.item() == pytest.approx(b.item(), abs=1e-13)
    a.backward()
    b.backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-10, atol=1e-14)


def test_gradient_of_first_and_video_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(1, 3, 3, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    statistics = channel_statistics(values)  # held constant, as in the definition

    def weighted(latent: torch.Tensor) -> torch.Tensor:
        result = local_correlation(latent, (2, 2, 2), statistics)
        assert result.video is not None
        return 2 * result.first - 3 * result.video

    assert torch.autograd.gradcheck(weighted, (values,))


def test_backward_twice_gives_the_same_gradient() -> None:
    """Adaptive weights differentiate once with retain_graph, then the loss is back-propagated again."""
    values = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(2), requires_grad=True)
    result = local_correlation(values).mean
    (once,) = torch.autograd.grad(result, values, retain_graph=True)
    (twice,) = torch.autograd.grad(result, values)
    assert torch.equal(once, twice)


def test_identical_positions_are_fully_correlated_and_opposite_ones_are_not() -> None:
    vector = torch.randn(1, 16, 1, 1, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    unit = (torch.zeros(16, dtype=torch.float64), torch.ones(16, dtype=torch.float64))
    same = local_correlation(vector.expand(1, 16, 3, 4, 4), statistics=unit)
    assert same.mean.item() == pytest.approx(1.0, abs=1e-7)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(2).view(1, 1, 1, 1, 4)
    checker = local_correlation((vector * sign).expand(1, 16, 1, 4, 4), statistics=unit)
    # in a 2x2 window two of six pairs agree and four oppose
    assert checker.first.item() == pytest.approx(-1 / 3, abs=1e-7)


def test_constant_vectors_count_as_zero_and_give_finite_gradient() -> None:
    values = torch.zeros(1, 4, 1, 2, 2, requires_grad=True)
    unit = (torch.zeros(4), torch.ones(4))
    result = local_correlation(values, statistics=unit)
    assert result.mean.item() == 0.0
    result.mean.backward()
    assert values.grad is not None and torch.isfinite(values.grad).all()


def test_half_precision_input_is_computed_in_float32() -> None:
    values = torch.randn(1, 8, 3, 4, 4, generator=torch.Generator().manual_seed(4)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = local_correlation(values).mean
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(local_correlation(values.float()).mean.item(), abs=1e-7)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_channel_statistics_over_parts_equal_the_whole(layout: torch.memory_format) -> None:
    values = torch.randn(4, 3, 2, 3, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 100
    values = values.contiguous(memory_format=layout)
    mean, std = channel_statistics(values)
    torch.testing.assert_close(mean, values.mean((0, 2, 3, 4)))
    torch.testing.assert_close(std, values.std((0, 2, 3, 4)))

    sums = iter([0.0, 0.0])  # what the other rank (same data) adds: double every sum
    double_mean, double_std = channel_statistics(values, lambda tensor: tensor * 2 + next(sums))
    count = values.numel() // 3
    torch.testing.assert_close(double_mean, mean)
    torch.testing.assert_close(double_std, std * ((count - 1) * 2 / (2 * count - 1)) ** 0.5)


@pytest.mark.parametrize(
    "grid, window, words",
    [
        ((4, 8, 8), (2, 2, 2), ["later frames", "3", "t=2"]),
        ((5, 7, 8), (2, 2, 2), ["height", "7", "h=2"]),
        ((5, 8, 9), (2, 2, 4), ["width", "9", "w=4"]),
        ((5, 8, 8), (2, 0, 2), ["positive"]),
        ((5, 8, 8), (2, 1, 1), ["spatial"]),
    ],
)
def test_windows_that_do_not_tile_are_refused_with_a_remedy(
    grid: tuple[int, int, int], window: tuple[int, int, int], words: list[str]
) -> None:
    with pytest.raises(ValueError) as error:
        check_window(grid, window)
    assert all(word in str(error.value) for word in words)
    with pytest.raises(ValueError):
        local_correlation(torch.zeros(1, 2, *grid), window)


def test_an_image_ignores_the_temporal_window() -> None:
    check_window((1, 4, 4), (2, 2, 2))


def test_wrong_axes_are_refused() -> None:
    with pytest.raises(ValueError, match="B,C,F,H,W"):
        local_correlation(torch.zeros(2, 3, 4, 4))


def test_default_window_is_the_published_one_where_it_fits() -> None:
    assert default_window((5, 8, 8)) == (2, 2, 2)
    assert default_window((2, 8, 7)) == (1, 2, 1)
    assert default_window((5, 45, 79)) == (2, 3, 1) and default_window((3, 5, 25)) == (2, 5, 5)
    for grid in ((5, 8, 8), (2, 8, 7), (1, 5, 4), (5, 45, 79), (3, 5, 25), (2, 49, 11)):
        check_window(grid, default_window(grid))
    with pytest.raises(ValueError, match="another size"):
        default_window((3, 11, 13))


def test_gradient_of_expanded_and_sliced_latents() -> None:
    """Their strides overlap or have gaps; the gradient must have a memory of its own."""
    small = torch.randn(1, 4, 3, 1, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    fast, slow = small.clone().requires_grad_(), small.clone().requires_grad_()
    scale = torch.linspace(1, 2, 4, dtype=torch.float64).view(1, 1, 1, 4, 1)
    for latent, function in ((fast, lambda z: local_correlation(z).mean), (slow, local_correlation_naive)):
        expanded = latent.expand(2, 4, 3, 4, 4)
        (function(expanded) + function((expanded * scale)[..., :2])).backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-10, atol=1e-14)
