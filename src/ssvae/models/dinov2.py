"""DINOv2 (Oquab et al., arXiv 2304.07193) as a frozen feature network for frames.

Patch features are what VA-VAE's loss aligns latents with; the CLS feature is what the Fréchet DINO distance compares.
The network is that of ``transformers``, an optional package that is imported only when a network is loaded.

Colours are brought to ImageNet's mean and deviation, which the network was trained on. (VA-VAE's code hands it frames
in [-1,1] as they are.)

Dimension legend
    N frames, H W pixels, S size of the network's input, P its patch size, D feature dimension
    g = S/P patches a side                                 frames (N,3,H,W), float, [-1, 1]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from ssvae.core.shapes import check_ndim

COLOUR_MEAN = (0.485, 0.456, 0.406)
COLOUR_STD = (0.229, 0.224, 0.225)
UNUSED = frozenset({"embeddings.mask_token"})
"""Needed for pre-training alone; weight files may lack it."""

Resize = Literal["bicubic", "bilinear"]


class DinoV2Features(nn.Module):
    """Frames of any size -> normalised tokens of a DINOv2. Frozen, in eval mode; gradients reach the frames only.

    network: a ``transformers.Dinov2Model``. size: S, a multiple of P. resize: "bicubic", anti-aliased, as DINOv2's own
    evaluation and dgm-eval resize; or "bilinear" without anti-aliasing, as VA-VAE's code does. dim: D.
    Frames are squeezed to S x S whatever their aspect. Values outside [-1,1] are clamped, as when a frame is shown.
    Raises ValueError for bad values.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, size: int = 224, resize: Resize = "bicubic") -> None:
        super().__init__()
        config: Any = network.config
        patch = int(config.patch_size)
        if size < patch or size % patch:
            low = max(patch, size // patch * patch)
            raise ValueError(
                f"DINOv2 size {size} is not a multiple of its patch size {patch}: take {low} or {low + patch}"
            )
        if resize not in get_args(Resize):
            raise ValueError(f"DINOv2 resize must be one of {', '.join(get_args(Resize))}, got {resize!r}")
        self.network = network
        self.size = size
        self.resize = resize
        self.grid = size // patch
        self.dim = int(config.hidden_size)
        self.register_buffer("mean", torch.tensor(COLOUR_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(COLOUR_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def forward(self, frames: Tensor) -> Tensor:
        """The same as :meth:`patches`."""
        return self.patches(frames)

    def patches(self, frames: Tensor) -> Tensor:
        """(N,3,H,W) -> patch tokens after the final norm, (N,D,g,g), rows from top to bottom."""
        return self._tokens(frames)[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))

    def cls(self, frames: Tensor) -> Tensor:
        """(N,3,H,W) -> CLS token after the final norm, (N,D)."""
        return self._tokens(frames)[:, 0]

    def prepared(self, frames: Tensor) -> Tensor:
        """(N,3,H,W) in [-1,1] -> what the network receives, (N,3,S,S) float32. Raises ValueError for other axes."""
        check_ndim("frames", frames.shape, 4, "(N,3,H,W)")
        if frames.shape[1] != 3:
            raise ValueError(f"frames must have 3 colours, got shape {tuple(frames.shape)}")
        images = (frames.float().clamp(-1.0, 1.0) + 1) / 2
        if images.shape[2:] != (self.size, self.size):
            smooth = self.resize == "bicubic"
            images = functional.interpolate(
                images, size=(self.size, self.size), mode=self.resize, align_corners=False, antialias=smooth
            ).clamp(0.0, 1.0)  # bicubic overshoots at edges; 8-bit images cut that off
        return (images - self.mean) / self.std

    def _tokens(self, frames: Tensor) -> Tensor:
        """(N,1+g²,D): CLS, then patches row by row."""
        return self.network(self.prepared(frames)).last_hidden_state


def load_dinov2(
    name_or_path: str | os.PathLike[str] | None, *, size: int = 224, resize: Resize = "bicubic"
) -> DinoV2Features:
    """A published DINOv2, such as ``facebook/dinov2-large``, or one from a folder in transformers' format.

    Looks in the folder or the local hub cache first and asks the hub only for a name that is in neither. Reads
    safetensors only and runs no code that comes with the weights. Raises ValueError, with the remedy, when the package
    or the weights cannot be had, or when the tensors are not exactly those of a DINOv2.
    """
    if name_or_path is None:
        raise ValueError(
            "DINOv2: no model given: name a folder in transformers' format, or one on the hub such as "
            "facebook/dinov2-large"
        )
    name = os.fspath(name_or_path)
    try:
        from transformers import Dinov2Model
    except ImportError as error:
        raise ValueError(f"DINOv2 {name}: the package transformers is missing: pip install -e '.[dino]'") from error
    if Path(name).is_dir():
        network = _from_folder(Dinov2Model, name)
    elif _looks_like_path(name):
        raise ValueError(f"DINOv2: no folder at {name}: give a folder with config.json and model.safetensors")
    else:
        network = _from_cache_or_hub(Dinov2Model, name)
    return DinoV2Features(network, size, resize)


def _looks_like_path(name: str) -> bool:
    """Hub names are ``model`` or ``owner/model``."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _from_cache_or_hub(kind: Any, name: str) -> nn.Module:
    try:
        return _from_pretrained(kind, name, local=True)
    except OSError:
        pass  # not in the cache, or not all of it
    try:
        return _from_pretrained(kind, name, local=False)
    except OSError as error:
        raise ValueError(
            f"DINOv2 {name}: neither in the local hub cache nor to be had from the hub. Download it where there is a "
            f"network (hf download {name}) and give the folder, or check the name. The hub said: {_first_line(error)}"
        ) from error


def _from_folder(kind: Any, name: str) -> nn.Module:
    try:
        return _from_pretrained(kind, name, local=True)
    except OSError as error:
        raise ValueError(
            f"DINOv2: {name} holds no config.json with model.safetensors in transformers' format: {_first_line(error)}"
        ) from error


def _from_pretrained(kind: Any, name: str, *, local: bool) -> nn.Module:
    """The network, every tensor of which came from the file; OSError when files are not there."""
    try:
        # The attention is named here, for a config file may name one whose code would be fetched from the hub.
        network, report = kind.from_pretrained(
            name,
            local_files_only=local,
            use_safetensors=True,
            attn_implementation="sdpa",
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"DINOv2 {name}: the weights are damaged or of other shapes than config.json says") from error
    missing, unknown = set(report["missing_keys"]) - UNUSED, set(report["unexpected_keys"])
    if missing or unknown:
        # transformers fills what is missing with random numbers and goes on.
        raise ValueError(
            f"{name} is no DINOv2 (without registers): {len(missing)} tensors missing {sorted(missing)[:2]}, "
            f"{len(unknown)} unknown {sorted(unknown)[:2]}"
        )
    return network


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
