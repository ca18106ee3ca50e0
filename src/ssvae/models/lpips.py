"""LPIPS, the learned perceptual distance (Zhang et al., arXiv 1801.03924), VGG16 variant, per frame.

The trunk is written out here, so no image-model package is needed; weights come from files that the user names.

Dimension legend
    B batch, T frames, N = B·T images, H W pixels; K channels of a feature map
    video (B,3,T,H,W) in [-1, 1]
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ssvae.core.shapes import check_ndim

STAGES: tuple[tuple[int, int], ...] = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""VGG16: (channels, convolutions) of each stage; a 2x2 max pool lies between stages."""
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
SMALLEST = 16
"""Frames below this many pixels do not survive four poolings."""


class VGG16Features(nn.Module):
    """The convolutions of VGG16; returns the five maps after the last ReLU of each stage.

    ``features`` is numbered as in torchvision (``features.0.weight`` ... ``features.28.bias``).
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.taps: list[int] = []
        channels = 3
        for stage, (width, convolutions) in enumerate(STAGES):
            if stage > 0:
                layers.append(nn.MaxPool2d(2))
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            self.taps.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N,3,H,W), normalised colours -> five maps (N,K,H/2^i,W/2^i)."""
        maps: list[Tensor] = []
        for index, layer in enumerate(self.features):
            images = layer(images)
            if index in self.taps:
                maps.append(images)
        return maps


class LPIPS(nn.Module):
    """Distance per frame: unit-length features, squared difference, weighted over channels, averaged over pixels.

    Frozen; gradients reach the frames only. Freshly built its weights are random: see :func:`load_lpips`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.trunk = VGG16Features()
        self.heads = nn.ParameterList(nn.Parameter(torch.rand(width) / width) for width, _ in STAGES)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Two clips (B,3,T,H,W) in [-1,1] -> distance (B,1,T,1,1), >= 0; ValueError for unequal or tiny frames."""
        check_ndim("reconstruction", reconstruction.shape, 5, "(B,3,T,H,W)")
        if reconstruction.shape != target.shape:
            raise ValueError(
                f"LPIPS compares clips of equal shape, got {tuple(reconstruction.shape)} and {tuple(target.shape)}"
            )
        b, _, t, h, w = target.shape
        if min(h, w) < SMALLEST:
            raise ValueError(f"LPIPS needs frames of at least {SMALLEST}x{SMALLEST} pixels, got {h}x{w}")
        ours, theirs = self.trunk(self._frames(reconstruction)), self.trunk(self._frames(target))
        distance = target.new_zeros(b * t)
        for one, other, head in zip(ours, theirs, self.heads, strict=True):
            difference = (_unit_length(one) - _unit_length(other)).square()
            distance = distance + torch.einsum("nkhw,k->nhw", difference, head.to(difference.dtype)).mean((1, 2))
        return distance.view(b, 1, t, 1, 1)

    def _frames(self, video: Tensor) -> Tensor:
        """(B,3,T,H,W) in [-1,1] -> (B·T,3,H,W), colours as the trunk was trained on."""
        return (video.transpose(1, 2).flatten(0, 1) - self.shift) / self.scale


def load_lpips(vgg: str | os.PathLike[str], heads: str | os.PathLike[str] | None = None) -> LPIPS:
    """LPIPS with published weights.

    vgg: the usual VGG16 weights (.pth or .safetensors, keys ``features.N.weight``; classifier keys are ignored).
    heads: the five linear heads (keys ``lin0.model.1.weight``, as the ``lpips`` package and torchmetrics ship them);
    None takes the file inside an installed torchmetrics. Raises ValueError when a file is missing or does not match.
    """
    model = LPIPS()
    trunk = {key: value for key, value in _read(Path(vgg), "VGG16").items() if key.startswith("features.")}
    _fill(dict(model.trunk.named_parameters()), trunk, Path(vgg))
    head_path = Path(heads) if heads is not None else shipped_heads()
    tensors = {key: value.flatten() for key, value in _read(head_path, "LPIPS heads").items()}
    _fill({f"lin{i}.model.1.weight": head for i, head in enumerate(model.heads)}, tensors, head_path)
    return model


def shipped_heads() -> Path:
    """The heads file that torchmetrics' wheel contains."""
    spec = importlib.util.find_spec("torchmetrics")
    if spec is None or spec.origin is None:
        raise ValueError("LPIPS heads: no path given and torchmetrics, which ships them, is not installed; give a path")
    return Path(spec.origin).parent / "functional" / "image" / "lpips_models" / "vgg.pth"


def _read(path: Path, what: str) -> dict[str, Tensor]:
    """Tensors of a safetensors or PyTorch file; nothing but tensors is ever unpickled."""
    if not path.is_file():
        raise ValueError(f"{what} weights: no file at {path}")
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, struct.error) as error:
        raise ValueError(f"{what} weights: {path} is no PyTorch file of plain tensors") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{what} weights: {path} holds no dictionary of tensors")
    return dict(content)


@torch.no_grad()
def _fill(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy ``tensors`` into ``parameters`` of the same names and shapes; ValueError otherwise."""
    if parameters.keys() != tensors.keys():
        missing, unknown = sorted(parameters.keys() - tensors.keys()), sorted(tensors.keys() - parameters.keys())
        raise ValueError(f"{path} does not match: missing {missing[:3]}, unknown {unknown[:3]}")
    for name, parameter in parameters.items():
        value = tensors[name]
        if parameter.shape != value.shape:
            raise ValueError(f"{path}: {name} has shape {tuple(value.shape)}, expected {tuple(parameter.shape)}")
        parameter.copy_(value)


def _unit_length(features: Tensor) -> Tensor:
    """(N,K,H,W) divided by its length over channels; a zero vector stays zero, with zero gradient."""
    return F.normalize(features, dim=1, eps=1e-10)
