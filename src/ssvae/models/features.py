"""The two small networks that the package ships: a frozen feature network and a judge.

They stand in, under names of their own (``probe_*``), for DINO/I3D features and for a vision-language reward model
where pretrained weights cannot be had. Both are trained on synthetic clips with known attributes by
``python -m ssvae.cli.train_probe_networks``; on any other clips they are *not calibrated*. The distance and the judge
are separate networks (seed, widths), so that a model tuned to one is not tuned to the other.

Frames pass through 2-D convolutions; a temporal shift of some channels before each convolution (Lin et al. 1811.08383)
lets them see change, and a coarse optical flow (Lucas & Kanade 1981), computed and not learned, shows them motion.

Dimension legend
    B batch, T frames, H W pixels   video (B,3,T,H,W) in [-1, 1], any T >= 5, any size; D feature dimension (<= 64)
    Inside: FRAMES frames of SIDE x SIDE pixels; X channels of a layer; flow on CELLS x CELLS cells
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.nn import functional

from ssvae.core.shapes import check_ndim

ASSETS = Path(__file__).parent / "assets"
FRAMES, SIDE, LEAST_FRAMES = 9, 32, 5
CELLS = 8
STATISTICS = 8 + FRAMES - 1


@dataclass(frozen=True, slots=True)
class NetworkCard:
    """What a shipped network is: architecture arguments, protocol ("probe_fd/1"), hash, training, accuracies."""

    protocol: str
    sha256: str
    architecture: dict[str, Any]
    vocabulary: dict[str, list[str]]
    training: dict[str, Any]
    held_out: dict[str, Any]

    @property
    def stamp(self) -> str:
        """Protocol with the first 12 digits of the weights' hash: two networks never share a table."""
        return f"{self.protocol};net={self.sha256[:12]}"


def standard_clip(video: Tensor) -> Tensor:
    """Any clip (B,3,T,H,W) -> (B,3,FRAMES,SIDE,SIDE) float32 in [-1,1].

    Space: bilinear, anti-aliased. Time: linear, first and last frame kept. Values outside [-1,1] are clamped, as
    when the clip is shown. Raises ValueError for other axes or fewer than 5 frames.
    """
    check_ndim("video", video.shape, 5, "(B,3,T,H,W)")
    b, c, t, h, w = video.shape
    if c != 3 or t < LEAST_FRAMES:
        raise ValueError(f"video must have 3 colours and at least {LEAST_FRAMES} frames, got {tuple(video.shape)}")
    video = video.float().clamp(-1.0, 1.0)
    if (h, w) != (SIDE, SIDE):
        frames = video.transpose(1, 2).reshape(b * t, c, h, w)
        frames = functional.interpolate(frames, size=(SIDE, SIDE), mode="bilinear", antialias=True)
        video = frames.reshape(b, t, c, SIDE, SIDE).transpose(1, 2)
    if t != FRAMES:
        position = torch.linspace(0.0, t - 1.0, FRAMES, device=video.device)
        lower = position.floor().long().clamp_max(t - 2)
        share = (position - lower)[None, None, :, None, None]
        video = torch.lerp(video[:, :, lower], video[:, :, lower + 1], share)
    return video


def shift_in_time(x: Tensor, frames: int) -> Tensor:
    """(B·T,X,H,W): a quarter of the channels from the frame before, a quarter from the one after, zeros at the ends."""
    clip = x.reshape(-1, frames, *x.shape[1:])
    quarter = x.shape[1] // 4
    before = functional.pad(clip[:, :-1, :quarter], (0, 0, 0, 0, 0, 0, 1, 0))
    after = functional.pad(clip[:, 1:, quarter : 2 * quarter], (0, 0, 0, 0, 0, 0, 0, 1))
    return torch.cat([before, after, clip[:, :, 2 * quarter :]], dim=2).reshape(x.shape)


