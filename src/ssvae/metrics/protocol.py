"""Names and versions of how each number is made; a table refuses to mix two of them.

A version goes up by one whenever the same inputs would give another number.
"""

from __future__ import annotations

from collections.abc import Sequence

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
CHOP_PROTOCOL = "psnr_chopped/1;range=0-1;clamped;cap=100dB"
"""PSNR after the last coefficients of every DCT block are set to 0; append of what, block, fraction and count."""
MODE_STRENGTH_PROTOCOL = "mode_strength/1;own_derivation;latent=normalized_mean"
"""Singular values of E[velocity · inputᵀ] on the channel correlation; a derivation of this project."""


def viv_protocol(factors: Sequence[str]) -> str:
    """Irreducible variance of the velocity per dimension, Gaussian latents, covariance fitted in one round."""
    names = "*".join(("channel", *factors))
    return f"viv/1;latent=normalized_mean;classes=1;covariance={names};flip_flop_rounds=1"


def local_correlation_protocol(window: tuple[int, int, int]) -> str:
    """Mean over clips of the local correlation, standardised by the statistics of the whole set."""
    return f"local_correlation/1;window={_sides(window)};statistics=set"


def spectrum_protocol(block: Block) -> str:
    """Spectrum definition, block, and the statistics that normalise it."""
    return f"{SPECTRUM_PROTOCOL};block={_sides(block)};statistics=set"


def spectrum_share_protocol(block: Block, axes: str, rho: float) -> str:
    """The spectrum, and the cut in which axes' frequencies the share counts."""
    return f"{spectrum_protocol(block)};axes={axes};rho={rho:g}"


def chop_protocol(of: str, block: Block, fraction: float, count: int) -> str:
    """of: ``latent`` or ``rgb``. count: coefficients that a block of the later frames loses."""
    return f"{CHOP_PROTOCOL};of={of};block={_sides(block)};fraction={fraction:g};removed={count}"


def _sides(sides: tuple[int, int, int]) -> str:
    return "x".join(str(side) for side in sides)
