"""LPIPS, the learned perceptual distance (Zhang et al., arXiv 1801.03924), per frame: VGG16 and AlexNet variants.

The trunks are written out here, so no image-model package is needed; weights come from files that the user names.
VGG is the usual training loss, Alex the usual number of reconstruction tables; their values are not comparable.

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
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ssvae.core.identity import file_sha256
from ssvae.core.shapes import check_ndim

Net = Literal["vgg", "alex"]
STAGES: tuple[tuple[int, int], ...] = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""VGG16: (channels, convolutions) of each stage; a 2x2 max pool lies between stages."""
ALEX_WIDTHS = (64, 192, 384, 256, 256)
"""AlexNet (torchvision's): channels of the five convolutions."""
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
SMALLEST: dict[Net, int] = {"vgg": 16, "alex": 31}
"""Frames below this many pixels do not survive VGG's four poolings, or AlexNet's stride of 4 and two poolings."""


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


class AlexNetFeatures(nn.Module):
    """The convolutions of torchvision's AlexNet; returns the five maps after each ReLU.

    ``features`` is numbered as in torchvision (``features.0``, 3, 6, 8, 10); its last pooling is not needed.
    """

    def __init__(self) -> None:
        super().__init__()
        one, two, three, four, five = ALEX_WIDTHS
        self.features = nn.Sequential(
            nn.Conv2d(3, one, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(one, two, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(two, three, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(three, four, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(four, five, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N,3,H,W), normalised colours -> five maps (N,K,·,·), sides about H/4, H/8, then H/16 three times."""
        maps: list[Tensor] = []
        for layer in self.features:
            images = layer(images)
            if isinstance(layer, nn.ReLU):
                maps.append(images)
        return maps


class LPIPS(nn.Module):
    """Distance per frame: unit-length features, squared difference, weighted over channels, averaged over pixels.

    net: "vgg" or "alex". Frozen; gradients reach the frames only. Freshly built its weights are random: see
    :func:`load_lpips`. stamp: which weights these are, for a protocol string.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: Net = "vgg") -> None:
        super().__init__()
        if net not in get_args(Net):
            raise ValueError(f"LPIPS net must be one of {', '.join(get_args(Net))}, got {net!r}")
        self.net: Net = net
        self.stamp = "random"
        self.trunk: VGG16Features | AlexNetFeatures
        if net == "vgg":
            self.trunk, widths = VGG16Features(), tuple(width for width, _ in STAGES)
        else:
            self.trunk, widths = AlexNetFeatures(), ALEX_WIDTHS
        self.heads = nn.ParameterList(nn.Parameter(torch.rand(width) / width) for width in widths)
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
        smallest = SMALLEST[self.net]
        if min(h, w) < smallest:
            raise ValueError(f"LPIPS ({self.net}) needs frames of at least {smallest}x{smallest} pixels, got {h}x{w}")
        ours, theirs = self.trunk(self._frames(reconstruction)), self.trunk(self._frames(target))
        distance = target.new_zeros(b * t)
        for one, other, head in zip(ours, theirs, self.heads, strict=True):
            difference = (_unit_length(one) - _unit_length(other)).square()
            distance = distance + torch.einsum("nkhw,k->nhw", difference, head.to(difference.dtype)).mean((1, 2))
        return distance.view(b, 1, t, 1, 1)

    def _frames(self, video: Tensor) -> Tensor:
        """(B,3,T,H,W) in [-1,1] -> (B·T,3,H,W), colours as the trunk was trained on."""
        return (video.transpose(1, 2).flatten(0, 1) - self.shift) / self.scale


def load_lpips(trunk: str | os.PathLike[str], heads: str | os.PathLike[str] | None = None, net: Net = "vgg") -> LPIPS:
    """LPIPS with published weights.

    trunk: the usual VGG16 or AlexNet weights (.pth or .safetensors, keys ``features.N.weight`` as in torchvision;
    classifier keys are ignored). heads: the five linear heads (keys ``lin0.model.1.weight``, as the ``lpips`` package
    and torchmetrics ship them); None takes the file inside an installed torchmetrics. Raises ValueError when a file is
    missing or does not match.
    """
    model = LPIPS(net)
    path, what = Path(trunk), {"vgg": "VGG16", "alex": "AlexNet"}[net]
    convolutions = {key: value for key, value in _read(path, what).items() if key.startswith("features.")}
    _fill(dict(model.trunk.named_parameters()), convolutions, path)
    head_path = Path(heads) if heads is not None else shipped_heads(net)
    tensors = {key: value.flatten() for key, value in _read(head_path, "LPIPS heads").items()}
    _fill({f"lin{i}.model.1.weight": head for i, head in enumerate(model.heads)}, tensors, head_path)
    model.stamp = f"{file_sha256(path)[:12]}+{file_sha256(head_path)[:12]}"
    return model


def shipped_heads(net: Net = "vgg") -> Path:
    """The heads file that torchmetrics' wheel contains."""
    spec = importlib.util.find_spec("torchmetrics")
    if spec is None or spec.origin is None:
        raise ValueError("LPIPS heads: no path given and torchmetrics, which ships them, is not installed; give a path")
    return Path(spec.origin).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"


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