def coarse_flow(clip: Tensor) -> Tensor:
    """Standard clip (B,3,T,S,S) -> displacement (B,T,2,CELLS,CELLS) in pixels a frame, x then y, within [-3, 3].

    Least squares of brightness constancy over overlapping 8 x 8 windows (Lucas & Kanade 1981), from each frame to the
    next; the last frame repeats the one before. A small ridge makes untextured cells report no motion.
    """
    luma = clip.mean(dim=1)
    between = functional.pad((luma[:, 1:] + luma[:, :-1]) / 2, (1, 1, 1, 1), mode="replicate")
    dx = (between[..., 1:-1, 2:] - between[..., 1:-1, :-2]) / 2
    dy = (between[..., 2:, 1:-1] - between[..., :-2, 1:-1]) / 2
    dt = luma[:, 1:] - luma[:, :-1]
    products = torch.stack([dx * dx, dy * dy, dx * dy, dx * dt, dy * dt], dim=2).flatten(0, 1)
    window = SIDE // CELLS
    sums = functional.avg_pool2d(products, 2 * window, stride=window, padding=window // 2)
    xx, yy, xy, xt, yt = sums.unbind(dim=1)
    xx, yy = xx + 5e-4, yy + 5e-4
    flow = torch.stack([xy * yt - yy * xt, xy * xt - xx * yt], dim=1) / (xx * yy - xy * xy).unsqueeze(1)
    flow = flow.clamp(-3.0, 3.0).reshape(clip.shape[0], FRAMES - 1, 2, CELLS, CELLS)
    return torch.cat([flow, flow[:, -1:]], dim=1)


def signal_statistics(clip: Tensor) -> Tensor:
    """Standard clip -> (B,STATISTICS): logarithms of energies that blur, noise and spoilt time change at once.

    Spatial gradient, Laplacian of luma and of colour differences, differences over 1, 2, 4 and 8 frames, second
    difference in time, and the single frames' differences in rising order (frozen frames come first).
    """
    luma = clip.mean(dim=1, keepdim=True)
    steps = (luma[:, :, 1:] - luma[:, :, :-1]).square().mean(dim=(1, 3, 4))
    across = (luma[..., 1:] - luma[..., :-1]).square().mean(dim=(1, 2, 3, 4))
    down = (luma[..., 1:, :] - luma[..., :-1, :]).square().mean(dim=(1, 2, 3, 4))
    energies = [across + down]
    for picture in (luma, clip - luma):
        inner = picture[..., 1:-1, 1:-1]
        around = picture[..., 1:-1, 2:] + picture[..., 1:-1, :-2] + picture[..., 2:, 1:-1] + picture[..., :-2, 1:-1]
        energies.append((around / 4 - inner).square().mean(dim=(1, 2, 3, 4)))
    for lag in (1, 2, 4, 8):
        energies.append((luma[:, :, lag:] - luma[:, :, :-lag]).square().mean(dim=(1, 2, 3, 4)))
    bend = luma[:, :, 2:] - 2 * luma[:, :, 1:-1] + luma[:, :, :-2]
    energies.append(bend.square().mean(dim=(1, 2, 3, 4)))
    return torch.cat([torch.stack(energies, dim=1), steps.sort(dim=1).values], dim=1).add(1e-5).log()


class ClipTrunk(nn.Module):
    """Standard clip -> (B, features): five shifted convolutions, pooled over time and space, and the mean flow.

    Strides put the fourth convolution on CELLS x CELLS, where the flow joins the channels.
    """

    def __init__(self, *, widths: Sequence[int]) -> None:
        super().__init__()
        if len(widths) != 5:
            raise ValueError(f"widths {tuple(widths)} must be five, one a convolution")
        strides = (2, 1, 2, 1, 2)
        kernels = (5, 3, 3, 3, 3)
        inputs = (3, *widths[:2], widths[2] + 2, widths[3])
        self.pooled = 2 * widths[-1]
        self.features = self.pooled + 3 * CELLS * CELLS
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, k, stride=s, padding=k // 2, bias=False)
            for i, o, k, s in zip(inputs, widths, kernels, strides, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)

    def forward(self, video: Tensor) -> Tensor:
        clip = standard_clip(video)
        flow = coarse_flow(clip)
        x = self.maps(clip.transpose(1, 2).reshape(-1, 3, SIDE, SIDE), flow.flatten(0, 1), FRAMES)
        cells = x.reshape(clip.shape[0], FRAMES, x.shape[1], -1)
        unsteady = flow.var(dim=1).sum(dim=1).add(1e-4).sqrt()
        motion = torch.cat([flow.mean(dim=1).flatten(1), unsteady.flatten(1)], dim=1)
        return torch.cat([cells.mean(dim=(1, 3)), cells.amax(dim=(1, 3)), motion], dim=1)

    def maps(self, frames: Tensor, flow: Tensor, clip_frames: int) -> Tensor:
        """Frames (B·T,3,S,S) and their flow (B·T,2,CELLS,CELLS) -> maps (B·T,widths[-1],4,4).

        clip_frames: T; 1 reads each frame by itself, without a temporal shift (how training warms up).
        """
        x = frames.contiguous(memory_format=torch.channels_last)
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if index > 0 and clip_frames > 1:
                x = shift_in_time(x, clip_frames)
            if index == 3:
                x = torch.cat([x, flow], dim=1)
            x = functional.silu(norm(conv(x)))
        return x


class ProbeFeatures(nn.Module):
    """Feature network of the probe distance: video -> (B,D), D = code + number of degradations.

    First ``code`` features of mean 0 and deviation 1 on clean synthetic clips; then the degradation levels that the
    network reads off them, times ``level_weight``: with the code alone, what a clip shows outweighs how well it shows
    it. attributes: number of values of each; their heads serve training and the card's accuracies only.
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        widths: Sequence[int],
        hidden: int,
        code: int,
        attributes: Mapping[str, int],
        degradations: Sequence[str],
        level_weight: float,
    ) -> None:
        super().__init__()
        self.dim, self.level_weight = code + len(degradations), level_weight
        if not 1 <= self.dim <= 64:
            raise ValueError(f"{self.dim} features must lie in [1, 64]: distances of wider ones need too many clips")
        self.trunk = ClipTrunk(widths=widths)
        self.norm = nn.BatchNorm1d(STATISTICS)
        self.project = nn.Sequential(
            nn.Linear(self.trunk.features + STATISTICS, hidden), nn.SiLU(), nn.Linear(hidden, code)
        )
        self.register_buffer("center", torch.zeros(code))
        self.register_buffer("scale", torch.ones(code))
        self.attribute_heads = nn.ModuleDict({name: nn.Linear(code, count) for name, count in attributes.items()})
        self.degradation_head = nn.Linear(code, len(degradations))

    def raw_code(self, video: Tensor) -> Tensor:
        """The code (B,code) before it is centred and scaled: what the heads read."""
        clip = standard_clip(video)
        return self.project(torch.cat([self.trunk(clip), self.norm(signal_statistics(clip))], dim=1))

    def forward(self, video: Tensor) -> Tensor:
        """Features (B,D) float32 of clips (B,3,T,H,W)."""
        code = self.raw_code(video)
        levels = self.level_weight * self.degradation_head(code)
        return torch.cat([(code - self.center) / self.scale, levels], dim=1)

    def predict(self, video: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Logits (B, values) of each attribute, and degradation levels (B, kinds), about 0 (none) to 1."""
        code = self.raw_code(video)
        return {name: head(code) for name, head in self.attribute_heads.items()}, self.degradation_head(code)


class ProbeJudge(nn.Module):
    """Reward proxy: does the clip show what the caption says? Scores lie in [0, 1]."""

    def __init__(self, *, widths: Sequence[int], hidden: int, attributes: Mapping[str, int]) -> None:
        super().__init__()
        self.trunk = ClipTrunk(widths=widths)
        self.hidden = nn.Linear(self.trunk.features, hidden)
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, count) for name, count in attributes.items()})

    def forward(self, video: Tensor) -> dict[str, Tensor]:
        """Logits (B, values) of each attribute."""
        hidden = functional.silu(self.hidden(self.trunk(video)))
        return {name: head(hidden) for name, head in self.heads.items()}

    def score(self, video: Tensor, attributes: Mapping[str, Tensor]) -> Tensor:
        """Geometric mean over attributes of the probability of the stated value: (B,) in [0,1].

        attributes: for each of the judge's attributes the stated value's index, (B,) int64. The geometric mean
        lets one false statement cost much, however true the others. Raises ValueError for missing attributes.
        """
        missing = sorted(set(self.heads) - set(attributes))
        if missing:
            raise ValueError(f"attributes {', '.join(missing)} are missing; the judge needs {', '.join(self.heads)}")
        logits = self(video)
        chosen = [
            functional.log_softmax(logits[name].double(), dim=1).gather(1, attributes[name][:, None]).squeeze(1)
            for name in self.heads
        ]
        return torch.stack(chosen).mean(dim=0).exp()


