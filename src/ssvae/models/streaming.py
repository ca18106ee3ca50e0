"""Encode and decode a clip piece by piece, with the result of doing it at once and memory flat in its length.

Every temporal layer keeps the last frames of its input, and the next piece is computed behind them; only the clip's
very first frame is repeated (or, in the shortcut of a downsampling, padded with zeros). Pieces may have any number of
frames: a layer that halves time holds a frame back until its partner comes. The layers' own code does the arithmetic,
so equal pieces give equal bits and other pieces differ by rounding alone.

Dimension legend
    B batch, 3 colours, t frames of a piece, H W pixels               video  (B,3,t,H,W), float, [-1, 1]
    C latent channels, f latent frames of a piece, h w latent pixels  latent (B,C,f,h,w), float, unbounded
    c channels inside the network; T' frames out of a layer, none while it waits
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssvae.core.shapes import check_ndim, check_size
from ssvae.core.types import Posterior
from ssvae.models.attention import FrameAttention
from ssvae.models.blocks import ResidualBlock
from ssvae.models.conv import KERNEL, CausalConv3d, repeat_first
from ssvae.models.decoder import DecoderLevel
from ssvae.models.encoder import EncoderLevel
from ssvae.models.resample import Downsample, Upsample, unshuffle_average
from ssvae.models.vae import COLOURS, VideoVAE


class CausalWalk:
    """Runs the layers of one clip over its pieces and remembers what they need of earlier ones.

    A result of None means that a layer which halves time waits for more frames.
    """

    def __init__(self) -> None:
        self._kept: dict[nn.Module, Tensor] = {}

    @property
    def state_bytes(self) -> int:
        """Bytes that the frames kept between pieces occupy."""
        return sum(kept.numel() * kept.element_size() for kept in self._kept.values())

    def move(self, device: torch.device) -> None:
        """Move what is kept to ``device``."""
        self._kept = {layer: kept.to(device) for layer, kept in self._kept.items()}

    def run(self, module: nn.Module, x: Tensor) -> Tensor | None:
        """Any part of the network on the next piece: (B,c,t,H,W) -> (B,c',T',H',W')."""
        match module:
            case nn.Sequential():
                return self._sequence(list(module), x)
            case EncoderLevel():
                return self._sequence([module.blocks, module.downsample], x)
            case DecoderLevel():
                return self._sequence([module.blocks, module.upsample], x)
            case ResidualBlock():
                hidden = self.convolve(module.conv1, module.norm1(x))
                return self.convolve(module.conv2, module.norm2(hidden)) + module.shortcut(x)
            case Downsample() if module.time > 1:
                return self._halve_time(module, x)
            case Upsample():
                return self._upsample(module, x)
        assert isinstance(module, Downsample | FrameAttention | nn.Identity), f"{type(module).__name__} cannot stream"
        out: Tensor = module(x)  # looks at each frame alone
        return out

    def convolve(self, conv: CausalConv3d, x: Tensor) -> Tensor:
        """A convolution of temporal stride 1 on the next piece, (B,c,t,H,W) -> (B,c',t,H',W')."""
        assert conv.stride[0] == 1
        alone = conv not in self._kept and x.shape[2] == 1
        padded = self._behind_earlier(conv, x, KERNEL - 1)
        self._keep(conv, padded[:, :, x.shape[2] :])
        # A clip's first frame alone needs no repeats: the convolution has a shorter way for it.
        return conv.convolve(x if alone else padded)

    def _sequence(self, modules: list[nn.Module], x: Tensor) -> Tensor | None:
        for module in modules:
            found = self.run(module, x)
            if found is None:
                return None
            x = found
        return x

    def _halve_time(self, layer: Downsample, x: Tensor) -> Tensor | None:
        start = layer not in self._kept
        padded = self._behind_earlier(layer, x, KERNEL - 1)
        frames = (padded.shape[2] - KERNEL) // layer.time + 1
        self._keep(layer, padded[:, :, layer.time * frames :])
        if frames == 0:
            return None
        assert isinstance(layer.conv, CausalConv3d)
        used = padded[:, :, : layer.time * (frames - 1) + KERNEL]
        # The convolution saw one frame before the pairs of the shortcut, at the start the two repeats.
        pairs = used[:, :, KERNEL - 1 if start else KERNEL - layer.time :]
        shortcut = unshuffle_average(pairs, layer.out_channels, time=layer.time, start=start)
        return layer.conv.convolve(x if start and x.shape[2] == 1 else used) + shortcut

    def _upsample(self, layer: Upsample, x: Tensor) -> Tensor:
        start = layer not in self._kept
        padded = self._behind_earlier(layer, x, layer.reach)
        self._keep(layer, padded[:, :, x.shape[2] :])
        if not start:
            return layer.refine(padded, x)
        return layer.refine(x if x.shape[2] == 1 else padded, x)[:, :, layer.time - 1 :]

    def _behind_earlier(self, layer: nn.Module, x: Tensor, repeats: int) -> Tensor:
        """The piece behind what ``layer`` has kept, at the clip's start behind ``repeats`` of its first frame."""
        if layer in self._kept:
            return torch.cat([self._kept[layer], x], dim=2)
        return repeat_first(x, repeats)

    def _keep(self, layer: nn.Module, frames: Tensor) -> None:
        # A copy: a view would keep the whole piece alive.
        self._kept[layer] = frames.clone(memory_format=torch.channels_last_3d)


class StreamingEncoder:
    """``VideoVAE.encode`` for a clip that comes in pieces; one object a clip.

    All pieces together give the posterior of the whole clip: the same to rounding (1e-10 in float64, 1e-4 in
    float32), whatever their lengths. Nothing is kept for gradients. Latent frames come as soon as their last frame
    is there: the first with frame 1, each next one after ``temporal_ratio`` more. A clip of T = 1 + r·k frames leaves
    nothing ``pending``; frames that are still pending at the end of another are in no latent frame.
    """

    def __init__(self, vae: VideoVAE) -> None:
        self._vae = vae
        self._walk = CausalWalk()
        self._shape: tuple[int, ...] | None = None
        self.frames = 0

    @property
    def pending(self) -> int:
        """Frames that wait for others to fill their latent frame, 0 .. r-1."""
        return max(self.frames - 1, 0) % self._vae.temporal_ratio

    @property
    def state_bytes(self) -> int:
        """Bytes kept between pieces: a few frames a layer, however long the clip is."""
        return self._walk.state_bytes

    def move_state(self, device: torch.device) -> None:
        """Keep the state on ``device`` until the next piece, which needs it back on the VAE's."""
        self._walk.move(device)

    @torch.no_grad()
    def push(self, video: Tensor) -> Posterior:
        """The next t >= 1 frames (B,3,t,H,W) in [-1,1] -> posterior over the (B,C,f,h,w) completed by them, f >= 0.

        Raises ValueError for axes or sizes that do not fit the VAE or the pieces before.
        """
        check_ndim("video", video.shape, 5, "(B,3,t,H,W)")
        batch, colours, frames, height, width = video.shape
        if colours != COLOURS:
            raise ValueError(f"video must have {COLOURS} colours on axis 1, got shape {tuple(video.shape)}")
        check_size(height, width, self._vae.spatial_ratio)
        self._shape = _check_piece("video", video, self._shape)
        self.frames += frames
        encoder, walk = self._vae.encoder, self._walk
        x = walk.convolve(encoder.conv_in, video.contiguous(memory_format=torch.channels_last_3d))
        coarse = walk.run(encoder.levels, x)
        hidden = None if coarse is None else walk.run(encoder.middle, coarse)
        if hidden is None:
            grid = (0, height // self._vae.spatial_ratio, width // self._vae.spatial_ratio)
            return Posterior.from_moments(video.new_zeros(batch, 2 * self._vae.channels, *grid))
        return Posterior.from_moments(walk.convolve(encoder.conv_out, encoder.norm_out(hidden)).contiguous())


class StreamingDecoder:
    """``VideoVAE.decode`` for latents that come in pieces; one object a clip.

    The very first latent frame gives one frame, every other one ``temporal_ratio``; all pieces together give the
    whole clip's frames, the same to rounding (1e-10 in float64, 1e-4 in float32). Nothing is kept for gradients.
    """

    def __init__(self, vae: VideoVAE) -> None:
        self._vae = vae
        self._walk = CausalWalk()
        self._shape: tuple[int, ...] | None = None

    @property
    def state_bytes(self) -> int:
        """Bytes kept between pieces: a few frames a layer, however long the clip is."""
        return self._walk.state_bytes

    def move_state(self, device: torch.device) -> None:
        """Keep the state on ``device`` until the next piece, which needs it back on the VAE's."""
        self._walk.move(device)

    @torch.no_grad()
    def push(self, latent: Tensor) -> Tensor:
        """The next f >= 1 raw latent frames (B,C,f,h,w) -> their frames (B,3,t,H,W), not clamped.

        Raises ValueError for axes or sizes that do not fit the VAE or the pieces before.
        """
        check_ndim("latent", latent.shape, 5, "(B,C,f,h,w)")
        if latent.shape[1] != self._vae.channels:
            raise ValueError(
                f"latent must have {self._vae.channels} channels on axis 1, got shape {tuple(latent.shape)}"
            )
        self._shape = _check_piece("latent", latent, self._shape)
        decoder, walk = self._vae.decoder, self._walk
        x = walk.convolve(decoder.conv_in, latent.contiguous(memory_format=torch.channels_last_3d))
        middle = walk.run(decoder.middle, x)
        assert middle is not None
        fine = walk.run(decoder.levels, middle)
        assert fine is not None
        return walk.convolve(decoder.conv_out, decoder.norm_out(fine)).contiguous()


def _check_piece(name: str, piece: Tensor, before: tuple[int, ...] | None) -> tuple[int, ...]:
    """All axes but time; ValueError unless there is a frame and they are those of the pieces ``before``."""
    batch, channels, frames, height, width = piece.shape
    if frames < 1:
        raise ValueError(f"a piece of {name} must have at least one frame, got shape {tuple(piece.shape)}")
    shape = (batch, channels, height, width)
    if before is not None and shape != before:
        raise ValueError(
            f"{name}: batch, channels, height and width were {before} in the pieces before, now {shape}; "
            "use a new object for another clip"
        )
    return shape
