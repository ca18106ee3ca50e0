"""Official SSVAE checkpoints, read and written: Lightning's layout (a dictionary with ``state_dict``), strict.

Every tensor of ``state_dict`` is either part of the autoencoder or on this list:

* ``loss.*``: the critic, LPIPS and the likelihood's scale, which only training needs. Ignored.
* ``mask_token``, (1,C,1,1,1): what Latent Masked Reconstruction puts in place of masked latents. No part of the
  autoencoder; handed on, so that an exported file can hold it again.

Whatever lies beside ``state_dict`` is ignored: ``epoch``, ``global_step``, ``pytorch-lightning_version``, ``loops``,
``callbacks``, ``optimizer_states``, ``lr_schedulers``, ``hyper_parameters`` and what callbacks add. A file may also be
the bare state dict.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssvae.core.files import write_atomic
from ssvae.models.inert_pickle import StoredTensor
from ssvae.models.official_layout import infer_config, official_names
from ssvae.models.torch_archive import TorchArchive
from ssvae.models.vae import VideoVAE

logger = logging.getLogger(__name__)

STATE_DICT = "state_dict"
IGNORED_PREFIX = "loss."
MASK_TOKEN = "mask_token"
_SHOWN = 3
"""Names that an error message spells out."""


@dataclass(frozen=True, slots=True)
class OfficialWeights:
    """vae: in eval mode, float32, latent statistics at mean 0 and std 1. mask_token: (1,C,1,1,1) float32, if there."""

    vae: VideoVAE
    mask_token: Tensor | None


def load_official(path: Path) -> OfficialWeights:
    """Read an official checkpoint; the architecture comes from names and shapes alone (models/official_layout.py).

    Nothing in the file is executed: objects other than tensors become inert stubs, named once in the log. Raises
    ValueError, in one line that names the file, for a file that is no such checkpoint, is damaged, or whose tensors
    are missing, unknown, of wrong shapes or not floating-point.
    """
    with TorchArchive(path) as archive:
        stored = _state_dict(archive)
        shapes = {name: tensor.shape for name, tensor in stored.items() if not name.startswith(IGNORED_PREFIX)}
        mask_shape = shapes.pop(MASK_TOKEN, None)
        try:
            config = infer_config(shapes)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        with torch.device("meta"):
            vae = VideoVAE(**asdict(config))
        names = official_names(vae)
        expected = {names[name]: tuple(value.shape) for name, value in vae.named_parameters()}
        if mask_shape is not None:
            shapes[MASK_TOKEN] = mask_shape
            expected[MASK_TOKEN] = (1, config.channels, 1, 1, 1)
        _compare(path, expected, shapes)
        tensors = archive.read({name: stored[name] for name in expected})
        unknown = archive.unknown
    if unknown:
        listed = ", ".join(printable(name) for name in unknown)
        logger.warning("%s: left aside, never imported, %d foreign names: %s", path, len(unknown), listed)
    mask_token = tensors.pop(MASK_TOKEN, None)
    state = {ours: tensors[official] for ours, official in names.items()}
    state |= {"latent_mean": torch.zeros(config.channels), "latent_std": torch.ones(config.channels)}
    vae.load_state_dict(state, strict=True, assign=True)
    return OfficialWeights(vae.eval(), mask_token)


def official_state_dict(vae: VideoVAE, mask_token: Tensor | None = None) -> dict[str, Tensor]:
    """The parameters under the names of the official code, float32 on the CPU; latent statistics have no place there.

    mask_token: (1,C,1,1,1); left out when it is not known. ``loss.*`` is left out: it is another object's.
    """
    names = official_names(vae)
    state = {
        names[name]: value.detach().to("cpu", torch.float32).contiguous() for name, value in vae.named_parameters()
    }
    if mask_token is not None:
        if mask_token.shape != (1, vae.channels, 1, 1, 1):
            raise ValueError(f"mask_token must be (1,{vae.channels},1,1,1), got {tuple(mask_token.shape)}")
        state[MASK_TOKEN] = mask_token.detach().to("cpu", torch.float32)
    return state


def save_official(path: Path, vae: VideoVAE, mask_token: Tensor | None = None) -> None:
    """Write :func:`official_state_dict` in Lightning's layout; the file appears whole or not at all."""
    content = {STATE_DICT: official_state_dict(vae, mask_token)}
    write_atomic(path, lambda temporary: torch.save(content, temporary))


def printable(name: str) -> str:
    """A name from a foreign file, fit for one line of a message."""
    shown = name if name.isprintable() else ascii(name)
    return shown if len(shown) <= 120 else f"{shown[:117]}..."


def _state_dict(archive: TorchArchive) -> dict[str, StoredTensor]:
    content = archive.content
    state = content.get(STATE_DICT, content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{archive.path} holds no {STATE_DICT}: it is no checkpoint of a model")
    for name, value in state.items():
        if not isinstance(name, str):
            raise ValueError(f"{archive.path}: {STATE_DICT} has a name that is no text: {printable(ascii(name))}")
        if not isinstance(value, StoredTensor):
            foreign = f"; the file names {printable(', '.join(archive.unknown))}" if archive.unknown else ""
            raise ValueError(f"{archive.path}: {printable(name)} in {STATE_DICT} is no tensor{foreign}")
        archive.check(printable(name), value)
    return dict(state)


def _compare(path: Path, expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    """ValueError, naming them, for tensors that are missing, unknown or of another shape."""
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    problems = [
        f"{len(names)} {word} ({_some(names)})" for word, names in (("missing", missing), ("unknown", unknown)) if names
    ]
    if problems:
        raise ValueError(f"{path} does not fit the architecture that its names show: tensors {', '.join(problems)}")
    wrong = [name for name in expected if tuple(found[name]) != expected[name]]
    if wrong:
        shapes = [f"{name} has shape {tuple(found[name])}, expected {expected[name]}" for name in wrong]
        raise ValueError(f"{path}: {_some(shapes)}")


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(map(printable, names[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
