"""What a published VAE's ``config.json`` says about its latents: channels, compression, and the clips it takes.

The five classes of ``diffusers`` that are read here, and what their code does with the number of frames T:

* Wan walks a clip as its first frame and then four at a time; other counts lose their last frames.
* CogVideoX walks it eight at a time, the odd frame with the first ones, and decodes latent frames two at a time: of
  T = 1 + 8k frames as many come back. (8k frames come back too, but then no frame stands alone; other counts lose or
  gain some.)
* HunyuanVideo and LTX compress by 4 and by 8; LTX's pixels are patches of 4 x 4, so sizes are multiples of 32.
* AutoencoderKL (Flux, Stable Diffusion) knows images: each frame is one, T frames give T latent frames.

Dimension legend: T frames, H W pixels of a clip; C channels, F frames, h w pixels of its latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ssvae.core.shapes import nearest_frame_counts

WAN = "AutoencoderKLWan"
COGVIDEOX = "AutoencoderKLCogVideoX"
HUNYUAN = "AutoencoderKLHunyuanVideo"
LTX = "AutoencoderKLLTXVideo"
IMAGE = "AutoencoderKL"
COGVIDEOX_STEP = 8
"""Frames that CogVideoX's encoder takes at a time (diffusers: ``num_sample_frames_batch_size``)."""

DEFAULTS: dict[str, dict[str, Any]] = {
    WAN: {
        "z_dim": 16,
        "dim_mult": [1, 2, 4, 4],
        "temperal_downsample": [False, True, True],
        "in_channels": 3,
        "out_channels": 3,
        "patch_size": None,
    },
    COGVIDEOX: {
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": [128, 256, 256, 512],
        "latent_channels": 16,
        "temporal_compression_ratio": 4,
    },
    HUNYUAN: {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 16,
        "spatial_compression_ratio": 8,
        "temporal_compression_ratio": 4,
    },
    LTX: {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 128,
        "down_block_types": ["LTXVideoDownBlock3D"] * 4,
        "spatio_temporal_scaling": [True, True, True, False],
        "decoder_spatio_temporal_scaling": [True, True, True, False],
        "downsample_type": ["conv"] * 4,
        "patch_size": 4,
        "patch_size_t": 1,
    },
    IMAGE: {"in_channels": 3, "out_channels": 3, "block_out_channels": [64], "latent_channels": 4},
}
"""What a config of each class means where it is silent; the classes' own defaults."""
SUPPORTED = tuple(DEFAULTS)
_LTX_STEPS = {"conv": (2, 2), "spatial": (1, 2), "temporal": (2, 1), "spatiotemporal": (2, 2)}


@dataclass(frozen=True, slots=True)
class PublishedLayout:
    """What is known of a published VAE before its weights are read.

    class_name: of ``diffusers``. channels: C. spatial_ratio: pixels per latent pixel and side. temporal_ratio: r,
    frames per latent frame after the first; 1 for images. frame_step: T = 1 + frame_step·k. image: whether it takes
    each frame alone. repository: on huggingface.co, where it was asked for by name.
    """

    class_name: str
    channels: int
    spatial_ratio: int
    temporal_ratio: int
    frame_step: int
    image: bool = False
    repository: str | None = None

    @property
    def frames_rule(self) -> str:
        """Which numbers of frames it takes, in words."""
        return "any number of frames, each alone" if self.image else f"1 + {self.frame_step}k frames"

    def latent_grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(F, h, w) of a clip; ValueError says the rule that it breaks and the nearest values that fit."""
        if frames < 1 or (frames - 1) % self.frame_step:
            below, above = nearest_frame_counts(max(frames, 1), self.frame_step)
            why = f"temporal compression {self.temporal_ratio}, the first frame apart"
            if self.frame_step != self.temporal_ratio:
                why += f", {self.frame_step} frames at a time"
            fits = f"the nearest that fit are {below} and {above}"
            raise ValueError(f"{self.class_name} takes {self.frames_rule} ({why}), not {frames}: {fits}")
        for name, size in (("height", height), ("width", width)):
            if size < 1 or size % self.spatial_ratio:
                low = max(self.spatial_ratio, size // self.spatial_ratio * self.spatial_ratio)
                raise ValueError(
                    f"{self.class_name} takes sizes that are multiples of {self.spatial_ratio}, not {name} {size}: the "
                    f"nearest that fit are {low} and {low + self.spatial_ratio}"
                )
        return 1 + (frames - 1) // self.temporal_ratio, height // self.spatial_ratio, width // self.spatial_ratio

    def frames_of(self, latent_frames: int) -> int:
        """T of a latent of F frames; ValueError for an F that no clip has."""
        frames = 1 + (latent_frames - 1) * self.temporal_ratio
        if latent_frames < 1 or (frames - 1) % self.frame_step:
            below, above = nearest_frame_counts(max(latent_frames, 1), self.frame_step // self.temporal_ratio)
            raise ValueError(
                f"{self.class_name} decodes the latents of {self.frames_rule}, not {latent_frames} latent frames: the "
                f"nearest that fit are {below} and {above}"
            )
        return frames

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-ready dictionary."""
        return {
            "class": self.class_name,
            "repository": self.repository,
            "channels": self.channels,
            "spatial_ratio": self.spatial_ratio,
            "temporal_ratio": self.temporal_ratio,
            "frames": self.frames_rule,
        }


