"""Tiny random networks of the published classes, as diffusers builds and saves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
)
from torch import Tensor

WAN: dict[str, Any] = {
    "base_dim": 8,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}
LTX: dict[str, Any] = {"latent_channels": 6, "layers_per_block": (1,) * 5}
MAKERS: dict[str, Callable[[], Any]] = {
    "wan21": lambda: AutoencoderKLWan(
        **WAN, z_dim=4, latents_mean=[0.5, -1.0, 0.25, 0.0], latents_std=[2.0, 0.5, 1.5, 1.0]
    ),
    "wan22": lambda: AutoencoderKLWan(
        **WAN,
        z_dim=6,
        latents_mean=[0.1] * 6,
        latents_std=[2.0] * 6,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    ),
    "cogvideox": lambda: AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2, scaling_factor=0.7
    ),
    "hunyuan": lambda: AutoencoderKLHunyuanVideo(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4
    ),
    "ltx": lambda: AutoencoderKLLTXVideo(
        **LTX,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        decoder_layers_per_block=(1,) * 5,
        scaling_factor=0.5,
    ),
    # Version 0.9.1: the decoder asks for a time and adds noise of its own.
    "ltx_noise": lambda: AutoencoderKLLTXVideo(
        **LTX,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(16, 32, 64),
        decoder_layers_per_block=(1,) * 4,
        decoder_spatio_temporal_scaling=(True,) * 3,
        decoder_inject_noise=(True, True, True, False),
        upsample_residual=(True,) * 3,
        upsample_factor=(2,) * 3,
        timestep_conditioning=True,
    ),
    # Version 0.9.5: space and time are halved by different blocks.
    "ltx_apart": lambda: AutoencoderKLLTXVideo(
        **LTX,
        block_out_channels=(8, 16, 16, 32, 32),
        down_block_types=("LTXVideo095DownBlock3D",) * 4,
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        spatio_temporal_scaling=(True,) * 4,
        decoder_block_out_channels=(16, 32, 64),
        decoder_layers_per_block=(1,) * 4,
        decoder_spatio_temporal_scaling=(True,) * 3,
        decoder_inject_noise=(False,) * 4,
        upsample_residual=(True,) * 3,
        upsample_factor=(2,) * 3,
        timestep_conditioning=True,
    ),
    "flux": lambda: AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.36,
        shift_factor=0.11,
    ),
}
FACTS = {  # channels, spatial ratio, temporal ratio, frames that fit and how many latent frames they give
    "wan21": (4, 8, 4, (5, 2)),
    "wan22": (6, 16, 4, (5, 2)),
    "cogvideox": (4, 8, 4, (9, 3)),
    "hunyuan": (4, 8, 4, (5, 2)),
    "ltx": (6, 32, 8, (9, 2)),
    "ltx_noise": (6, 32, 8, (9, 2)),
    "ltx_apart": (6, 32, 8, (9, 2)),
    "flux": (4, 8, 1, (3, 3)),
}
VIDEO = tuple(name for name in FACTS if name != "flux")


def make(name: str) -> Any:
    """The network, in eval mode. Noise scales start at 0 in diffusers: here they do something."""
    torch.manual_seed(0)
    network = MAKERS[name]().eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if "per_channel_scale" in key:
                parameter.fill_(0.3)
        if name.startswith("ltx"):
            network.latents_mean.copy_(torch.linspace(-1, 1, 6))
            network.latents_std.copy_(torch.linspace(0.5, 3, 6))
    return network


def save(name: str, folder: Path, **options: Any) -> Path:
    """The folder, with the network in it."""
    make(name).save_pretrained(folder, **options)
    return folder


def clip(frames: int, batch: int = 1, size: int = 32, seed: int = 1) -> Tensor:
    """(B,3,T,size,size) in [-1,1]."""
    return torch.rand(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
