"""Shares above a cut against sums over scipy's coefficients, and the accumulator's state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from ssvae.stats.spectrum import Block, SpectrumAccumulator, spatiotemporal_spectrum


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def energies(latent: torch.Tensor, block: Block) -> np.ndarray:
    """Shares of energy (t,h,w) of latents that consist of one block a clip after frame 0."""
    z = (latent - latent.mean((0, 2, 3, 4), keepdim=True)) / latent.std((0, 2, 3, 4), keepdim=True)
    coefficients = dctn(z[:, :, 1:].numpy(), axes=(2, 3, 4), norm="ortho")
    energy = (coefficients**2).sum((0, 1))
    return energy / energy.sum()


@pytest.mark.parametrize("rho", [0.0, 0.25, 0.5, 0.8])
def test_shares_above_a_cut(rho: float) -> None:
    block = (2, 4, 3)
    latent = noise(3, 2, 3, 4, 3)
    latent[..., 1:] += latent[..., :-1].clone()
    spectrum, energy = spatiotemporal_spectrum(latent, block), energies(latent, block)
    i, j, k = np.indices(block)
    assert spectrum.above(rho) == pytest.approx(energy[i + j + k > rho * 6].sum())
    assert spectrum.spatial_above(rho) == pytest.approx(energy[j + k > rho * 5].sum())
    assert spectrum.temporal_above(rho) == pytest.approx(energy[i > rho * 1].sum())
    assert spectrum.above(0.5) == spectrum.high_share


def test_an_axis_of_one_has_nothing_above() -> None:
    spectrum = spatiotemporal_spectrum(noise(2, 2, 3, 2, 2), (1, 1, 1))
    assert spectrum.above(0.0) == spectrum.spatial_above(0.0) == spectrum.temporal_above(0.0) == 0.0
    for rho in (-0.1, 1.0):
        with pytest.raises(ValueError, match="rho"):
            spectrum.above(rho)


def test_state_travels_and_fits_only_its_like() -> None:
    latent = noise(4, 2, 3, 4, 4)
    mean, std = latent.mean((0, 2, 3, 4)), latent.std((0, 2, 3, 4))
    first, second = SpectrumAccumulator(2, (2, 4, 4)), SpectrumAccumulator(2, (2, 4, 4))
    first.update(latent[:3])
    second.update(latent[3:])
    total = SpectrumAccumulator(2, (2, 4, 4))
    for part in (first, second):
        copy = SpectrumAccumulator(2, (2, 4, 4))
        copy.load_state_dict(part.state_dict())
        part.update(latent)  # the state is a copy: this must not reach it
        total.merge(copy)
    expected = spatiotemporal_spectrum(latent, (2, 4, 4)).curve
    torch.testing.assert_close(total.compute(mean, std).curve, expected, rtol=1e-12, atol=0)
    empty = SpectrumAccumulator(2, (2, 4, 4))
    empty.load_state_dict(SpectrumAccumulator(2, (2, 4, 4)).state_dict())
    with pytest.raises(ValueError, match="no latents"):
        empty.compute(mean, std)
    with pytest.raises(ValueError, match="state holds"):
        empty.load_state_dict(SpectrumAccumulator(3, (2, 4, 4)).state_dict())
