from __future__ import annotations

import pytest
import torch

from ssvae.bench.naive import eigenspectrum_naive
from ssvae.stats.channels import covariance_eigenspectrum, eigenspectrum, explained_variance, participation_ratio


def latents(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_agrees_with_a_full_svd_even_for_tiny_eigenvalues() -> None:
    scales = torch.logspace(0, -5, 6, dtype=torch.float64).view(1, 6, 1, 1, 1)
    latent = latents(4, 6, 3, 4, 4) * scales + 10
    torch.testing.assert_close(eigenspectrum(latent), eigenspectrum_naive(latent), rtol=1e-4, atol=1e-14)


def test_recovers_a_known_spectrum() -> None:
    rotation = torch.linalg.qr(latents(5, 5))[0]
    white = latents(400, 5)
    white = white - white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T.cov())).T  # sample covariance exactly I
    known = torch.tensor([9.0, 4.0, 1.0, 0.25, 0.0], dtype=torch.float64)
    latent = (white * known.sqrt()) @ rotation.T + 3
    torch.testing.assert_close(eigenspectrum(latent), known, rtol=1e-9, atol=1e-12)


def test_normalised_spectrum_ignores_channel_scale_and_sums_to_the_channel_count() -> None:
    latent = latents(50, 4, 2)
    latent[:, 1] += latent[:, 0]
    scaled = latent * torch.tensor([1.0, 100.0, 0.01, 7.0]).view(1, 4, 1) + 5
    plain, rescaled = eigenspectrum(latent, normalize=True), eigenspectrum(scaled, normalize=True)
    torch.testing.assert_close(plain, rescaled, rtol=1e-9, atol=1e-12)
    assert float(plain.sum()) == pytest.approx(4.0)
    assert not torch.allclose(eigenspectrum(latent), eigenspectrum(scaled))


def test_constant_channel_contributes_nothing_when_normalised() -> None:
    values = covariance_eigenspectrum(torch.diag(torch.tensor([2.0, 0.0, 3.0])), normalize=True)
    assert values.tolist() == pytest.approx([1.0, 1.0, 0.0])


def test_explained_variance_is_the_cumulative_share() -> None:
    shares = explained_variance(torch.tensor([5.0, 3.0, 2.0, 0.0]))
    assert shares.dtype == torch.float64
    assert shares.tolist() == pytest.approx([0.5, 0.8, 1.0, 1.0])


def test_participation_ratio_counts_equal_modes() -> None:
    assert participation_ratio(torch.tensor([3.0, 3.0, 3.0, 0.0])) == pytest.approx(3.0)
    assert participation_ratio(torch.tensor([1e200, 0.0], dtype=torch.float64)) == pytest.approx(1.0)
    assert participation_ratio(torch.tensor([3.0, 1.0])) == pytest.approx(16 / 10)


@pytest.mark.parametrize("function", [explained_variance, participation_ratio])
def test_bad_eigenvalues_are_refused(function) -> None:  # type: ignore[no-untyped-def]
    for values, words in (([0.0, 0.0], "constant"), ([1.0, -1.0], "non-negative"), ([float("nan")], "finite")):
        with pytest.raises(ValueError, match=words):
            function(torch.tensor(values))
    with pytest.raises(ValueError, match="descending"):
        explained_variance(torch.tensor([1.0, 2.0]))
