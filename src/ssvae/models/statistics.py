"""Per-channel mean and std of a VAE's latents, and what they were measured on: the record that travels with weights.

The numbers that ``normalize`` uses are the buffers ``latent_mean`` and ``latent_std`` of the VAE; the record beside the
weights (``latent_statistics.json``) says where they come from, and the two must agree.

Dimension legend: B clips, T frames, H W pixels, C latent channels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssvae.core.files import write_json
from ssvae.models.autoencoder import Autoencoder
from ssvae.models.vae import VideoVAE
from ssvae.stats.moments import StreamingMoments, channel_moments

STATISTICS_FILE = "latent_statistics.json"
FORMAT = "ssvae-latent-statistics/1"
PROTOCOL = "latent_statistics/1;latent=raw_mean;std=unbiased"
"""Mean and standard deviation over every position of the posterior means of all windows, float64."""
UNKNOWN = "unknown"
"""Protocol of numbers that came without a record."""
PUBLISHED = "as published"
"""Protocol of numbers that were published with the weights, measured by their authors."""
_COUNTS = ("clips", "positions", "frames", "height", "width")
_TEXTS = ("fingerprint", "split")
RELEASED_48 = Path(__file__).parent / "assets" / "latent_stats_48.json"
"""Published constants of the released 48-channel model; the source is inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentStatistics:
    """Statistics of raw latents (posterior means) with their provenance; None where it is not known.

    mean, std: (C,), std > 0. data: name of the data, or where published numbers were published. fingerprint: of the
    data's content. split: which clips of it. clips: windows measured. positions: latent positions behind each number.
    frames, height, width, fps: the window. Raises ValueError for values that are no such statistics.
    """

    protocol: str
    data: str
    fingerprint: str | None = None
    split: str | None = None
    clips: int | None = None
    positions: int | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: float | None = None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not values or not all(_is_number(value) for value in values):
                raise ValueError(f"latent statistics: {name} must be finite numbers, one a channel")
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise ValueError(f"latent statistics: {len(self.mean)} means need as many stds, each above 0")
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"latent statistics: {name} must be a count or null, got {value!r}")
        if self.fps is not None and not (_is_number(self.fps) and self.fps > 0):
            raise ValueError(f"latent statistics: fps must be above 0 or null, got {self.fps!r}")
        texts = [(name, getattr(self, name)) for name in ("protocol", "data", *_TEXTS)]
        for name, value in texts:
            if not isinstance(value, str) and not (value is None and name in _TEXTS):
                raise ValueError(f"latent statistics: {name} must be text, got {value!r}")

    @classmethod
    def unrecorded(cls, vae: Autoencoder) -> LatentStatistics:
        """The numbers that ``vae`` carries, of which nobody wrote down where they come from."""
        mean, std = vae.latent_mean.double().cpu(), vae.latent_std.double().cpu()
        return cls(mean=tuple(mean.tolist()), std=tuple(std.tolist()), protocol=UNKNOWN, data=UNKNOWN)

    @property
    def is_identity(self) -> bool:
        """Whether normalising by these numbers changes nothing."""
        return all(value == 0 for value in self.mean) and all(value == 1 for value in self.std)

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Mean and std, (C,) float32 each: what the buffers of a VAE hold."""
        return torch.tensor(self.mean, dtype=torch.float32), torch.tensor(self.std, dtype=torch.float32)

    def apply(self, vae: VideoVAE) -> None:
        """Make ``vae`` normalise by these numbers. Raises ValueError for another number of channels."""
        vae.set_latent_statistics(*self.tensors)

    def check(self, vae: Autoencoder) -> None:
        """ValueError unless these are the numbers that ``vae`` normalises by."""
        for name, told, used in zip(("mean", "std"), self.tensors, (vae.latent_mean, vae.latent_std), strict=True):
            if not torch.equal(told, used.detach().cpu()):
                raise ValueError(f"the recorded latent {name} is not what the weights hold (latent_{name})")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-ready dictionary, what ``latent_statistics.json`` holds."""
        return {"format": FORMAT, **asdict(self)}


@torch.no_grad()
def measure_statistics(
    vae: Autoencoder,
    videos: Iterable[Tensor],
    *,
    fps: float,
    data: str,
    fingerprint: str,
    split: str,
    advance: Callable[[int], object] | None = None,
) -> LatentStatistics:
    """Statistics of the posterior means of ``videos``, batches (B,3,T,H,W) in [-1, 1] of one T, H and W; streamed.

    fps, data, fingerprint, split: what the record is to say of them. advance: told the number of clips so far.
    Raises ValueError for no clip at all, a channel that does not vary, and non-finite latents.
    """
    moments = StreamingMoments(vae.channels)
    clips, window = 0, (0, 0, 0)
    for video in videos:
        channel_moments(vae.encode(video.to(vae.latent_mean.device)).mode(), moments)
        clips, window = clips + video.shape[0], (video.shape[2], video.shape[3], video.shape[4])
        if advance is not None:
            advance(clips)
    if not clips:
        raise ValueError(f"no clip of {data} could be used to measure latent statistics on")
    std = moments.std
    if not bool((std > 0).all()):
        dead = torch.nonzero(std <= 0).flatten().tolist()
        raise ValueError(f"latent channels {dead} are constant on {data}: no std to divide them by")
    return LatentStatistics(
        mean=tuple(moments.mean.tolist()),
        std=tuple(std.tolist()),
        protocol=PROTOCOL,
        data=data,
        fingerprint=fingerprint,
        split=split,
        clips=clips,
        positions=moments.count,
        frames=window[0],
        height=window[1],
        width=window[2],
        fps=float(fps),
    )


def write_statistics(path: Path, statistics: LatentStatistics) -> None:
    """Write the record to ``path``, whole or not at all."""
    write_json(path, statistics.to_json())


def read_statistics(path: Path) -> LatentStatistics:
    """Read a record. Raises ValueError, naming the file, for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    known = {field.name for field in fields(LatentStatistics)}
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} does not say format {FORMAT!r}: it is no record of latent statistics")
    values = {key: value for key, value in content.items() if key != "format"}
    if values.keys() != known:
        raise ValueError(f"{path}: keys {sorted(values.keys() ^ known)} are unknown or missing")
    for name in ("mean", "std"):
        if not isinstance(values[name], list):
            raise ValueError(f"{path}: {name} must be a list of numbers, one a channel")
        values[name] = tuple(values[name])
    try:
        return LatentStatistics(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
