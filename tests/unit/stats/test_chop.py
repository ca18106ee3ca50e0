"""Chopping against loops over blocks with scipy's DCT, and what must not change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from ssvae.stats.chop import chop_count, chop_high_frequencies
from ssvae.stats.spectrum import Block


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def direct(x: np.ndarray, block: Block, removed: int) -> np.ndarray:
    """(N,C,F,H,W), every frame in blocks: the last ``removed`` coefficients by i+j+k, then (i,j,k), set to 0."""
    t, h, w = block
    order = sorted(np.ndindex(*block), key=lambda triple: (sum(triple), triple))
    result = np.empty_like(x)
    for a in range(0, x.shape[2], t):
        for b in range(0, x.shape[3], h):
            for c in range(0, x.shape[4], w):
                place = (slice(None), slice(None), slice(a, a + t), slice(b, b + h), slice(c, c + w))
                coefficients = dctn(x[place], axes=(2, 3, 4), norm="ortho")
                for triple in order[len(order) - removed :]:
                    coefficients[(..., *triple)] = 0
                result[place] = idctn(coefficients, axes=(2, 3, 4), norm="ortho")
    return result


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(
    "shape, block", [((2, 3, 5, 8, 4), (4, 4, 4)), ((1, 2, 3, 6, 5), (2, 3, 5)), ((2, 1, 1, 4, 4), (1, 4, 2))]
)
def test_it_is_the_definition_in_loops(shape: tuple[int, ...], block: Block, fraction: float) -> None:
    x = noise(*shape)
    first = (1, block[1], block[2])
    expected = [direct(x[:, :, :1].numpy(), first, chop_count(first, fraction))]
    if shape[2] > 1:
        expected.append(direct(x[:, :, 1:].numpy(), block, chop_count(block, fraction)))
    np.testing.assert_allclose(
        chop_high_frequencies(x, block, fraction).numpy(), np.concatenate(expected, 2), atol=1e-12
    )


def test_nothing_removed_is_the_input_itself() -> None:
    x = noise(1, 2, 3, 4, 4).half()
    assert chop_high_frequencies(x, (2, 4, 4), 0.0) is x


def test_everything_removed_is_a_mosaic_of_block_means() -> None:
    x = noise(2, 2, 3, 4, 8)
    chopped = chop_high_frequencies(x, (2, 4, 4), 1.0)
    later = x[:, :, 1:].reshape(2, 2, 2, 4, 2, 4).mean((2, 3, 5))
    torch.testing.assert_close(chopped[:, :, 1, 0, ::4], later)
    torch.testing.assert_close(chopped[:, :, 2, 3, 3::4], later)
    torch.testing.assert_close(chopped[:, :, 0, 2, ::4], x[:, :, 0].reshape(2, 2, 4, 2, 4).mean((2, 4)))


def test_counts_round_to_the_nearest_and_leave_the_constant() -> None:
    assert [chop_count((2, 4, 4), fraction) for fraction in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0, 8, 16, 24, 31]
    assert chop_count((1, 10, 10), 0.29) == 29  # 0.29 · 100 is a little less than 29 in floating point
    assert chop_count((1, 1, 4), 0.375) == 2
    assert chop_count((1, 1, 1), 1.0) == 0


def test_it_is_a_projection_whose_error_grows_with_the_fraction() -> None:
    x = noise(1, 2, 5, 8, 8)
    errors = []
    for fraction in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        chopped = chop_high_frequencies(x, (4, 4, 4), fraction)
        torch.testing.assert_close(chop_high_frequencies(chopped, (4, 4, 4), fraction), chopped)
        lost = float((x - chopped).square().sum())
        assert lost == pytest.approx(float(x.square().sum() - chopped.square().sum()))  # Parseval
        errors.append(lost)
    assert errors == sorted(errors) and len(set(errors)) == len(errors)


def test_frame_0_does_not_reach_the_later_ones_nor_they_it() -> None:
    x = noise(1, 1, 3, 4, 4)
    changed = x.clone()
    changed[:, :, 0] += 5
    a, b = (chop_high_frequencies(values, (2, 2, 2), 0.5) for values in (x, changed))
    assert torch.equal(a[:, :, 1:], b[:, :, 1:]) and not torch.allclose(a[:, :, 0], b[:, :, 0])


def test_normalising_before_or_after_is_the_same() -> None:
    x, mean, std = noise(2, 3, 3, 4, 4), 7.0, 0.3
    inside = chop_high_frequencies((x - mean) / std, (2, 4, 4), 0.6) * std + mean
    torch.testing.assert_close(chop_high_frequencies(x, (2, 4, 4), 0.6), inside)


def test_precision_and_gradient_are_those_of_the_input() -> None:
    x = noise(1, 1, 3, 4, 4)
    for dtype in (torch.float32, torch.bfloat16):
        made = chop_high_frequencies(x.to(dtype), (2, 2, 2), 0.5)
        assert made.dtype == dtype
        torch.testing.assert_close(
            made.double(), chop_high_frequencies(x.to(dtype).double(), (2, 2, 2), 0.5), rtol=1e-2, atol=1e-2
        )
    with torch.inference_mode():
        chop_high_frequencies(noise(1, 1, 3, 2, 6), (2, 2, 3), 0.4)  # fills the cache from a mode without gradient
    again = noise(1, 1, 3, 2, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: chop_high_frequencies(values, (2, 2, 3), 0.4), (again,))


def test_what_makes_no_sense_is_refused() -> None:
    x = noise(1, 1, 3, 4, 4)
    for fraction in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="fraction"):
            chop_high_frequencies(x, (2, 2, 2), fraction)
    with pytest.raises(ValueError, match="t=4"):
        chop_high_frequencies(x, (4, 2, 2), 0.5)
    with pytest.raises(ValueError, match="axes"):
        chop_high_frequencies(x[0], (2, 2, 2), 0.5)
