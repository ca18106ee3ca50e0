"""Everything that is measured of a VAE on held-out clips, in one place: reconstruction, latents, robustness, distances.

Two sweeps. The first (:meth:`Measurement.update`) sees each clip once, encodes and decodes it, and keeps its latent;
the second (inside :meth:`Measurement.finish`) goes over the latents alone, by the statistics of the whole set. Several
ranks take different clips and agree on the sums before anything is divided, so that they make the numbers of one.

Dimension legend
    B clips, 3 colours, T frames, H W pixels                video (B,3,T,H,W) in [-1, 1]
    C latent channels, F latent frames, h w latent pixels   latent (B,C,F,h,w), raw
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ssvae.core.ranks import ALONE, Ranks
from ssvae.core.seeds import torch_generator
from ssvae.core.types import MetricValue
from ssvae.metrics.band import Band
from ssvae.metrics.chopping import ChoppingCurve
from ssvae.metrics.feature_set import FeatureStatistics
from ssvae.metrics.frechet_metric import FrechetNetwork, frechet_metric
from ssvae.metrics.latent_values import labelled_curves
from ssvae.metrics.latents import LatentStatistics
from ssvae.metrics.mask_robustness import MaskRobustness
from ssvae.metrics.pictures import LatentPainter, enlarge
from ssvae.metrics.pixel_spectrum import PixelSpectrum
from ssvae.metrics.recon import ReconstructionStatistics
from ssvae.metrics.robustness import NoiseRobustness
from ssvae.models.autoencoder import Autoencoder
from ssvae.models.lpips import LPIPS
from ssvae.stats.local_corr import Window
from ssvae.stats.spectrum import Block, check_block, default_block

NOISE_SEED = 0
"""Every VAE of every table meets the same noise and the same masks: those of the clip's place in the list."""
RECONSTRUCTION_NAMES = {"fdd": "rfdd", "fvd": "rfvd"}


@dataclass(frozen=True, slots=True)
class MeasurementSettings:
    """window, windows: of the local correlation. block: of the latent's DCT. chop: shares of coefficients removed.
    noise: standard deviations in units of each channel's own. mask: shares of positions. downsample: of the baseline.
    Empty ``chop``, ``noise`` or ``mask`` leaves that curve out."""

    window: Window | None
    windows: tuple[Window, ...]
    block: Block | None
    chop: tuple[float, ...]
    noise: tuple[float, ...]
    mask: tuple[float, ...]
    downsample: int


@dataclass(frozen=True)
class Measured:
    """values, curves: content of ``metrics.json`` and ``curves.json``. clips: a row a window: key, PSNR, SSIM, LPIPS.
    panels: clips (3,T,H,3W) in [-1,1]: original, reconstruction, latent as colours. chopped: (3,2H,nW), see
    :meth:`ChoppingCurve.pictures`, None without that curve. left_out: metric -> why these clips do not have it."""

    values: list[MetricValue]
    curves: dict[str, dict[str, Any]]
    clips: list[dict[str, str | float]]
    panels: list[Tensor]
    chopped: Tensor | None
    left_out: Mapping[str, str]


class _Table(Protocol):
    """What holds a few numbers a clip."""

    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


