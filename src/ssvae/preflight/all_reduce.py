"""Do sums over the ranks come out right, in time, and at what speed?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta

import torch
import torch.distributed as dist

from ssvae.build import default_device
from ssvae.preflight.base import Crew, Facts, Limits, Problem, Verdict
from ssvae.preflight.board import Board

SIZES = {"cuda": (4 * 2**10, 2**20, 64 * 2**20), "cpu": (4 * 2**10, 2**20)}
"""Bytes of each message. 64 MiB is what gradients are reduced in (core/ranks.py)."""
_PERIOD = 1024
"""Values repeat after so many, so that sums over thousands of ranks are exact in float32."""
_REPEATS = 5
_LOOK_S = 2e-5


class Late(Exception):
    """A sum did not come within its time."""


def measure_all_reduce(board: Board, crew: Crew, missing: Callable[[], list[int]], limits: Limits) -> Facts:
    """Sum messages of each size over all ranks, in a group of its own whose operations end by themselves.

    missing: the ranks that do not answer, as the first rank knows them by now: with any it is left out, since the
    others would wait for them.
    """
    if crew.world == 1:
        return {"skipped": "one rank alone"}
    absent = board.from_first("all_reduce/absent", missing(), limits.reading_s)
    if absent is None:
        return {"problems": [["the first rank did not come to the all-reduce", "its log says why"]]}
    if absent:
        return {"skipped": f"not with ranks that are missing: {', '.join(map(str, absent))}"}
    if not dist.is_initialized():
        return {"skipped": "no process group is open"}
    device = default_device()
    until = time.monotonic() + limits.all_reduce_s
    size = 0
    try:
        group = dist.new_group(timeout=timedelta(seconds=limits.all_reduce_s))
        seconds = {}
        wrong = []
        for size in SIZES[device.type]:
            right, spent = _sum(group, size // 4, board.ranks.rank, crew.world, device, until)
            seconds[str(size)] = spent
            if not right:
                wrong.append(size)
        dist.destroy_process_group(group)
    except (Late, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0][:200]
        return {"problems": [[f"the sum of {_bytes(size)} did not come ({first})", _remedy(device)]]}
    found: Facts = {"seconds": seconds, "device": device.type}
    if wrong:
        sizes = ", ".join(map(_bytes, wrong))
        found["problems"] = [[f"the sum over the ranks of {sizes} is wrong", _remedy(device)]]
    return found


def judge_all_reduce(answers: Mapping[int, Facts], crew: Crew, limits: Limits) -> Verdict:
    """Speeds of the slowest rank. A slow network between GPUs is a warning: a slow run is still a right one."""
    timed = [facts for facts in answers.values() if "seconds" in facts]
    if not timed:
        return Verdict("", [], [])
    slowest = {size: max(facts["seconds"][size] for facts in timed) for size in timed[0]["seconds"]}
    parts = [
        f"{_bytes(int(size))} {1000 * seconds:.2f} ms ({bus_speed(int(size), seconds, crew.world):.2g} GB/s)"
        for size, seconds in slowest.items()
    ]
    warnings = []
    size, seconds = list(slowest.items())[-1]
    speed = bus_speed(int(size), seconds, crew.world)
    if timed[0]["device"] == "cuda" and speed < limits.slow_bus:
        warnings.append(
            Problem(
                f"sums of {_bytes(int(size))} over the GPUs run at {speed:.2g} GB/s a rank",
                "NCCL seems to take a slow way: NCCL_DEBUG=INFO shows which (NCCL_SOCKET_IFNAME, NCCL_IB_HCA)",
            )
        )
    return Verdict(", ".join(parts), [], warnings)


def bus_speed(size: int, seconds: float, world: int) -> float:
    """GB/s that each rank sends and receives in a ring: 2 (n - 1)/n of the message (the "bus bandwidth" of NCCL's own
    tests)."""
    return 2 * (world - 1) / world * size / seconds / 1e9


def _sum(
    group: dist.ProcessGroup, count: int, rank: int, world: int, device: torch.device, until: float
) -> tuple[bool, float]:
    """Is the sum of (0 .. 1023, 0 .. 1023, ...) + rank right? And the best time of five sums of zeros."""
    pattern = torch.arange(count, device=device).remainder(_PERIOD).float()
    values = pattern + rank
    _reduce(group, values, until)
    right = bool(torch.equal(values, pattern * world + world * (world - 1) / 2))
    values.zero_()
    best = float("inf")
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        _reduce(group, values, until)
        best = min(best, time.perf_counter() - begun)
    return right, best


def _reduce(group: dist.ProcessGroup, values: torch.Tensor, until: float) -> None:
    """Sum in place. Waiting by looking, so that a rank that never comes costs no more than the time that is left."""
    work = dist.all_reduce(values, group=group, async_op=True)
    assert work is not None
    while not work.is_completed():
        if time.monotonic() > until:
            raise Late("no end within its time")
        if not values.is_cuda:
            time.sleep(_LOOK_S)  # the threads that do the work need the processor
    work.wait()
    if values.is_cuda:
        torch.cuda.synchronize(values.device)


def _remedy(device: torch.device) -> str:
    if device.type == "cuda":
        return "NCCL_DEBUG=INFO says where it hangs; check NCCL_SOCKET_IFNAME, firewall and the links between the nodes"
    return "check GLOO_SOCKET_IFNAME, and firewall and name resolution between the nodes"


def _bytes(size: int) -> str:
    return f"{size // 2**20} MiB" if size >= 2**20 else f"{size // 2**10} KiB"
