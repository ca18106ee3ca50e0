"""The VAE's equations written the plain way, as a reference for speed and for equality.

Every function reads the weights of a :class:`~ssvae.models.vae.VideoVAE` and applies textbook operators: pad, then
convolve; normalise, then scale, then activate; repeat pixels, then convolve. Values and gradients equal the fast
model's up to rounding; nothing here is shared with it.

Dimension legend
    B batch, C channels, T frames, H W pixels; r = 1 or 2 the factor in time
    x (B,C,T,H,W)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssvae.models.attention import FrameAttention
from ssvae.models.blocks import ResidualBlock
from ssvae.models.conv import CausalConv3d
from ssvae.models.decoder import DecoderLevel
from ssvae.models.encoder import EncoderLevel
from ssvae.models.resample import Downsample, Upsample
from ssvae.models.vae import VideoVAE


def naive_encode_moments(vae: VideoVAE, video: Tensor) -> Tensor:
    """(B,3,T,H,W) -> (B,2C,F,h,w), equal to ``vae.encode_moments(video)``."""
    encoder = vae.encoder
    x = _conv(encoder.conv_in, video)
    for level in encoder.levels:
        assert isinstance(level, EncoderLevel)
        x = _layers(level.blocks, x)
        if isinstance(level.downsample, Downsample):
            x = _down(level.downsample, x)
    x = _layers(encoder.middle, x)
    return _conv(encoder.conv_out, _norm_silu(encoder.norm_out.gamma, x))


def naive_decode(vae: VideoVAE, latent: Tensor) -> Tensor:
    """(B,C,F,h,w) -> (B,3,T,H,W), equal to ``vae.decode(latent)``."""
    decoder = vae.decoder
    x = _layers(decoder.middle, _conv(decoder.conv_in, latent))
    for level in decoder.levels:
        assert isinstance(level, DecoderLevel)
        x = _layers(level.blocks, x)
        if isinstance(level.upsample, Upsample):
            x = _up(level.upsample, x)
    return _conv(decoder.conv_out, _norm_silu(decoder.norm_out.gamma, x))


def _layers(layers: nn.Module, x: Tensor) -> Tensor:
    for layer in layers.children():
        if isinstance(layer, ResidualBlock):
            x = _residual(layer, x)
        else:
            assert isinstance(layer, FrameAttention)
            x = _attention(layer, x)
    return x


def _conv(conv: CausalConv3d, x: Tensor) -> Tensor:
    """Two copies of the first frame before the clip, zeros around each frame, then a plain 3-D convolution."""
    time, space = conv.stride
    x = F.pad(x, (0, 0, 0, 0, 2, 0), mode="replicate")
    x = F.pad(x, (1, 1, 1, 1) if space == 1 else (0, 1, 0, 1))
    return F.conv3d(x, conv.weight, conv.bias, stride=(time, space, space))


def _norm(gamma: Tensor, x: Tensor) -> Tensor:
    length = x.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return x / length * math.sqrt(x.shape[1]) * gamma


def _norm_silu(gamma: Tensor, x: Tensor) -> Tensor:
    return F.silu(_norm(gamma, x))


def _residual(block: ResidualBlock, x: Tensor) -> Tensor:
    hidden = _conv(block.conv1, _norm_silu(block.norm1.gamma, x))
    hidden = _conv(block.conv2, _norm_silu(block.norm2.gamma, hidden))
    if isinstance(block.shortcut, nn.Conv3d):
        x = F.conv3d(x, block.shortcut.weight, block.shortcut.bias)
    return x + hidden


def _attention(block: FrameAttention, x: Tensor) -> Tensor:
    b, c, t, h, w = x.shape
    frames = x.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w)
    qkv = F.conv2d(_norm(block.norm.gamma, frames), block.to_qkv.weight, block.to_qkv.bias)
    query, key, value = qkv.reshape(b * t, 3, c, h * w).unbind(1)
    weights = torch.softmax(query.transpose(1, 2) @ key / math.sqrt(c), dim=-1)
    mixed = (value @ weights.transpose(1, 2)).reshape(b * t, c, h, w)
    frames = frames + F.conv2d(mixed, block.proj.weight, block.proj.bias)
    return frames.reshape(b, t, c, h, w).permute(0, 2, 1, 3, 4)


def _down(layer: Downsample, x: Tensor) -> Tensor:
    b, _, t, h, w = x.shape
    time, out = layer.time, layer.out_channels
    if time == 1:
        assert isinstance(layer.conv, nn.Conv2d)
        frames = F.pad(x.permute(0, 2, 1, 3, 4).flatten(0, 1), (0, 1, 0, 1))
        frames = F.conv2d(frames, layer.conv.weight, layer.conv.bias, stride=2)
        main = frames.unflatten(0, (b, t)).permute(0, 2, 1, 3, 4)
    else:
        assert isinstance(layer.conv, CausalConv3d)
        main = _conv(layer.conv, x)
        x = F.pad(x, (0, 0, 0, 0, 1, 0))
    cells = x.unflatten(4, (w // 2, 2)).unflatten(3, (h // 2, 2)).unflatten(2, (-1, time))
    cells = cells.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)  # (B, C·r·2·2, T', H/2, W/2)
    return main + cells.unflatten(1, (out, -1)).mean(2)


def _up(layer: Upsample, x: Tensor) -> Tensor:
    time, out = layer.time, layer.out_channels
    larger = x.repeat_interleave(time, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)[:, :, time - 1 :]
    cells = x.repeat_interleave(out * time * 4 // x.shape[1], dim=1)
    cells = cells.unflatten(1, (out, time, 2, 2)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    shortcut = cells.flatten(6, 7).flatten(4, 5).flatten(2, 3)[:, :, time - 1 :]
    return _conv(layer.conv, larger) + shortcut
