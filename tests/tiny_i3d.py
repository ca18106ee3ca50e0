"""A small TorchScript network that is called as StyleGAN-V's I3D is, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssvae.core.seeds import torch_generator

DIM = 6


class TinyI3D(nn.Module):
    """Same call and same steps as the real file: scale, resize to 224, convolve over time and space, pool."""

    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, dim, (3, 8, 8), stride=(2, 8, 8))
        generator = torch_generator(0, "tiny_i3d")
        for parameter in self.conv.parameters():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        if resize:
            b, c, t, h, w = x.shape
            frames = x.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w)
            frames = F.interpolate(frames, size=[224, 224], mode="bilinear", align_corners=False)
            x = frames.reshape(b, t, c, 224, 224).permute(0, 2, 1, 3, 4)
        if rescale:
            x = 2 * x / 255 - 1
        y = F.relu(self.conv(x)).mean(dim=[2, 3, 4])
        if return_features:
            return y
        return torch.softmax(y, dim=1)


def write_tiny_i3d(path: Path) -> Path:
    """The network as a file."""
    torch.jit.script(TinyI3D().eval()).save(str(path))
    return path
