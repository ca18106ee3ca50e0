"""Reconstruction quality: PSNR, SSIM and LPIPS per clip and per frame, and what trivial codecs would score.

Dimension legend
    B clips, 3 colours, T frames, H W pixels     video, recon (B,3,T,H,W), float, [-1,1]
PSNR and SSIM are made in float64 on the [0,1] scale, which equals a data range of 2 on [-1,1]; LPIPS is what its
float32 network says of [-1,1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ssvae.core.shapes import check_ndim
from ssvae.core.types import MetricValue
from ssvae.metrics.band import Band, band_from_samples
from ssvae.metrics.interval import metric_from_samples
from ssvae.metrics.protocol import PSNR_FRAME_PROTOCOL, PSNR_PROTOCOL, SSIM_PROTOCOL
from ssvae.models.lpips import LPIPS

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
"""Constants of Wang et al. 2004 for a data range of 1."""

LPIPS_PROTOCOL = "1;range=-1-1;clamped;mean_of=frames"
"""Behind ``lpips_vgg/`` and ``lpips_alex/``."""
PSNR_CAP = 100.0
"""Averages count a PSNR as at most this, in dB: one exact clip (infinite PSNR) must not hide all others."""

LPIPS_FRAMES = 8
"""Frames that LPIPS looks at together: bounds its memory, whatever the batch and the clip's length."""


def psnr(recon: Tensor, video: Tensor) -> Tensor:
    """PSNR of every clip (B,) in dB from one mean squared error over the whole clip; inf for equal clips.

    Values are taken as they are; clamp a reconstruction to [-1,1] first, as :func:`clip_report` does.
    Raises ValueError for shapes that differ.
    """
    return _decibels(_squared_error(recon, video).mean((1, 2, 3, 4)))


def psnr_frames(recon: Tensor, video: Tensor) -> Tensor:
    """PSNR of every frame (B,T) in dB, one mean squared error each; inf for equal frames."""
    return _decibels(_squared_error(recon, video).mean((1, 3, 4)))


def ssim(recon: Tensor, video: Tensor) -> Tensor:
    """SSIM of every clip (B,): mean over frames, colours and all places where the 11 x 11 window fits.

    Gaussian window with sigma 1.5 (Wang et al. 2004), data on [0,1], population variances, borders left out
    as in the original (some libraries pad by reflection and average the border too: about 0.001 apart). Raises
    ValueError for shapes that differ or frames smaller than 11 pixels.
    """
    return ssim_frames(recon, video).mean(1)


def ssim_frames(recon: Tensor, video: Tensor) -> Tensor:
    """SSIM of every frame (B,T); see :func:`ssim`."""
    _check_pair(recon, video)
    height, width = video.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM uses a window of {SSIM_WINDOW} pixels, the frames are {height} x {width}: measure larger clips"
        )
    # Clip by clip: five float64 planes of a large clip are needed at once.
    pairs = zip(recon.split(1), video.split(1), strict=True)
    return torch.cat([_ssim_of_clip((a.double() + 1) / 2, (b.double() + 1) / 2) for a, b in pairs])


@torch.no_grad()
def lpips_frames(network: LPIPS, recon: Tensor, video: Tensor) -> Tensor:
    """LPIPS of every frame (B,T), float64. Clip by clip, so that a number does not depend on the batch.

    network: on the device of the clips. Raises ValueError for shapes that differ or frames too small for the network.
    """
    _check_pair(recon, video)
    rows = []
    for one, other in zip(recon.float().split(1), video.float().split(1), strict=True):
        pieces = zip(one.split(LPIPS_FRAMES, dim=2), other.split(LPIPS_FRAMES, dim=2), strict=True)
        rows.append(torch.cat([network(a, b).double().flatten(1) for a, b in pieces], dim=1))
    return torch.cat(rows)


def lpips_protocol(network: LPIPS) -> str:
    """Variant and weights (trunk+heads): two sets of weights never share a table."""
    return f"lpips_{network.net}/{LPIPS_PROTOCOL};weights={network.stamp}"


def mean_colour(video: Tensor) -> Tensor:
    """Every clip replaced by its mean colour, same shape: the reconstruction of a codec that keeps 3 numbers."""
    check_ndim("video", video.shape, 5, "(B,3,T,H,W)")
    return video.mean((2, 3, 4), keepdim=True).expand_as(video)


