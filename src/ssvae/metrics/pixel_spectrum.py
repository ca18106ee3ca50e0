"""The clip's own DCT spectrum, beside which the latent's can be read: does the encoder add or remove high frequencies?

Exactly the definition of the latent spectrum (stats/spectrum.py), on the video: colours are the channels, each
normalised by its own mean and standard deviation over the whole set; frame 0 is left out, as it is of latents; the
block is counted in pixels. Give the latent's block, so that both curves have the same indices: a block then covers less
of the picture in pixels than in latents, by the compression, and a natural clip is smooth at that scale.

Dimension legend: B clips, 3 colours, T frames, H W pixels    video (B,3,T,H,W) in [-1,1];  t h w block in pixels
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ssvae.core.shapes import check_ndim
from ssvae.core.types import MetricValue
from ssvae.metrics.latent_values import Curve, spectrum_curves, spectrum_values
from ssvae.stats.moments import StreamingMoments, channel_moments
from ssvae.stats.spectrum import Block, Spectrum, SpectrumAccumulator, check_block

COLOURS = 3
PREFIX = "rgb_"


class PixelSpectrum:
    """Spectrum of clips (B,3,T,H,W), in one sweep, merged over batches and ranks.

    grid: (T,H,W) of every clip; block: (t,h,w) in pixels. Raises ValueError when the block does not tile the frames
    after frame 0 (t = 1 for pictures).
    """

    def __init__(self, grid: tuple[int, int, int], block: Block) -> None:
        check_block(grid, block)
        self.grid = (int(grid[0]), int(grid[1]), int(grid[2]))
        self.block = block
        self._moments = StreamingMoments(COLOURS)
        self._spectrum = SpectrumAccumulator(COLOURS, block)

    @torch.no_grad()
    def update(self, video: Tensor) -> None:
        """Add a batch of clips. Raises ValueError for another size or non-finite values."""
        check_ndim("video", video.shape, 5, "(B,3,T,H,W)")
        if tuple(video.shape[2:]) != self.grid:
            raise ValueError(f"a clip (T,H,W) = {tuple(video.shape[2:])} differs from {self.grid}: one size a spectrum")
        channel_moments(video, self._moments)
        self._spectrum.update(video)

    def merge(self, other: PixelSpectrum) -> None:
        """Add what ``other`` has seen. Raises ValueError for another size or block."""
        if (other.grid, other.block) != (self.grid, self.block):
            raise ValueError(
                f"cannot merge a spectrum of clips {other.grid}, block {other.block} into {self.grid}, {self.block}"
            )
        self._moments.merge(other._moments)
        self._spectrum.merge(other._spectrum)

    def join(self, states: list[dict[str, Any]]) -> None:
        """Become the merge of all ranks: ``states`` are their :meth:`state_dict`, in one order on every rank."""
        total = PixelSpectrum(self.grid, self.block)
        for state in states:
            part = PixelSpectrum(self.grid, self.block)
            part.load_state_dict(state)
            total.merge(part)
        self.load_state_dict(total.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Plain state, for another process to load."""
        return {"moments": self._moments.state_dict(), "spectrum": self._spectrum.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned. Raises ValueError for another block."""
        self._moments.load_state_dict(state["moments"])
        self._spectrum.load_state_dict(state["spectrum"])

    def spectrum(self) -> Spectrum:
        """The spectrum itself. Raises ValueError before the first clip."""
        return self._spectrum.compute(self._moments.mean, self._moments.std)

    def compute(self) -> list[MetricValue]:
        """``rgb_dct_dc_share``, ``rgb_dct_high_share`` and the other shares that latents have."""
        return spectrum_values(self.spectrum(), PREFIX, ";of=rgb")

    def curves(self) -> dict[str, Curve]:
        """``rgb_dct_spectrum``, ``rgb_dct_temporal``, ``rgb_dct_spatial``."""
        return spectrum_curves(self.spectrum(), PREFIX)
