"""Names and versions of how each number is made; a table refuses to mix two of them.

A version goes up by one whenever the same inputs would give another number.
"""

from __future__ import annotations

from ssvae.stats.spectrum import SPECTRUM_PROTOCOL, Block

PSNR_PROTOCOL = "psnr_clip/1;range=0-1;clamped;cap=100dB"
"""One mean squared error over the whole clip, on the [0,1] scale, reconstruction clamped."""
PSNR_FRAME_PROTOCOL = "psnr_frame/1;range=0-1;clamped;cap=100dB"
"""One mean squared error a frame, mean of the decibels over frames."""
SSIM_PROTOCOL = "ssim_frame/1;window=11;sigma=1.5;range=0-1;clamped"
"""Gaussian window, only where it fits wholly, per frame and colour, then averaged."""
EIGEN_PROTOCOL = "channel_eigenspectrum/1;latent=raw_mean"
"""Eigenvalues of the channel covariance of raw posterior means, every position of every clip."""
EIGEN_NORMALIZED_PROTOCOL = "channel_eigenspectrum/1;latent=normalized_mean"
"""The same of per-channel-normalised posterior means (the correlation matrix)."""
KL_PROTOCOL = "kl_per_dim/1;nats"
"""KL of the posterior to N(0,1) divided by the number of latent dimensions."""
POSTERIOR_STD_PROTOCOL = "posterior_std/1"
"""Mean over all latent dimensions of the posterior's standard deviation."""
ROBUSTNESS_PROTOCOL = "psnr_under_latent_noise/2;range=0-1;clamped;cap=100dB"
"""PSNR of decode(latent + s·latent_std·noise) against the original clip; since /2 each clip has a draw of its own."""


def local_correlation_protocol(window: tuple[int, int, int]) -> str:
    """Mean over clips of the local correlation, standardised by the statistics of the whole set."""
    return f"local_correlation/1;window={_sides(window)};statistics=set"


def spectrum_protocol(block: Block) -> str:
    """Spectrum definition, block, and the statistics that normalise it."""
    return f"{SPECTRUM_PROTOCOL};block={_sides(block)};statistics=set"


def _sides(sides: tuple[int, int, int]) -> str:
    return "x".join(str(side) for side in sides)