def down_and_up(video: Tensor, factor: int) -> Tensor:
    """Every frame shrunk ``factor`` times (bilinear, antialiased) and enlarged again (bilinear), same shape.

    Raises ValueError when the factor is below 1 or does not divide height and width.
    """
    check_ndim("video", video.shape, 5, "(B,3,T,H,W)")
    batch, colours, frames, height, width = video.shape
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"down-sampling factor {factor} must be at least 1 and divide {height} x {width}")
    flat = video.transpose(1, 2).reshape(batch * frames, colours, height, width)
    small = F.interpolate(
        flat, size=(height // factor, width // factor), mode="bilinear", antialias=True, align_corners=False
    )
    large = F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
    return large.view(batch, frames, colours, height, width).transpose(1, 2)


def clip_report(
    recon: Tensor, video: Tensor, down_factor: int = 4, lpips: Mapping[str, LPIPS] | None = None
) -> dict[str, Tensor]:
    """All reconstruction numbers of a batch, the reconstruction clamped to [-1,1] as any display does.

    Each clip: ``psnr_db``, ``psnr_mean_colour_db``, ``psnr_down{k}_db``, ``ssim``, all (B,); each frame:
    ``psnr_frame_db``, ``ssim_frame``, (B,T). PSNR is capped at 100 dB. lpips: networks by name ("vgg", "alex"); each
    adds ``lpips_{name}`` (B,), the mean over frames, and ``lpips_{name}_frame`` (B,T). Raises ValueError as the parts
    do.
    """
    shown = recon.clamp(-1, 1)
    frames_ssim = ssim_frames(shown, video)
    report = {
        "psnr_db": psnr(shown, video).clamp_max(PSNR_CAP),
        "psnr_frame_db": psnr_frames(shown, video).clamp_max(PSNR_CAP),
        "ssim": frames_ssim.mean(1),
        "ssim_frame": frames_ssim,
        "psnr_mean_colour_db": psnr(mean_colour(video.double()), video).clamp_max(PSNR_CAP),
        f"psnr_down{down_factor}_db": psnr(down_and_up(video.double(), down_factor), video).clamp_max(PSNR_CAP),
    }
    for name, network in (lpips or {}).items():
        distances = lpips_frames(network, shown, video)
        report[f"lpips_{name}"] = distances.mean(1)
        report[f"lpips_{name}_frame"] = distances
    return report


class ReconstructionStatistics:
    """Collects :func:`clip_report` over batches, merges over ranks, and turns it into metrics.

    Clips must all have the same number of frames. Only a few float64 numbers a frame are kept. lpips: networks by name
    ("vgg", "alex") on the device of the clips; none, no LPIPS.
    """

    def __init__(self, down_factor: int = 4, lpips: Mapping[str, LPIPS] | None = None) -> None:
        self.down_factor = down_factor
        self._lpips = dict(lpips or {})
        for name, network in self._lpips.items():
            if network.net != name:
                raise ValueError(f"LPIPS network {name!r} is of the variant {network.net!r}: name it so")
        self._reports: list[dict[str, Tensor]] = []

    @torch.no_grad()
    def update(self, recon: Tensor, video: Tensor) -> None:
        """Add a batch; recon, video (B,3,T,H,W)."""
        report = clip_report(recon, video, self.down_factor, self._lpips)
        self._reports.append({name: values.cpu() for name, values in report.items()})

    def merge(self, other: ReconstructionStatistics) -> None:
        """Add what ``other`` has seen. Raises ValueError for another down-sampling factor or other LPIPS networks."""
        if other.down_factor != self.down_factor:
            raise ValueError(f"cannot merge baselines of factor {other.down_factor} and {self.down_factor}")
        mine, theirs = self._protocols(), other._protocols()
        if mine != theirs:
            raise ValueError(f"cannot merge LPIPS {theirs} into {mine}: load the same weight files everywhere")
        self._reports.extend(other._reports)

    def per_clip(self) -> dict[str, Tensor]:
        """Every number of every clip, in the order they came; see :func:`clip_report`."""
        if not self._reports:
            raise ValueError("no clips yet: call update first")
        return {name: torch.cat([report[name] for report in self._reports]) for name in self._reports[0]}

    def state_dict(self) -> dict[str, Tensor]:
        """What another process needs to go on: :meth:`per_clip`, empty before the first clip."""
        return self.per_clip() if self._reports else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace what was seen by what :meth:`state_dict` gave; the networks must be the same."""
        self._reports = [dict(state)] if state else []

    def rows(self, keys: Sequence[str]) -> list[dict[str, str | float]]:
        """One row a window, in the order they came: ``key``, ``psnr_db``, ``ssim``, ``lpips_{name}``.

        keys: the clip of each window; a clip with several windows has several rows. Raises ValueError unless each
        window names its clip.
        """
        clips = self.per_clip()
        if len(keys) != len(clips["psnr_db"]):
            raise ValueError(f"{len(clips['psnr_db'])} clips but {len(keys)} keys: name the clip of each window")
        columns = {name: clips[name].tolist() for name in ("psnr_db", "ssim", *self._protocols())}
        return [
            {"key": key, **{name: column[place] for name, column in columns.items()}} for place, key in enumerate(keys)
        ]

    def compute(self, keys: Sequence[str] | None = None) -> list[MetricValue]:
        """``psnr_db``, ``psnr_frame_db``, ``ssim``, the two baselines and ``lpips_{name}``: means over clips with 95 %
        intervals.

        keys: the clip of each window, where a clip gave several.
        """
        clips = self.per_clip()
        frames, down = clips["psnr_frame_db"].mean(1), f"psnr_down{self.down_factor}_db"
        of_down = f"{PSNR_PROTOCOL};of=bilinear_down_up_{self.down_factor}"
        of_mean = f"{PSNR_PROTOCOL};of=mean_colour"
        mean = "psnr_mean_colour_db"
        return [
            metric_from_samples("psnr_db", clips["psnr_db"], "dB", "up", PSNR_PROTOCOL, keys),
            metric_from_samples("psnr_frame_db", frames, "dB", "up", PSNR_FRAME_PROTOCOL, keys),
            metric_from_samples("ssim", clips["ssim"], "1", "up", SSIM_PROTOCOL, keys),
            metric_from_samples(mean, clips[mean], "dB", "none", of_mean, keys),
            metric_from_samples(down, clips[down], "dB", "none", of_down, keys),
            *(
                metric_from_samples(name, clips[name], "1", "down", protocol, keys)
                for name, protocol in self._protocols().items()
            ),
        ]

    def curves(self) -> dict[str, Tensor]:
        """Means over clips for every frame, (T,): ``psnr_frame_db``, ``ssim_frame``, ``lpips_{name}_frame``."""
        clips = self.per_clip()
        return {name: clips[name].mean(0) for name in self._frame_names()}

    def frame_curves(self, keys: Sequence[str] | None = None) -> dict[str, Band]:
        """The curves of :meth:`curves` with their 95 % intervals over clips, frame by frame; keys as in
        :meth:`compute`."""
        clips = self.per_clip()
        return {name: band_from_samples(clips[name], keys) for name in self._frame_names()}

    def _frame_names(self) -> list[str]:
        return ["psnr_frame_db", "ssim_frame", *(f"{name}_frame" for name in self._protocols())]

    def _protocols(self) -> dict[str, str]:
        """Metric name -> protocol of each LPIPS network."""
        return {f"lpips_{name}": lpips_protocol(network) for name, network in self._lpips.items()}


def _squared_error(recon: Tensor, video: Tensor) -> Tensor:
    _check_pair(recon, video)
    return ((recon.double() - video.double()) / 2).square()


def _decibels(error: Tensor) -> Tensor:
    return -10 * torch.log10(error)


def _check_pair(recon: Tensor, video: Tensor) -> None:
    check_ndim("video", video.shape, 5, "(B,3,T,H,W)")
    if recon.shape != video.shape:
        raise ValueError(f"reconstruction {tuple(recon.shape)} and video {tuple(video.shape)} must have one shape")


@lru_cache(maxsize=16)
def _gaussian_rows(size: int, device: torch.device) -> Tensor:
    """Matrix (size - 10, size) that applies the window along one axis where it fits, float64."""
    taps = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    weights = torch.exp(-taps.square() / (2 * SSIM_SIGMA**2))
    weights = weights / weights.sum()
    rows = torch.zeros(size - SSIM_WINDOW + 1, size, dtype=torch.float64)
    for row in range(rows.shape[0]):
        rows[row, row : row + SSIM_WINDOW] = weights
    return rows.to(device)


def _ssim_of_clip(a: Tensor, b: Tensor) -> Tensor:
    """SSIM (1,T) of clips (1,3,T,H,W) on [0,1]."""
    vertical, horizontal = _gaussian_rows(a.shape[-2], a.device), _gaussian_rows(a.shape[-1], a.device)

    def blur(x: Tensor) -> Tensor:
        return vertical @ (x @ horizontal.T)

    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (mean_a**2 + mean_b**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variance_a + variance_b + SSIM_C2)
    return (luminance * structure).mean((1, 3, 4))
