"""Metrics and curves from the statistics of a latent space: what each is called, and the axes it is drawn on.

:class:`ssvae.metrics.latents.LatentStatistics` gathers, this file names. Descriptive numbers of the whole set have no
interval over clips.

Dimension legend: C channels; eigenvalues (C,), raw or of per-channel-normalised latents; curves x, y (n,).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ssvae.core.types import MetricValue
from ssvae.metrics.protocol import (
    EIGEN_NORMALIZED_PROTOCOL,
    EIGEN_PROTOCOL,
    MODE_STRENGTH_PROTOCOL,
    spectrum_protocol,
    spectrum_share_protocol,
    viv_protocol,
)
from ssvae.stats.channels import explained_variance, participation_ratio
from ssvae.stats.cross_correlation import (
    EQUAL_TIME,
    flow_mode_strengths,
    flow_mode_strengths_over_time,
    vp_mode_strengths,
)
from ssvae.stats.spectrum import HIGH_SHARE_CUT, Spectrum
from ssvae.stats.viv import VelocityVariance

EXPLAINED_AT = (1, 2, 4, 8, 16, 32)
"""Numbers of modes at which the explained variance is a metric; with fewer channels the share is 1."""
ABOVE = (0.25, 0.75)
"""Cuts rho of ``dct_above_{100·rho}``; ``dct_high_share`` is the one at 0.5."""

Curve = tuple[Tensor, Tensor]

CURVE_LABELS: dict[str, tuple[str, str]] = {
    "dct_spectrum": ("zigzag index", "share of energy"),
    "dct_temporal": ("temporal frequency i", "share of energy"),
    "dct_spatial": ("spatial frequency j+k", "share of energy"),
    "rgb_dct_spectrum": ("zigzag index", "share of energy"),
    "rgb_dct_temporal": ("temporal frequency i", "share of energy"),
    "rgb_dct_spatial": ("spatial frequency j+k", "share of energy"),
    "eigenspectrum": ("mode", "eigenvalue"),
    "eigenspectrum_normalized": ("mode", "eigenvalue"),
    "explained_variance": ("modes k", "cumulative share"),
    "explained_variance_normalized": ("modes k", "cumulative share"),
    "mode_strength_flow": ("mode", "strength at t = 1/2"),
    "mode_strength_flow_time_mean": ("mode", "mean strength over t"),
    "mode_strength_vp": ("mode", "strength at α = σ"),
    "kl_per_channel": ("channel, sorted", "KL per dimension in nat"),
    "psnr_chop_latent": ("share of coefficients removed", "PSNR in dB"),
    "psnr_chop_latent_reconstruction": ("share of coefficients removed", "PSNR to the reconstruction in dB"),
    "psnr_chop_rgb": ("share of coefficients removed", "PSNR in dB"),
    "psnr_frame_db": ("frame", "PSNR in dB"),
    "ssim_frame": ("frame", "SSIM"),
}
"""Axes of every curve that measuring writes: name -> (x label, y label)."""


def labelled_curves(curves: Mapping[str, Curve]) -> dict[str, dict[str, Any]]:
    """The content of ``curves.json``: each curve's numbers as lists, with ``x_label`` and ``y_label``.

    A name that :data:`CURVE_LABELS` does not hold is drawn as it is called over "index".
    """
    found = {}
    for name, (x, y) in curves.items():
        x_label, y_label = CURVE_LABELS.get(name, ("index", name))
        found[name] = {"x": x.tolist(), "y": y.tolist(), "x_label": x_label, "y_label": y_label}
    return found


def plain(name: str, value: float, n: int, protocol: str) -> MetricValue:
    """A descriptive number of the whole set of ``n`` clips: no interval over clips exists."""
    return MetricValue(name, float(value), "1", "none", n, None, protocol)


def spectrum_values(spectrum: Spectrum, prefix: str = "", of: str = "") -> list[MetricValue]:
    """Shares of DCT energy of a spectrum. prefix: of every name. of: what else than latents, for the protocol.

    ``dct_dc_share``; ``dct_high_share`` (i+j+k above half of the largest); ``dct_above_{25,75}`` (above that share of
    the largest); ``dct_spatial_high_share`` (j+k above half), ``dct_temporal_high_share`` (i above half).
    """
    block, clips = spectrum.block, spectrum.clips
    whole = spectrum_protocol(block) + of
    rows = [
        ("dct_dc_share", spectrum.dc_share, whole),
        ("dct_high_share", spectrum.high_share, whole),
        *(
            (f"dct_above_{100 * rho:g}", spectrum.above(rho), spectrum_share_protocol(block, "txhxw", rho) + of)
            for rho in ABOVE
        ),
        (
            "dct_spatial_high_share",
            spectrum.spatial_above(HIGH_SHARE_CUT),
            spectrum_share_protocol(block, "hxw", HIGH_SHARE_CUT) + of,
        ),
        (
            "dct_temporal_high_share",
            spectrum.temporal_above(HIGH_SHARE_CUT),
            spectrum_share_protocol(block, "t", HIGH_SHARE_CUT) + of,
        ),
    ]
    return [plain(prefix + name, value, clips, protocol) for name, value, protocol in rows]


def spectrum_curves(spectrum: Spectrum, prefix: str = "") -> dict[str, Curve]:
    """``dct_spectrum``, ``dct_temporal``, and ``dct_spatial``: the spatial marginal folded over j+k."""
    h, w = spectrum.spatial.shape
    degree = torch.arange(h)[:, None] + torch.arange(w)[None, :]
    folded = torch.zeros(h + w - 1, dtype=torch.float64).index_add_(0, degree.flatten(), spectrum.spatial.flatten())
    curves = {"dct_spectrum": spectrum.curve, "dct_temporal": spectrum.temporal, "dct_spatial": folded}
    return {prefix + name: (torch.arange(len(y), dtype=torch.float64), y) for name, y in curves.items()}


def eigen_values(raw: Tensor, normalized: Tensor, clips: int) -> list[MetricValue]:
    """``explained_variance_k`` and ``participation_ratio`` of both eigenspectra, the second with ``_normalized``."""
    return [
        *_shares(raw, "", clips, EIGEN_PROTOCOL),
        *_shares(normalized, "_normalized", clips, EIGEN_NORMALIZED_PROTOCOL),
    ]


def mode_strength_values(normalized: Tensor, clips: int) -> list[MetricValue]:
    """Largest and mean strength over modes, of flow matching at t = 1/2 (and its mean over t), and of a VP path at
    α = σ. The two paths agree at these points, by algebra; protocol and derivation: stats/cross_correlation.py."""
    flow, vp = flow_mode_strengths(normalized), vp_mode_strengths(normalized)
    over_time = flow_mode_strengths_over_time(normalized)
    at = f"{MODE_STRENGTH_PROTOCOL};path=flow;t={EQUAL_TIME:g}"
    equal = f"{MODE_STRENGTH_PROTOCOL};path=vp;alpha^2=0.5"
    rows = [
        ("mode_strength_flow_max", flow.max(), at),
        ("mode_strength_flow_mean", flow.mean(), at),
        ("mode_strength_flow_time_mean", over_time.mean(), f"{MODE_STRENGTH_PROTOCOL};path=flow;t=mean"),
        ("mode_strength_vp_max", vp.max(), equal),
        ("mode_strength_vp_mean", vp.mean(), equal),
    ]
    return [plain(name, float(value), clips, protocol) for name, value, protocol in rows]


def viv_values(variance: VelocityVariance) -> list[MetricValue]:
    """``viv``: irreducible variance of the velocity per dimension, at most about π/2."""
    positions = [name for name in variance.factors if name != "channel"]
    return [plain("viv", variance.per_dimension, variance.clips, viv_protocol(positions))]


def channel_curves(raw: Tensor, normalized: Tensor, kl: Tensor) -> dict[str, Curve]:
    """Eigenspectra, explained variance and mode strengths over modes; kl (C,): nats of each channel, in any order."""
    modes = torch.arange(1, len(raw) + 1, dtype=torch.float64)
    curves = {
        "eigenspectrum": raw,
        "explained_variance": explained_variance(raw),
        "explained_variance_normalized": explained_variance(normalized),
        "eigenspectrum_normalized": normalized,
        "mode_strength_flow": flow_mode_strengths(normalized),
        "mode_strength_flow_time_mean": flow_mode_strengths_over_time(normalized),
        "mode_strength_vp": vp_mode_strengths(normalized),
        "kl_per_channel": kl.sort(descending=True).values,
    }
    return {name: (modes, y) for name, y in curves.items()}


def _shares(eigenvalues: Tensor, suffix: str, clips: int, protocol: str) -> list[MetricValue]:
    shares = explained_variance(eigenvalues)
    rows = [
        plain(f"explained_variance_{k}{suffix}", float(shares[min(k, len(shares)) - 1]), clips, protocol)
        for k in EXPLAINED_AT
    ]
    ratio = participation_ratio(eigenvalues)
    return [*rows, plain(f"participation_ratio{suffix}", ratio, clips, protocol)]
