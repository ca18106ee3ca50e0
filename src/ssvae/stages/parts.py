"""What was trained beside the VAE: a mask token, the likelihood's scale, the critic. A later stage goes on from them.

The official code keeps them in one checkpoint with the autoencoder, so its second stage continues them as well.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ssvae.core.files import write_atomic
from ssvae.models.weights import PARTS_FILE
from ssvae.objective.adversary import Adversary
from ssvae.objective.nll import NegativeLogLikelihood

logger = logging.getLogger(__name__)


def parts_of(regularizers: Mapping[str, nn.Module], nll: NegativeLogLikelihood, adversary: Adversary | None) -> Parts:
    """The trained parts of one stage."""
    modules: dict[str, nn.Module] = {"regularizers": nn.ModuleDict(dict(regularizers)), "nll": nll}
    if adversary is not None:
        modules["critic"] = adversary.critic
    return Parts(nn.ModuleDict(modules))


class Parts:
    """Saved as one safetensors file in the stage's folder."""

    def __init__(self, modules: nn.ModuleDict) -> None:
        self._modules = modules

    def save(self, folder: Path) -> None:
        """Write :data:`PARTS_FILE` into ``folder``."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self._modules.state_dict().items()}
        write_atomic(folder / PARTS_FILE, lambda path: save_file(tensors, path))

    @torch.no_grad()
    def continue_from(self, folder: Path) -> list[str]:
        """Copy what ``folder``'s stage has of the same name and shape; returns those names. A critic goes on whole or
        not at all: half of it would be no critic."""
        before = load_file(folder / PARTS_FILE)
        own = self._modules.state_dict()
        fitting = {name for name, value in own.items() if name in before and before[name].shape == value.shape}
        critic = {name for name in own if name.startswith("critic.")}
        if not critic <= fitting:
            fitting -= critic
        for name in fitting:
            own[name].copy_(before[name])
        logger.info("continued from %s: %s", folder.name, ", ".join(sorted(_heads(fitting))) or "nothing")
        return sorted(fitting)


def _heads(names: set[str]) -> set[str]:
    return {"critic" if name.startswith("critic.") else name for name in names}