Network = TypeVar("Network", ProbeFeatures, ProbeJudge)


def read_card(name: str, folder: Path = ASSETS) -> NetworkCard:
    """Card of the shipped network ``name`` ("probe_features" or "probe_judge")."""
    return NetworkCard(**json.loads((folder / f"{name}.json").read_text()))


def _load(name: str, kind: type[Network], folder: Path) -> tuple[Network, NetworkCard]:
    card = read_card(name, folder)
    content = (folder / f"{name}.safetensors").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.sha256:
        raise ValueError(
            f"{name}.safetensors has sha256 {digest[:12]}..., its card says {card.sha256[:12]}...: the file is damaged "
            "or was replaced; install the package again or retrain with python -m ssvae.cli.train_probe_networks"
        )
    network = kind(**card.architecture)
    network.load_state_dict(load_safetensors(content))
    return network.eval().requires_grad_(False), card


def load_probe_features(folder: Path = ASSETS) -> tuple[ProbeFeatures, NetworkCard]:
    """The shipped feature network, frozen, in eval mode, with its card. Raises ValueError when the hash is wrong."""
    return _load("probe_features", ProbeFeatures, folder)


def load_probe_judge(folder: Path = ASSETS) -> tuple[ProbeJudge, NetworkCard]:
    """The shipped judge, frozen, in eval mode, with its card. Raises ValueError when the hash is wrong."""
    return _load("probe_judge", ProbeJudge, folder)
