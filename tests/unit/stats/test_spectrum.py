from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from ssvae.bench.naive import dct3_naive
from ssvae.stats.dct import dct_matrix
from ssvae.stats.spectrum import (
    SpectrumAccumulator,
    dct3,
    default_block,
    frequency_order,
    idct3,
    spatiotemporal_spectrum,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direct(latent: torch.Tensor, block: tuple[int, int, int], mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Mean squared coefficients by plain loops over blocks and scipy's DCT, divided by their sum."""
    z = (latent.numpy() - mean.reshape(1, -1, 1, 1, 1)) / std.reshape(1, -1, 1, 1, 1)
    z = z[:, :, 1:] if z.shape[2] > 1 else z
    t, h, w = block
    energy = np.zeros(block)
    for clip in z:
        for channel in clip:
            for a in range(0, z.shape[2], t):
                for b in range(0, z.shape[3], h):
                    for c in range(0, z.shape[4], w):
                        energy += dctn(channel[a : a + t, b : b + h, c : c + w], norm="ortho") ** 2
    return energy / energy.sum()


@pytest.mark.parametrize("shape", [(4, 4, 4), (2, 3, 5, 7, 6), (1, 1, 9), (3, 2, 1, 4), (2, 6, 9, 2)])
def test_dct_agrees_with_scipy_and_the_definition(shape: tuple[int, ...]) -> None:
    x = noise(*shape)
    expected = dctn(x.numpy(), axes=(-3, -2, -1), norm="ortho")
    np.testing.assert_allclose(dct3(x).numpy(), expected, atol=1e-13)
    np.testing.assert_allclose(dct3_naive(x).numpy(), expected, atol=1e-13)
    np.testing.assert_allclose(idct3(x).numpy(), idctn(x.numpy(), axes=(-3, -2, -1), norm="ortho"), atol=1e-13)


def test_dct_round_trip_parseval_and_gradient() -> None:
    x = noise(2, 3, 4, 5)
    torch.testing.assert_close(idct3(dct3(x)), x)
    assert float(dct3(x).square().sum()) == pytest.approx(float(x.square().sum()))
    with torch.inference_mode():
        dct3(noise(3, 3, 11))  # fills the cache from a mode without gradient
    assert torch.autograd.gradcheck(dct3, (noise(1, 2, 11).requires_grad_(),))
    assert torch.autograd.gradcheck(idct3, (noise(2, 6, 11).requires_grad_(),))


def test_dct_keeps_float32_and_refuses_the_rest() -> None:
    single = noise(2, 4, 4).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(dct3(single), dct3_naive(single), rtol=0, atol=1e-6)
        assert dct3(single).dtype == torch.float32
    with pytest.raises(ValueError, match="three axes"):
        dct3(noise(4, 4))
    with pytest.raises(ValueError, match="float32 or float64"):
        dct3(torch.zeros(2, 2, 2, dtype=torch.int64))


def test_dct_matrix_is_orthonormal() -> None:
    matrix = dct_matrix(7)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(7, dtype=torch.float64))


@pytest.mark.parametrize(
    "shape, block", [((2, 3, 5, 8, 8), (4, 4, 4)), ((3, 2, 3, 4, 6), (2, 4, 3)), ((2, 4, 1, 8, 4), (1, 4, 2))]
)
def test_spectrum_agrees_with_loops_over_blocks(shape: tuple[int, ...], block: tuple[int, int, int]) -> None:
    latent = noise(*shape) * torch.arange(1, shape[1] + 1).view(1, -1, 1, 1, 1) + 3
    latent[..., 1:] += latent[..., :-1].clone()
    axes = (0, 2, 3, 4)
    energy = direct(latent, block, latent.numpy().mean(axes), latent.numpy().std(axes))
    result = spatiotemporal_spectrum(latent, block)
    triples = frequency_order(block).tolist()
    np.testing.assert_allclose(result.curve.numpy(), [energy[tuple(triple)] for triple in triples], atol=1e-12)
    cut = (sum(block) - 3) / 2
    high = sum(energy[tuple(triple)] for triple in triples if sum(triple) > cut)
    assert result.dc_share == pytest.approx(energy[0, 0, 0])
    assert result.high_share == pytest.approx(high)
    np.testing.assert_allclose(result.spatial.numpy(), energy.sum(0), atol=1e-12)
    np.testing.assert_allclose(result.temporal.numpy(), energy.sum((1, 2)), atol=1e-12)
    assert result.curve.dtype == torch.float64 and result.clips == shape[0]


def test_order_is_by_degree_then_by_index() -> None:
    triples = [tuple(row) for row in frequency_order((2, 3, 2)).tolist()]
    assert len(set(triples)) == 12
    assert triples[:4] == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert [sum(triple) for triple in triples] == sorted(sum(triple) for triple in triples)
    assert triples == sorted(triples, key=lambda triple: (sum(triple), triple))


def test_white_noise_is_flat() -> None:
    result = spatiotemporal_spectrum(noise(40, 4, 5, 16, 16), (4, 4, 4))
    np.testing.assert_allclose(result.curve.numpy(), 1 / 64, rtol=0.1)
    order = frequency_order((4, 4, 4))
    assert result.high_share == pytest.approx(float((order.sum(1) > 4.5).sum()) / 64, rel=0.02)


def test_a_single_cosine_lands_on_its_coefficient() -> None:
    block = (4, 4, 4)
    coefficients = torch.zeros(1, 1, *block, dtype=torch.float64)
    coefficients[0, 0, 1, 2, 3] = 2.0
    later = idct3(coefficients)
    clip = torch.cat([noise(1, 1, 1, 4, 4), later], dim=2)  # frame 0 is noise and must not count
    unit = (torch.zeros(1), torch.ones(1))
    result = spatiotemporal_spectrum(clip, block, *unit)
    at = frequency_order(block).tolist().index([1, 2, 3])
    assert float(result.curve[at]) == pytest.approx(1.0)
    assert float(result.temporal[1]) == pytest.approx(1.0)
    assert float(result.spatial[2, 3]) == pytest.approx(1.0)
    assert result.high_share == pytest.approx(1.0) and result.dc_share == pytest.approx(0.0, abs=1e-12)


def test_smoothing_moves_energy_to_low_frequencies() -> None:
    rough = noise(4, 3, 5, 8, 8)
    smooth = torch.nn.functional.avg_pool3d(rough, 3, stride=1, padding=1)
    assert spatiotemporal_spectrum(smooth).high_share < 0.5 * spatiotemporal_spectrum(rough).high_share
    assert spatiotemporal_spectrum(smooth).dc_share > 2 * spatiotemporal_spectrum(rough).dc_share


def test_streamed_and_merged_equals_direct_despite_a_large_mean() -> None:
    latent = noise(7, 3, 5, 4, 4) + torch.tensor([1e5, -1e3, 0.0]).view(1, 3, 1, 1, 1)
    axes = (0, 2, 3, 4)
    mean, std = latent.mean(axes), latent.std(axes)
    parts = [SpectrumAccumulator(3, (2, 4, 2)) for _ in range(4)]
    for part, piece in zip(parts, (latent[:2], latent[2:5], latent[5:], latent[:0]), strict=True):
        part.update(piece)
    total = parts[3]  # starts empty
    for part in parts[:3]:
        total.merge(part)
    energy = direct(latent, (2, 4, 2), mean.numpy(), std.numpy())
    result = total.compute(mean, std)
    np.testing.assert_allclose(result.spatial.numpy(), energy.sum(0), rtol=1e-7)
    np.testing.assert_allclose(
        result.curve.numpy(), spatiotemporal_spectrum(latent, (2, 4, 2)).curve.numpy(), rtol=1e-8
    )
    assert result.clips == 7


def test_given_statistics_are_used() -> None:
    latent = noise(2, 2, 3, 4, 4)
    centred = spatiotemporal_spectrum(latent, (2, 4, 4))
    shifted = spatiotemporal_spectrum(latent, (2, 4, 4), torch.full((2,), 5.0), torch.ones(2))
    assert shifted.dc_share > 0.9 > centred.dc_share
    with pytest.raises(ValueError, match="both mean and std"):
        spatiotemporal_spectrum(latent, (2, 4, 4), mean=torch.zeros(2))


def test_channel_scale_does_not_matter_and_constant_channels_add_nothing() -> None:
    latent = noise(2, 3, 3, 4, 4)
    scaled = latent * torch.tensor([1.0, 50.0, 0.1]).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(spatiotemporal_spectrum(latent).curve, spatiotemporal_spectrum(scaled).curve)
    with_constant = torch.cat([latent, torch.full((2, 1, 3, 4, 4), 7.0)], dim=1)
    torch.testing.assert_close(spatiotemporal_spectrum(latent).curve, spatiotemporal_spectrum(with_constant).curve)
    assert spatiotemporal_spectrum(torch.full((1, 2, 3, 4, 4), 7.0)).dc_share == 1.0


@pytest.mark.parametrize(
    "grid, block", [((3, 8, 8), (2, 4, 4)), ((5, 32, 32), (4, 4, 4)), ((1, 8, 6), (1, 4, 2)), ((4, 3, 4), (1, 1, 4))]
)
def test_default_block_adapts_to_the_grid(grid: tuple[int, int, int], block: tuple[int, int, int]) -> None:
    assert default_block(grid) == block
    assert spatiotemporal_spectrum(noise(2, 2, *grid)).block == block


@pytest.mark.parametrize(
    "grid, block, words",
    [
        ((4, 8, 8), (2, 4, 4), ["later frames", "t=2"]),
        ((5, 6, 8), (4, 4, 4), ["height", "6", "h=4"]),
        ((5, 8, 2), (4, 4, 4), ["width", "w=4"]),
        ((1, 8, 8), (2, 4, 4), ["image", "t=2"]),
        ((5, 8, 8), (0, 4, 4), ["positive"]),
    ],
)
def test_blocks_that_do_not_tile_are_refused(
    grid: tuple[int, int, int], block: tuple[int, int, int], words: list[str]
) -> None:
    with pytest.raises(ValueError) as error:
        spatiotemporal_spectrum(noise(1, 1, *grid), block)
    assert all(word in str(error.value) for word in words)


def test_non_finite_latents_are_refused() -> None:
    latent = noise(1, 1, 3, 2, 2)
    latent[0, 0, 2, 1, 1] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        spatiotemporal_spectrum(latent)
    with pytest.raises(ValueError, match="channels"):
        SpectrumAccumulator(2, (1, 2, 2)).update(noise(1, 1, 3, 2, 2))
