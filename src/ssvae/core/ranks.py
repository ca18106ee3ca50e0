"""What the processes of one training run agree on: sums, means, yes or no. One process alone agrees with itself.

A loss that uses batch statistics takes ``sum`` (or ``mean``), so that R ranks with a batch of B each make the numbers
of one process with R·B.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
BUCKET_VALUES = 16 * 1024 * 1024
"""Gradients reduced at once: 64 MiB of float32, large enough for a network's full speed."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's ``rank`` of ``world``. With a world of 1 every method is the identity."""

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.world, (self.rank, self.world)

    @classmethod
    def current(cls) -> Ranks:
        """Of the process group that is open in this process; alone without one."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @staticmethod
    def leave() -> None:
        """Close this process's group, where one is open: threads that live on at exit end the process by a signal."""
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Is this the process that writes files?"""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks, detached, same shape; raises nothing of its own."""
        if self.world == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def mean(self, values: Tensor) -> Tensor:
        """Mean over ranks, detached."""
        return values if self.world == 1 else self.sum(values) / self.world

    def all(self, flag: bool, device: torch.device | str = "cpu") -> bool:
        """Is the flag true on every rank? Every rank gets the same answer."""
        if self.world == 1:
            return flag
        value = torch.tensor(float(flag), device=device)
        dist.all_reduce(value, op=dist.ReduceOp.MIN)
        return bool(value.item())

    def largest(self, value: int, device: torch.device | str = "cpu") -> int:
        """The largest ``value`` of any rank; every rank gets the same answer."""
        if self.world == 1:
            return value
        most = torch.tensor(value, device=device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return int(most.item())

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over ranks, in place.

        All ranks must name the same parameters in the same order. One without a gradient counts as zero, unless no rank
        has one: then it stays without, and an optimiser leaves it alone as it would in a single process.
        """
        if self.world == 1:
            return
        parameters = list(parameters)
        has = torch.tensor([parameter.grad is not None for parameter in parameters], device=parameters[0].device)
        anywhere = self.sum(has.float()).tolist()
        parameters = [parameter for parameter, count in zip(parameters, anywhere, strict=True) if count]
        bucket: list[torch.nn.Parameter] = []
        values = 0
        for parameter in parameters:
            bucket.append(parameter)
            values += parameter.numel()
            if values >= BUCKET_VALUES:
                self._reduce(bucket)
                bucket, values = [], 0
        if bucket:
            self._reduce(bucket)

    def _reduce(self, bucket: list[torch.nn.Parameter]) -> None:
        for parameter in bucket:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in bucket if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1).float() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def share(self, value: T) -> T:
        """The first rank's ``value``, on every rank (a small picklable object of our own making)."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's ``value`` in the order of ranks, on every rank (a picklable object of our own making)."""
        if self.world == 1:
            return [value]
        boxes: list[T] = [value] * self.world
        dist.all_gather_object(boxes, value)
        return boxes

    def wait(self) -> None:
        """Until every rank is here."""
        if self.world > 1:
            dist.barrier()


ALONE = Ranks()
"""The only process of its run."""
