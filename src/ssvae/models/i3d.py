"""I3D (Carreira & Zisserman, arXiv 1705.07750) as a TorchScript file: the feature network of FVD.

The file is the one of StyleGAN-V's evaluation (``i3d_torchscript.pt``): Kinetics-400, called as
``network(videos, rescale=True, resize=True, return_features=True)`` with values of 0 to 255; it scales and resizes by
itself and returns the 400 outputs before the softmax.

A TorchScript file is a programme of tensor operations. Loading it runs no Python, but a hostile file is code all the
same: its SHA-256 is part of every number made with it; take the file from a source that you trust.

Dimension legend: B clips, T frames, H W pixels, D features; videos (B,3,T,H,W), 0 to 255.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssvae.core.identity import file_sha256
from ssvae.core.shapes import check_ndim

OPTIONS = ("rescale", "resize", "return_features")
LEAST_FRAMES = 9
"""Time is halved three times, rounding up, before a pooling over 2: 8 frames leave 1."""
TRIAL = (1, 3, 16, 32, 32)


class I3DFeatures:
    """A loaded I3D. sha256: of its file. dim: D, found by a trial on one grey clip."""

    def __init__(self, network: torch.jit.ScriptModule, sha256: str, dim: int, device: torch.device) -> None:
        self.network = network
        self.sha256 = sha256
        self.dim = dim
        self.device = device

    @torch.no_grad()
    def __call__(self, videos: Tensor) -> Tensor:
        """Clips (B,3,T,H,W) with values of 0 to 255 -> features (B,D) float32 on the network's device.

        Raises ValueError for other axes or fewer than 9 frames.
        """
        check_ndim("videos", videos.shape, 5, "(B,3,T,H,W)")
        if videos.shape[1] != 3 or videos.shape[2] < LEAST_FRAMES:
            raise ValueError(
                f"I3D needs 3 colours and at least {LEAST_FRAMES} frames, got clips of shape {tuple(videos.shape)}"
            )
        return self.network(videos.to(self.device, torch.float32), rescale=True, resize=True, return_features=True)


def load_i3d(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> I3DFeatures:
    """The network of a TorchScript file, tried on one small clip.

    Raises ValueError, with the remedy, for a missing file, one that is no TorchScript, or one that is called otherwise.
    """
    place, target = Path(path), torch.device(device)
    if not place.is_file():
        raise ValueError(f"I3D: no file at {place}: give the path of StyleGAN-V's i3d_torchscript.pt")
    try:
        network: Any = torch.jit.load(str(place), map_location=target)
    except (RuntimeError, ValueError, EOFError) as error:
        raise ValueError(f"I3D: {place} is no TorchScript file: {_first_line(error)}") from error
    network.eval()
    known = [argument.name for argument in network.forward.schema.arguments[1:]]
    missing = [name for name in OPTIONS if name not in known]
    if missing:
        raise ValueError(
            f"I3D: {place} is called with ({', '.join(known)}), without {', '.join(missing)}: it is not the file of "
            "StyleGAN-V's evaluation"
        )
    found = I3DFeatures(network, file_sha256(place), 0, target)
    try:
        features = found(torch.full(TRIAL, 128.0))
    except (RuntimeError, torch.jit.Error) as error:
        raise ValueError(f"I3D: {place} fails on a clip of shape {TRIAL}: {_last_line(error)}") from error
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 1:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"I3D: {place} returns {shape} for one clip, not one row of features")
    found.dim = features.shape[1]
    return found


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]


def _last_line(error: BaseException) -> str:
    """TorchScript puts the stack first and the reason last."""
    return str(error).strip().rsplit("\n", 1)[-1]
