"""Latent statistics: the 3-D DCT against scipy's, the channel eigenspectrum against a full SVD.

Dimension legend: N clips, C channels, F frames, h w latent pixels; latent (N,C,F,h,w), float64; block (t,h,w).
"""

from __future__ import annotations

import torch
from scipy.fft import dctn
from torch import Tensor

from ssvae.bench.naive import eigenspectrum_naive
from ssvae.bench.pair import Pair, relative_difference
from ssvae.core.seeds import torch_generator
from ssvae.stats.channels import eigenspectrum
from ssvae.stats.dct import dct3

DCT_SHAPES = {"dct3_latents": (16, 48, 5, 16, 16), "dct3_blocks": (4096, 2, 4, 4)}
"""Whole latents of 17 frames of 256 x 256 pixels; the small blocks that the CPU default's spectrum is made of."""
EIGEN_SHAPE = (64, 48, 3, 8, 8)


def pairs() -> list[Pair]:
    """The pairs of :data:`DCT_SHAPES`, then ``eigenspectrum``."""
    return [*(dct_pair(name, shape) for name, shape in DCT_SHAPES.items()), eigen_pair("eigenspectrum", EIGEN_SHAPE)]


def dct_pair(name: str, shape: tuple[int, ...]) -> Pair:
    """Orthonormal DCT-II over the last three axes of a random tensor."""
    x = _random(name, shape)
    return Pair(
        name=name,
        what=f"3-D DCT of {'x'.join(map(str, shape))}, float64",
        reference="ssvae.bench.spectrum.dct3_scipy (scipy.fft.dctn)",
        fast=lambda: dct3(x),
        naive=lambda: dct3_scipy(x),
        difference=lambda: relative_difference(dct3(x), dct3_scipy(x)),
        tolerance=1e-12,
    )


def dct3_scipy(x: Tensor) -> Tensor:
    """Orthonormal DCT-II over the last three axes of x (...,t,h,w) by scipy's FFTs, with torch's number of threads."""
    return torch.from_numpy(dctn(x.numpy(), axes=(-3, -2, -1), norm="ortho", workers=torch.get_num_threads()))


def eigen_pair(name: str, shape: tuple[int, ...]) -> Pair:
    """Eigenvalues of the channel covariance of a random latent whose channels differ in size."""
    x = _random(name, shape) * torch.logspace(0, -3, shape[1], dtype=torch.float64).view(-1, 1, 1, 1)
    return Pair(
        name=name,
        what=f"channel eigenvalues of latents {'x'.join(map(str, shape))}, float64",
        reference="ssvae.bench.naive.eigenspectrum_naive (SVD of all positions)",
        fast=lambda: eigenspectrum(x),
        naive=lambda: eigenspectrum_naive(x),
        difference=lambda: relative_difference(eigenspectrum(x), eigenspectrum_naive(x)),
        tolerance=1e-10,
    )


def _random(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch_generator(0, f"bench/{name}"), dtype=torch.float64)
