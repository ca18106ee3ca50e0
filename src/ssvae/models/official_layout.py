"""Names and shapes of official SSVAE checkpoints: what each tensor of ours is called there, and what they reveal.

Quirks of the official code that the architecture, inferred from names and shapes alone, brings along:

* Two attention blocks in the encoder's middle against one in the decoder's (the encoder asks for its number of
  residual blocks where the decoder asks for that of its middle); read off the names, never assumed.
* A downsampling in space only is a 2-D convolution of its own, one in space and time a causal 3-D convolution inside
  another module (``downsample.conv`` against ``downsample.conv.conv``): the only trace of which levels compress time.
  The decoder's names do not say; its levels mirror the encoder's.
* The shortcut beside a downsampling pads time with zeros, the convolution repeats the first frame
  (models/resample.py); spatial zeros of a downsampling are right and below only (models/conv.py).

Names and shapes as found in the official SSVAE code (zai-org/SSVAE at 0b141f7).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from ssvae.models.conv import CausalConv3d
from ssvae.models.vae import VAEConfig, VideoVAE

Shapes = Mapping[str, Sequence[int]]

_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^encoder\.levels\.", "encoder.down."),
    (r"^decoder\.levels\.", "decoder.up."),
    (r"\.blocks\.", ".block."),
    (r"\.middle\.", ".mid."),
    (r"\.shortcut$", ".nin_shortcut"),
    (r"\.norm_out$", ".out.0"),
    (r"\.conv_out$", ".out.2"),
)


def official_names(vae: VideoVAE) -> dict[str, str]:
    """Our name of each parameter -> its name in the official code; same shapes, no two alike."""
    names = {}
    for path, module in vae.named_modules():
        official = path
        for pattern, replacement in _RENAMES:
            official = re.sub(pattern, replacement, official)
        if isinstance(module, CausalConv3d):
            official += ".conv"  # there a causal convolution wraps a plain one
        for name, _ in module.named_parameters(recurse=False):
            names[f"{path}.{name}"] = f"{official}.{name}"
    return names


def infer_config(shapes: Shapes) -> VAEConfig:
    """The architecture that official names and ``shapes`` show. Raises ValueError where they show none.

    Sizes are taken by majority over all tensors that show them: one wrong tensor is then found by its own name when
    the result is compared with the file, instead of bending everything else.
    """
    levels = _count(shapes, r"encoder\.down\.{}\.block\.")
    if not levels:
        raise ValueError("no tensor is named encoder.down.0.block.*: no SSVAE autoencoder")
    base = _size(shapes, r"encoder\.(conv_in\.conv\.(weight|bias)|down\.0\.block\.0\.norm1\.gamma)", 0)
    widths = [_size(shapes, rf"encoder\.down\.{i}\.block\.\d+\.(norm2|conv1|conv2)\..*", 0) for i in range(levels)]
    for level, width in enumerate(widths):
        if not base or width % base:
            raise ValueError(f"encoder.down.{level} has {width} channels, no multiple of encoder.conv_in's {base}")
    return VAEConfig(
        channels=_latent_channels(shapes),
        base_channels=base,
        multipliers=tuple(width // base for width in widths),
        encoder_blocks=_blocks(shapes, "encoder.down"),
        decoder_blocks=_blocks(shapes, "decoder.up"),
        temporal_levels=tuple(
            any(name.startswith(f"encoder.down.{level}.downsample.conv.conv.") for name in shapes)
            for level in range(levels - 1)
        ),
        encoder_mid_attention=_attention(shapes, "encoder.mid"),
        decoder_mid_attention=_attention(shapes, "decoder.mid"),
    )


def _count(shapes: Shapes, pattern: str) -> int:
    """How many of 0, 1, 2, ... occur in names that begin with ``pattern``, up to the first that does not."""
    count = 0
    while any(re.match(pattern.format(count), name) for name in shapes):
        count += 1
    return count


def _size(shapes: Shapes, pattern: str, axis: int) -> int:
    """The size along ``axis`` that most tensors show whose names match ``pattern``."""
    shown = [shape[axis] for name, shape in shapes.items() if re.fullmatch(pattern, name) and len(shape) > axis]
    if not shown:
        form = pattern.replace("\\", "")
        raise ValueError(f"no tensor has a name of the form {form}: no SSVAE autoencoder")
    return Counter(shown).most_common(1)[0][0]


def _latent_channels(shapes: Shapes) -> int:
    """C, which three tensors show: the encoder ends in 2C channels, mean and log-variance."""
    shown: Counter[float] = Counter()
    for name, axis, per_channel in (
        ("decoder.conv_in.conv.weight", 1, 1),
        ("encoder.out.2.conv.weight", 0, 2),
        ("encoder.out.2.conv.bias", 0, 2),
    ):
        shape = shapes.get(name, ())
        if len(shape) > axis:
            shown[shape[axis] / per_channel] += 1
    if not shown:
        raise ValueError("neither encoder.out.2.conv nor decoder.conv_in.conv is there: no SSVAE autoencoder")
    return int(shown.most_common(1)[0][0])


def _blocks(shapes: Shapes, part: str) -> int:
    """Residual blocks a level, as in most levels of ``part``."""
    found: list[int] = []
    while blocks := _count(shapes, rf"{re.escape(part)}\.{len(found)}\.block\.{{}}\."):
        found.append(blocks)
    if not found:
        raise ValueError(f"no tensor is named {part}.0.block.0.*: no SSVAE autoencoder")
    return Counter(found).most_common(1)[0][0]


def _attention(shapes: Shapes, part: str) -> tuple[bool, ...]:
    """For each residual block of the middle ``part`` whether an attention follows, as ``VideoVAE`` wants it."""
    attention: list[bool] = []
    for index in range(_count(shapes, rf"{re.escape(part)}\.{{}}\.")):
        prefix = f"{part}.{index}."
        if not any(re.match(rf"{re.escape(prefix)}(norm|to_qkv|proj)\.", name) for name in shapes):
            attention.append(False)
        elif attention and not attention[-1]:
            attention[-1] = True
        else:
            raise ValueError(f"{prefix}* is an attention that follows no residual block, which is not known here")
    return tuple(attention)
