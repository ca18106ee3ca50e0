"""VAEs of others behind the same encode and decode: Wan, CogVideoX, HunyuanVideo, LTX, Flux, through ``diffusers``.

Latents are raw, as the class's encoder gives them; the constants that its own pipeline scales them by are the latent
mean and std. One clip is computed at a time (an image VAE: a few frames of it), so that nothing depends on the batch.

Dimension legend
    B batch, 3 colours, T frames, H W pixels              video   (B,3,T,H,W), float, [-1, 1]
    C latent channels, F latent frames, h w latent pixels latent  (B,C,F,h,w), float, unbounded
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ssvae.core.seeds import derive
from ssvae.core.shapes import check_ndim
from ssvae.core.types import Posterior
from ssvae.models.latent_scale import LatentScale
from ssvae.models.zoo_rules import COGVIDEOX, HUNYUAN, IMAGE, LTX, WAN, PublishedLayout
from ssvae.models.zoo_source import PRESETS, published_folder, read_layout

COLOURS = 3
IMAGE_PIXELS = 2**20
"""Pixels of the frames that an image VAE computes at once."""
NOISE_STREAM = "decoder noise of a published VAE"


class PublishedVAE(LatentScale):
    """A frozen VAE of ``diffusers``, in eval mode; satisfies :class:`~ssvae.models.autoencoder.Autoencoder`.

    network: one of the classes that :mod:`ssvae.models.zoo_rules` knows. layout: read from its config. Raises
    ValueError for normalisation constants that do not fit.

    Decoders that ask for more than latents: an LTX decoder with timestep conditioning gets time 0, and no noise is
    mixed into its latents (the default of diffusers' LTX pipeline); the noise that some LTX decoders add inside comes
    from a stream of its own that starts anew with each clip, so one latent gives one video on one kind of device.
    """

    def __init__(self, network: nn.Module, layout: PublishedLayout) -> None:
        super().__init__()
        self.layout = layout
        self.network = network
        mean, std = published_constants(network, layout)
        self._set_scale(torch.tensor(mean), torch.tensor(std))
        self._noise: torch.Generator | None = None
        for module in network.modules():
            if getattr(module, "per_channel_scale1", None) is not None:
                module.register_forward_pre_hook(self._give_noise)
        self.requires_grad_(False)
        self.eval()

    @property
    def channels(self) -> int:
        """Latent channels C."""
        return self.layout.channels

    @property
    def spatial_ratio(self) -> int:
        """Pixels per latent pixel along height and along width."""
        return self.layout.spatial_ratio

    @property
    def temporal_ratio(self) -> int:
        """Frames per latent frame, the first one apart; 1 for an image VAE."""
        return self.layout.temporal_ratio

    def latent_grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(F, h, w) of a clip; ValueError says the rule that it breaks and the nearest values that fit."""
        return self.layout.latent_grid(frames, height, width)

    def encode(self, video: Tensor) -> Posterior:
        """(B,3,T,H,W) in [-1,1] -> posterior over raw latents (B,C,F,h,w), log-variance clamped."""
        check_ndim("video", video.shape, 5, "(B,3,T,H,W)")
        if video.shape[1] != COLOURS:
            raise ValueError(f"video must have {COLOURS} colours on axis 1, got shape {tuple(video.shape)}")
        grid = self.latent_grid(*video.shape[2:])
        moments = torch.cat([self._encode_clip(clip) for clip in video.split(1)])
        expected = (video.shape[0], 2 * self.channels, *grid)
        assert moments.shape == expected, f"{self.layout.class_name} gave {tuple(moments.shape)}, not {expected}"
        return Posterior.from_moments(moments)

    def decode(self, latent: Tensor) -> Tensor:
        """Raw latent (B,C,F,h,w) -> (B,3,T,H,W); Wan's own decoder clamps to [-1,1], the others do not.

        Raises ValueError for a wrong shape.
        """
        check_ndim("latent", latent.shape, 5, "(B,C,F,h,w)")
        if latent.shape[1] != self.channels:
            raise ValueError(f"latent must have {self.channels} channels on axis 1, got shape {tuple(latent.shape)}")
        frames = self.layout.frames_of(latent.shape[2])
        video = torch.cat([self._decode_clip(one) for one in latent.split(1)])
        assert video.shape[2] == frames, f"{self.layout.class_name} gave {video.shape[2]} frames, not {frames}"
        return video

    def _encode_clip(self, clip: Tensor) -> Tensor:
        """(1,3,T,H,W) -> (1,2C,F,h,w) = mean ‖ log-variance."""
        network: Any = self.network
        if not self.layout.image:
            moments: Tensor = network.encode(clip).latent_dist.parameters
            return moments
        frames = clip[0].transpose(0, 1)
        at_once = max(1, IMAGE_PIXELS // (clip.shape[3] * clip.shape[4]))
        found = [network.encode(part).latent_dist.parameters for part in frames.split(at_once)]
        return torch.cat(found).transpose(0, 1).unsqueeze(0)

    def _decode_clip(self, latent: Tensor) -> Tensor:
        """(1,C,F,h,w) -> (1,3,T,H,W)."""
        network: Any = self.network
        if self.layout.image:
            frames = latent[0].transpose(0, 1)
            at_once = max(1, IMAGE_PIXELS // (latent.shape[3] * latent.shape[4] * self.spatial_ratio**2))
            found = [network.decode(part).sample for part in frames.split(at_once)]
            return torch.cat(found).transpose(0, 1).unsqueeze(0)
        time = latent.new_zeros(1) if network.config.get("timestep_conditioning") else None
        self._noise = torch.Generator(latent.device).manual_seed(derive(0, NOISE_STREAM))
        try:
            video: Tensor = (network.decode(latent) if time is None else network.decode(latent, time)).sample
        finally:
            self._noise = None  # a generator cannot be copied, and a module should
        return video

    def _give_noise(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Hook of blocks (hidden, time embedding, generator) that add noise: theirs would be the global generator."""
        hidden, embedding = (*args, None)[:2]
        return hidden, embedding, self._noise


def load_published(
    source: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> PublishedVAE:
    """The VAE behind a name or a folder in diffusers' format (zoo_source.py); a name may be downloaded.

    Reads safetensors only and runs no code that comes with the weights. Raises ValueError when the package or the
    files cannot be had, for classes that are not supported, and for tensors that are not exactly the class's.
    """
    folder = published_folder(source)
    preset = PRESETS.get(str(source)) if not Path(source).expanduser().exists() else None
    layout = read_layout(folder, preset.repository if preset is not None else None)
    kind = _network_class(layout.class_name)
    try:
        network, report = kind.from_pretrained(
            str(folder), use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        said = str(error).strip().split("\n", 1)[0]
        raise ValueError(f"{folder}: config.json and weights do not make an {layout.class_name}: {said}") from error
    missing, unknown = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    wrong = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    if missing or unknown or wrong:
        # diffusers fills what is missing with random numbers and goes on.
        raise ValueError(
            f"{folder}: not the weights of this {layout.class_name}: {len(missing)} tensors missing {missing[:2]}, "
            f"{len(unknown)} unknown {unknown[:2]}, {len(wrong)} of another shape {wrong[:2]}"
        )
    try:
        vae = PublishedVAE(network.float(), layout)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return vae.to(device=device, dtype=dtype)


def published_constants(network: nn.Module, layout: PublishedLayout) -> tuple[list[float], list[float]]:
    """(mean, std), C numbers each, so that (raw - mean)/std is what the class's own pipeline diffuses.

    (raw - latents_mean)/latents_std for Wan, the same times scaling_factor for LTX (whose numbers are buffers),
    raw·scaling_factor for CogVideoX and HunyuanVideo, (raw - shift_factor)·scaling_factor for AutoencoderKL; a config
    of these that has latents_mean and latents_std is read as LTX's. Raises ValueError for numbers that cannot be used.
    """
    config: Any = network.config
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if layout.class_name == LTX:
        assert isinstance(network.latents_mean, Tensor) and isinstance(network.latents_std, Tensor)
        mean, std = network.latents_mean.tolist(), network.latents_std.tolist()
    if (mean is None) != (std is None):
        raise ValueError("config.json has one of latents_mean and latents_std alone")
    shift = config.get("shift_factor")
    scale = 1.0 if layout.class_name == WAN else config.get("scaling_factor")
    scale = 1.0 if scale is None else scale
    if not scale > 0:
        raise ValueError(f"config.json: scaling_factor must be above 0, got {scale!r}")
    if mean is None:
        mean, std = [0.0 if shift is None else shift] * layout.channels, [1.0] * layout.channels
    elif shift:
        raise ValueError("config.json has both shift_factor and latents_mean: which one counts is not known")
    means = [float(value) for value in mean]
    stds = [float(value) / float(scale) for value in std]
    if len(means) != layout.channels or len(stds) != layout.channels:
        raise ValueError(
            f"{len(means)} latents_mean and {len(stds)} latents_std do not fit {layout.channels} latent channels"
        )
    if not all(math.isfinite(value) for value in (*means, *stds)) or min(stds) <= 0:
        raise ValueError("latent means must be finite, stds and scaling_factor finite and above 0")
    return means, stds


def _network_class(name: str) -> Any:
    """The class of ``diffusers`` of that name. Raises ValueError where the package is missing."""
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(f"{name}: the package diffusers is missing: pip install -e '.[vaes]'") from error
    classes = {
        WAN: diffusers.AutoencoderKLWan,
        COGVIDEOX: diffusers.AutoencoderKLCogVideoX,
        HUNYUAN: diffusers.AutoencoderKLHunyuanVideo,
        LTX: diffusers.AutoencoderKLLTXVideo,
        IMAGE: diffusers.AutoencoderKL,
    }
    return classes[name]
