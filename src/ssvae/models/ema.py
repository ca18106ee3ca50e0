"""Exponential moving average of a module's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """float32 shadow of a module's parameters: shadow <- decay·shadow + (1 - decay)·parameter.

    decay: in [0, 1). Buffers are not averaged; the module keeps its own. Raises ValueError for a decay outside
    its range and for a module or state whose parameter names differ from the shadow's.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self.shadow = {name: value.detach().float().clone() for name, value in module.named_parameters()}
        self._stored: dict[str, Tensor] | None = None

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the shadow a step towards the module's parameters; call after each optimiser step."""
        parameters = self._parameters(module)
        targets = [parameters[name].detach().float() for name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), targets, 1.0 - self.decay)

    @torch.no_grad()
    def store(self, module: nn.Module) -> None:
        """Remember the module's own parameters until :meth:`restore`."""
        self._stored = {name: value.detach().clone() for name, value in self._parameters(module).items()}

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's parameters with the shadow (cast to their dtype)."""
        for name, value in self._parameters(module).items():
            value.copy_(self.shadow[name])

    @torch.no_grad()
    def restore(self, module: nn.Module) -> None:
        """Put back what :meth:`store` remembered."""
        assert self._stored is not None, "restore() without store()"
        for name, value in self._parameters(module).items():
            value.copy_(self._stored[name])
        self._stored = None

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[nn.Module]:
        """Within the block the module carries the averaged weights; afterwards its own again, also on an error."""
        self.store(module)
        self.copy_to(module)
        try:
            yield module
        finally:
            self.restore(module)

    def state_dict(self) -> dict[str, Tensor]:
        """Shadow tensors by parameter name, float32 (copies)."""
        return {name: value.clone() for name, value in self.shadow.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace the shadow; names and shapes must equal the current ones."""
        _check_names(self.shadow, state, "the ema state")
        for name, value in state.items():
            if value.shape != self.shadow[name].shape:
                raise ValueError(
                    f"the ema state's {name} has shape {tuple(value.shape)}, expected {tuple(self.shadow[name].shape)}"
                )
            self.shadow[name].copy_(value)

    def _parameters(self, module: nn.Module) -> dict[str, nn.Parameter]:
        parameters = dict(module.named_parameters())
        _check_names(self.shadow, parameters, "the module")
        return parameters


def _check_names(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> None:
    if expected.keys() != found.keys():
        differing = sorted(expected.keys() ^ found.keys())
        raise ValueError(f"{what} does not have the parameters the ema was made for; they differ in {differing[:5]}")