class Measurement:
    """Measures ``vae`` on clips (T,H,W) = ``size``.

    mean, std (C,): of each latent channel over the training data, the unit of noise and the filling of masks. token:
    (1,C,1,1,1), LMR's, where the VAE was trained with it. lpips: networks by name. networks: of rFDD and rFVD. kept:
    how many of the first clips are kept as panels. Raises ValueError where a block or window does not fit.
    """

    def __init__(
        self,
        vae: Autoencoder,
        size: tuple[int, int, int],
        settings: MeasurementSettings,
        *,
        mean: Tensor,
        std: Tensor,
        token: Tensor | None = None,
        lpips: Mapping[str, LPIPS] | None = None,
        networks: Sequence[FrechetNetwork] = (),
        kept: int = 0,
    ) -> None:
        self._vae, self._size, self._kept_most = vae, size, kept
        self._latents = LatentStatistics(
            vae.channels, vae.latent_grid(*size), settings.block, settings.window, settings.windows
        )
        self._reconstruction = ReconstructionStatistics(settings.downsample, lpips)
        rgb_block = _pixel_block(size, self._latents.block)
        self._pixels = PixelSpectrum(size, rgb_block)
        self._chopping = ChoppingCurve(vae.decode, self._latents.block, rgb_block, (0.0, *settings.chop))
        self._noise = NoiseRobustness(vae.decode, std, (0.0, *settings.noise))
        self._masks = [MaskRobustness(vae.decode, mean, (0.0, *settings.mask))]
        if token is not None:
            self._masks.append(MaskRobustness(vae.decode, token.flatten(), (0.0, *settings.mask), fill_name="token"))
        self._asked = {"chop": bool(settings.chop), "noise": bool(settings.noise), "mask": bool(settings.mask)}
        self._networks = list(networks)
        self._features = [(FeatureStatistics(one.dim), FeatureStatistics(one.dim)) for one in networks]
        self._means: list[Tensor] = []
        self._keys: list[str] = []
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []

    @torch.no_grad()
    def update(self, video: Tensor, keys: Sequence[str], places: Sequence[int]) -> None:
        """Add a batch (B,3,T,H,W) in [-1,1] on the VAE's device. keys, places: each one's clip, and
        its place among all windows."""
        posterior = self._vae.encode(video)
        latent = posterior.mode()
        decoded = self._vae.decode(latent)
        self._latents.update(posterior)
        self._reconstruction.update(decoded, video)
        self._pixels.update(video)
        if self._asked["chop"]:
            self._chopping.update(video, latent, decoded)
        if self._asked["noise"]:
            draws = [torch.randn(latent.shape[1:], generator=_generator("noise", place)) for place in places]
            self._noise.update(latent, video, torch.stack(draws), decoded)
        for mask in self._masks if self._asked["mask"] else []:
            generators = [_generator("mask", place) for place in places]
            mask.update(latent, video, generators, decoded)
        for network, (real, made) in zip(self._networks, self._features, strict=True):
            real.update(network.features(video))
            made.update(network.features(decoded.clamp(-1, 1)))
        for row in range(min(len(video), self._kept_most - len(self._kept))):
            self._kept.append((video[row].cpu(), decoded[row].clamp(-1, 1).float().cpu(), latent[row].cpu()))
        self._means.append(latent.cpu())
        self._keys += keys

    @torch.no_grad()
    def finish(self, ranks: Ranks = ALONE) -> Measured:
        """The second sweep, and everything that came out, the same on every rank. Raises ValueError for no clips."""
        keys = [key for part in ranks.gather(self._keys) for key in part]
        if not keys:
            raise ValueError("no clip could be used: nothing can be measured")
        self._join(ranks)
        for mean in self._means:
            self._latents.correlate(mean)
        if ranks.world > 1:
            self._latents.join_correlation(ranks.gather(self._latents.state_dict()))
        report = self._latents.compute(keys)
        curves = labelled_curves({**report.curves, **self._pixels.curves()})
        values = [*self._reconstruction.compute(keys), *report.values, *self._pixels.compute()]
        for name, band in self._reconstruction.frame_curves(keys).items():
            curves[name] = _banded(torch.arange(len(band.mean)), band, "frame", name)
        if self._asked["chop"]:
            values += self._chopping.compute(keys)
            curves.update(labelled_curves(self._chopping.curves(keys)))
        values += self._robustness(keys, curves)
        for network, (real, made) in zip(self._networks, self._features, strict=True):
            values.append(frechet_metric(RECONSTRUCTION_NAMES[network.metric], real, made, network))
        return Measured(
            values=values,
            curves=curves,
            clips=self._reconstruction.rows(keys),
            panels=self._panels(report.channel_mean, report.channel_cov, ranks),
            chopped=self._chopping.pictures() if self._asked["chop"] else None,
            left_out=report.left_out,
        )

    def _robustness(self, keys: Sequence[str], curves: dict[str, dict[str, Any]]) -> list[MetricValue]:
        """Values of all levels above 0, and the curves from 0 on."""
        values: list[MetricValue] = []
        if self._asked["noise"]:
            values += [value for value in self._noise.compute(keys) if value.name != "psnr_noise_0_db"]
            levels, band = self._noise.curve(keys)
            curves["psnr_noise"] = _banded(levels, band, "noise in std of each channel", "PSNR in dB")
        for mask in self._masks if self._asked["mask"] else []:
            prefix = "psnr_masked" if mask.fill_name == "mean" else "psnr_token_masked"
            values += [value for value in mask.compute(keys) if value.name != f"{prefix}_0_db"]
            ratios, band = mask.curve(keys)
            curves[prefix] = _banded(ratios, band, "share of positions masked", "PSNR in dB")
        return values

    def _join(self, ranks: Ranks) -> None:
        """Every rank takes what all ranks have seen in the first sweep, in one order."""
        if ranks.world == 1:
            return
        for part in (self._latents, self._pixels, self._chopping):
            part.join(ranks.gather(part.state_dict()))
        tables: list[_Table] = [self._reconstruction, self._noise, *self._masks]
        for collected in tables:
            states = [state for state in ranks.gather(collected.state_dict()) if state]
            if states:
                collected.load_state_dict({name: torch.cat([state[name] for state in states]) for name in states[0]})
        self._features = [
            (
                FeatureStatistics.merged(ranks.gather(real.state_dict())),
                FeatureStatistics.merged(ranks.gather(made.state_dict())),
            )
            for real, made in self._features
        ]

    def _panels(self, mean: Tensor, cov: Tensor, ranks: Ranks) -> list[Tensor]:
        painter = LatentPainter(mean, cov)
        for latent in self._means:
            painter.update(latent)
        painter.join(ranks.gather(painter.state_dict()))
        return [
            torch.cat([video, decoded, enlarge(painter.paint(latent[None]), self._size)[0]], dim=-1)
            for video, decoded, latent in self._kept
        ]


def _pixel_block(size: tuple[int, int, int], latent: Block) -> Block:
    """The latent's block, so that both curves have the same indices, where it tiles the clip."""
    try:
        check_block(size, latent)
    except ValueError:
        return default_block(size)
    return latent


def _generator(what: str, place: int) -> torch.Generator:
    return torch_generator(NOISE_SEED, f"measure/{what}", place)


def _banded(x: Tensor, band: Band, x_label: str, y_label: str) -> dict[str, Any]:
    """A curve of ``curves.json`` with its 95 % interval where there is one."""
    curve: dict[str, Any] = {"x": x.tolist(), "y": band.mean.tolist(), "x_label": x_label, "y_label": y_label}
    if band.low is not None and band.high is not None:
        curve.update(low=band.low.tolist(), high=band.high.tolist())
    return curve
