"""PSNR and SSIM of one clip whose frames come a few at a time; the definitions of :mod:`ssvae.metrics.recon`.

Dimension legend
    1 clip, 3 colours, t frames of a piece, T frames in all, H W pixels    video, recon (1,3,t,H,W), float, [-1,1]
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssvae.core.types import MetricValue
from ssvae.metrics.protocol import PSNR_FRAME_PROTOCOL, PSNR_PROTOCOL, SSIM_PROTOCOL
from ssvae.metrics.recon import PSNR_CAP, SSIM_WINDOW, psnr_frames, ssim_frames


class ClipQuality:
    """Collects two float64 numbers a frame; what it says does not depend on how the frames were cut into pieces.

    A clip with a side below 11 pixels has no SSIM: the window does not fit.
    """

    def __init__(self) -> None:
        self._decibels: list[float] = []
        self._ssim: list[float] = []

    @torch.no_grad()
    def update(self, recon: Tensor, video: Tensor) -> None:
        """Add t frames, (1,3,t,H,W) both; ``recon`` is clamped to [-1,1] as any display does."""
        video = video.to(recon.device)
        # Frame by frame: the float64 planes of SSIM are many times larger than the frames.
        for shown, truth in zip(recon.clamp(-1, 1).split(1, dim=2), video.split(1, dim=2), strict=True):
            self._decibels.append(float(psnr_frames(shown, truth)))
            if min(truth.shape[-2:]) >= SSIM_WINDOW:
                self._ssim.append(float(ssim_frames(shown, truth)))

    @property
    def frames(self) -> int:
        """Frames seen."""
        return len(self._decibels)

    def curves(self) -> dict[str, list[float]]:
        """``psnr_frame_db`` (capped at 100 dB) and, where it exists, ``ssim_frame``: one value a frame."""
        curves = {"psnr_frame_db": [min(value, PSNR_CAP) for value in self._decibels]}
        return {**curves, "ssim_frame": list(self._ssim)} if self._ssim else curves

    def compute(self) -> list[MetricValue]:
        """``psnr_db`` (one error over the whole clip), ``psnr_frame_db`` (mean of the frames') and ``ssim``.

        Raises ValueError before any frame.
        """
        if not self._decibels:
            raise ValueError("no frames yet: call update first")
        decibels = torch.tensor(self._decibels, dtype=torch.float64)
        # Frames have equally many pixels: the clip's squared error is the mean of the frames'.
        clip = -10 * torch.log10(torch.pow(10, -decibels / 10).mean())
        values = [
            ("psnr_db", float(clip.clamp_max(PSNR_CAP)), "dB", PSNR_PROTOCOL),
            ("psnr_frame_db", float(decibels.clamp_max(PSNR_CAP).mean()), "dB", PSNR_FRAME_PROTOCOL),
        ]
        if self._ssim:
            values.append(("ssim", sum(self._ssim) / len(self._ssim), "1", SSIM_PROTOCOL))
        return [MetricValue(name, value, unit, "up", 1, None, protocol) for name, value, unit, protocol in values]
