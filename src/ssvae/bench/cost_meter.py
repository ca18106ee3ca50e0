"""Count what code computes and holds in memory without computing it: on tensors of the device ``meta``, which have a
shape and nothing else.

Counted are convolutions and matrix products, a multiplication and an addition each; what lies between them (norms,
activations, sums) takes memory time rather than arithmetic. Operators are seen as they reach the device, so a custom
autograd function, a second backward pass or a recomputed block counts with what it really does.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
_READ = aten._local_scalar_dense.default
_DRAWS = (aten.rand.default, aten.rand.generator, aten.randint.default, aten.randint.generator)
_PRIMES = (2, 3, 5, 7, 11, 13)
WIDEST_FUSED = 256
"""Channels a head that fused kernels take."""


@dataclass(frozen=True, slots=True)
class Count:
    """flops: of products. peak: the most bytes that were alive at once of what was made in between."""

    flops: float
    peak: int


class Meter(TorchDispatchMode):
    """Counts every operator that runs under it.

    device: whose memory counts. existing: tensors whose memory is accounted for elsewhere, such as weights. draw:
    where in their ranges scalar random numbers lie, see :func:`quantiles`. A number that code reads from a ``meta``
    tensor is 1: a hinge pulls, everything is finite.
    """

    def __init__(self, existing: Iterable[Tensor] = (), draw: int = 1, device: str = "meta") -> None:
        super().__init__()
        self.flops = 0.0
        self.peak = 0
        self._alive = 0
        # A storage's Python object lives as long as the memory that it stands for.
        self._known = {id(tensor.untyped_storage()) for tensor in existing}
        self._quantiles = quantiles(draw)
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _READ and args[0].is_meta:
            return args[0].dtype is torch.bool or 1
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in _DRAWS and out.ndim == 0:
            position = next(self._quantiles)
            out.fill_(position if out.is_floating_point() else math.floor(position * args[0]))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.device.type == self._device:
                self._note(leaf.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self._alive += size
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._alive -= size


@contextmanager
def fused_attention() -> Iterator[None]:
    """Multi-head attention as one operator, which keeps no N x N weights, as on a GPU; ``meta`` would write it out."""
    # In place of PyTorch's own function: a TorchFunctionMode is off while a backward pass runs, and a block that is
    # computed again there has to attend as it did before.
    setattr(functional, "scaled_dot_product_attention", _fused)  # noqa: B010 - its type names every argument
    try:
        yield
    finally:
        setattr(functional, "scaled_dot_product_attention", scaled_dot_product_attention)  # noqa: B010 - as above


def _fused(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **rest: Any) -> Tensor:
    """(B,A,N,D); other shapes and wide heads have no fused kernel. attn_mask: bool or numbers, broadcast to (B,A,N,L),
    which the memory-efficient kernel takes. rest: of PyTorch's function."""
    if not query.is_meta or query.ndim != 4 or query.shape[-1] > WIDEST_FUSED:
        return scaled_dot_product_attention(query, key, value, attn_mask, **rest)
    fused: Tensor
    if attn_mask is None:
        fused = aten._scaled_dot_product_flash_attention(query, key, value, scale=rest.get("scale"))[0]
        return fused
    bias = attn_mask.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    learns = torch.is_grad_enabled()
    fused = aten._scaled_dot_product_efficient_attention(query, key, value, bias, learns, scale=rest.get("scale"))[0]
    return fused


def count(work: Callable[[], Any], *, existing: Iterable[Tensor] = (), draw: int = 1) -> Count:
    """What ``work`` costs on ``meta`` tensors; the rest as in :class:`Meter`."""
    meter = Meter(existing, draw)
    with meter, fused_attention():
        work()
    return Count(meter.flops, meter.peak)


def drop_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Let gradients vanish as soon as they are complete: what remains to be counted are activations."""

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    for parameter in parameters:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(drop)


def quantiles(draw: int) -> Iterator[float]:
    """Positions in (0, 1) of the random numbers of draw number ``draw`` >= 1: Halton's points, which a few draws
    spread evenly, in each number and over pairs of them."""
    while True:
        for prime in _PRIMES:
            position, weight, rest = 0.0, 1.0, draw
            while rest:
                weight /= prime
                rest, digit = divmod(rest, prime)
                position += digit * weight
            yield position
