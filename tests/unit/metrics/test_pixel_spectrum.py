"""The clip's spectrum against scipy's transform of its blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from ssvae.metrics.latent_values import CURVE_LABELS
from ssvae.metrics.pixel_spectrum import PixelSpectrum
from ssvae.stats.spectrum import frequency_order, spatiotemporal_spectrum

GRID, BLOCK = (5, 8, 4), (2, 4, 4)


def clips(count: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(count, 3, *GRID, generator=generator) * torch.tensor([1.0, 0.2, 0.7]).view(1, 3, 1, 1, 1)
    video[..., 1:] += video[..., :-1].clone()
    return video - 0.5


def measured(video: torch.Tensor) -> PixelSpectrum:
    spectrum = PixelSpectrum(GRID, BLOCK)
    for clip in video.split(2):
        spectrum.update(clip)
    return spectrum


def direct(video: torch.Tensor) -> np.ndarray:
    x = video.double().numpy()
    x = (x - x.mean((0, 2, 3, 4), keepdims=True)) / x.std((0, 2, 3, 4), keepdims=True)
    t, h, w = BLOCK
    energy = np.zeros(BLOCK)
    for a in range(1, GRID[0], t):
        for b in range(0, GRID[1], h):
            for c in range(0, GRID[2], w):
                block = x[:, :, a : a + t, b : b + h, c : c + w]
                energy += (dctn(block, axes=(2, 3, 4), norm="ortho") ** 2).sum((0, 1))
    return energy / energy.sum()


def test_it_is_the_latent_definition_on_the_video() -> None:
    video = clips()
    made, energy = measured(video), direct(video)
    values = {metric.name: metric for metric in made.compute()}
    assert values["rgb_dct_dc_share"].value == pytest.approx(energy[0, 0, 0])
    i, j, k = np.indices(BLOCK)
    assert values["rgb_dct_high_share"].value == pytest.approx(energy[i + j + k > 3.5].sum())
    curve = made.curves()["rgb_dct_spectrum"][1]
    order = frequency_order(BLOCK).tolist()
    np.testing.assert_allclose(curve.numpy(), [energy[tuple(triple)] for triple in order], atol=1e-12)
    torch.testing.assert_close(curve, spatiotemporal_spectrum(video.double(), BLOCK).curve)
    assert set(made.curves()) <= set(CURVE_LABELS)
    assert values["rgb_dct_high_share"].protocol == "dct3_power/1;block=2x4x4;statistics=set;of=rgb"
    assert all(metric.n == 5 and metric.name.startswith("rgb_") for metric in values.values())


def test_pieces_merge_to_the_whole() -> None:
    video = clips()
    whole, first, second = measured(video), measured(video[:1]), measured(video[1:])
    joined = PixelSpectrum(GRID, BLOCK)
    joined.join([first.state_dict(), second.state_dict()])
    first.merge(second)
    for made in (first, joined):
        torch.testing.assert_close(made.spectrum().curve, whole.spectrum().curve, rtol=1e-12, atol=1e-14)
        assert made.spectrum().clips == 5


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="t=4"):
        PixelSpectrum((4, 8, 8), (4, 4, 4))
    with pytest.raises(ValueError, match="one size"):
        measured(clips().transpose(3, 4))
    with pytest.raises(ValueError, match="cannot merge"):
        measured(clips()).merge(PixelSpectrum(GRID, (1, 4, 4)))
    with pytest.raises(ValueError, match="no observations"):
        PixelSpectrum(GRID, BLOCK).compute()