def layout(config: dict[str, Any], repository: str | None = None) -> PublishedLayout:
    """Read ``config`` (the content of a diffusers ``config.json``).

    Raises ValueError for a class that is not supported (it lists those that are), values of another kind than the
    class's, and compressions that the class's own code cannot walk.
    """
    name = config.get("_class_name")
    if name not in DEFAULTS:
        raise ValueError(f"_class_name {name!r} is no VAE that can be used here; supported: {', '.join(SUPPORTED)}")
    values = {key: config.get(key, default) for key, default in DEFAULTS[name].items()}
    for key, default in DEFAULTS[name].items():
        _check_kind(key, values[key], default)
    colours = 3 * (values["patch_size"] or 1) ** 2 if name == WAN else 3
    for key in ("in_channels", "out_channels"):
        if values[key] != colours:
            raise ValueError(f"{key} is {values[key]}: an RGB clip needs {colours}")
    return _READERS[name](values, repository)


def _check_kind(key: str, value: Any, default: Any) -> None:
    kind = type(default[0]) if isinstance(default, list) else int
    values = value if isinstance(default, list) else [value]
    if value is None and default is None:
        return
    if not isinstance(values, list | tuple) or not values or not all(type(one) is kind for one in values):
        many = "a list of " if isinstance(default, list) else ""
        raise ValueError(f"{key} must be {many}{kind.__name__}, got {value!r}")
    if kind is int and min(values) < 1:
        raise ValueError(f"{key} must be at least 1, got {value!r}")


def _need_four(name: str, ratio: int) -> None:
    if ratio != 4:
        raise ValueError(f"temporal compression {ratio}: the frame loops of {name} are made for 4")


def _wan(values: dict[str, Any], repository: str | None) -> PublishedLayout:
    if len(values["temperal_downsample"]) < len(values["dim_mult"]) - 1:
        raise ValueError("temperal_downsample needs one entry a downsampling, one fewer than dim_mult")
    levels = len(values["dim_mult"]) - 1
    ratio = 2 ** sum(values["temperal_downsample"][:levels])
    _need_four(WAN, ratio)
    return PublishedLayout(
        WAN, values["z_dim"], 2**levels * (values["patch_size"] or 1), ratio, ratio, repository=repository
    )


def _cogvideox(values: dict[str, Any], repository: str | None) -> PublishedLayout:
    ratio = values["temporal_compression_ratio"]
    _need_four(COGVIDEOX, ratio)
    space = 2 ** (len(values["block_out_channels"]) - 1)
    return PublishedLayout(COGVIDEOX, values["latent_channels"], space, ratio, COGVIDEOX_STEP, repository=repository)


def _hunyuan(values: dict[str, Any], repository: str | None) -> PublishedLayout:
    ratio, space = values["temporal_compression_ratio"], values["spatial_compression_ratio"]
    _need_four(HUNYUAN, ratio)
    if space & (space - 1):
        raise ValueError(f"spatial_compression_ratio must be a power of 2, got {space}")
    return PublishedLayout(HUNYUAN, values["latent_channels"], space, ratio, ratio, repository=repository)


def _ltx(values: dict[str, Any], repository: str | None) -> PublishedLayout:
    if values["patch_size_t"] != 1:
        raise ValueError(f"patch_size_t {values['patch_size_t']}: a first frame that stands alone has no such patches")
    kinds = values["downsample_type"]
    if values["down_block_types"][-1] != "LTXVideo095DownBlock3D":
        kinds = ["conv"] * len(values["spatio_temporal_scaling"])
    if unknown := sorted(set(kinds) - set(_LTX_STEPS)):
        raise ValueError(f"downsample_type {unknown[0]!r} is none of {', '.join(_LTX_STEPS)}")
    time, space = 1, values["patch_size"]
    for kind, scales in zip(kinds, values["spatio_temporal_scaling"], strict=False):
        if scales:
            time, space = time * _LTX_STEPS[kind][0], space * _LTX_STEPS[kind][1]
    # Every step of the decoder doubles time, height and width.
    back = 2 ** sum(values["decoder_spatio_temporal_scaling"])
    if (time, space) != (back, values["patch_size"] * back):
        raise ValueError(f"the encoder compresses by {time} x {space}, the decoder expands by another factor")
    return PublishedLayout(LTX, values["latent_channels"], space, time, time, repository=repository)


def _image(values: dict[str, Any], repository: str | None) -> PublishedLayout:
    space = 2 ** (len(values["block_out_channels"]) - 1)
    return PublishedLayout(IMAGE, values["latent_channels"], space, 1, 1, image=True, repository=repository)


_READERS: dict[str, Callable[[dict[str, Any], str | None], PublishedLayout]] = {
    WAN: _wan,
    COGVIDEOX: _cogvideox,
    HUNYUAN: _hunyuan,
    LTX: _ltx,
    IMAGE: _image,
}
