"""Sums that are wrong, late or slow; over real ranks they are tried in tests/system/test_preflight_ranks.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from preflight_jobs import QUICK, crew

from ssvae.core.ranks import Ranks
from ssvae.preflight.all_reduce import bus_speed, judge_all_reduce, measure_all_reduce
from ssvae.preflight.base import Facts, Limits
from ssvae.preflight.board import Board

TWO = crew("n1", "n2")


class Work:
    """Of a sum that has ended, or never does."""

    def __init__(self, ended: bool) -> None:
        self._ended = ended

    def is_completed(self) -> bool:
        return self._ended

    def wait(self) -> None:
        assert self._ended


def measured(
    monkeypatch: pytest.MonkeyPatch, reduce: Any, limits: Limits = QUICK, absent: tuple[int, ...] = ()
) -> Facts:
    """As the first of two ranks, whose sums are made by ``reduce``."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "new_group", lambda timeout: "group")
    monkeypatch.setattr(dist, "destroy_process_group", lambda group: None)
    monkeypatch.setattr(dist, "all_reduce", reduce)
    return measure_all_reduce(Board(dist.HashStore(), Ranks(0, 2), {}), TWO, lambda: list(absent), limits)


def right(values: torch.Tensor, group: str, async_op: bool) -> Work:
    values.copy_(2 * values + 1)  # the other rank's values are larger by one
    return Work(True)


def test_right_sums_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = measured(monkeypatch, right)
    assert "problems" not in facts and facts["device"] in ("cpu", "cuda")
    assert all(seconds > 0 for seconds in facts["seconds"].values()) and "1048576" in facts["seconds"]


def test_wrong_sums_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(values: torch.Tensor, group: str, async_op: bool) -> Work:
        right(values, group, async_op)
        if len(values) > 2000:
            values[1500] += 1
        return Work(True)

    ((what, remedy),) = measured(monkeypatch, wrong)["problems"]
    assert what.startswith("the sum over the ranks of 1 MiB") and "4 KiB" not in what and "SOCKET_IFNAME" in remedy


def test_a_sum_that_never_ends_does_not_hold_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = measured(monkeypatch, lambda values, group, async_op: Work(False), replace(QUICK, all_reduce_s=0.2))
    ((what, remedy),) = facts["problems"]
    assert what == "the sum of 4 KiB did not come (no end within its time)" and "between the nodes" in remedy


def test_a_broken_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(values: torch.Tensor, group: str, async_op: bool) -> Work:
        raise RuntimeError("Connection reset by peer\nstack")

    ((what, _),) = measured(monkeypatch, broken)["problems"]
    assert what == "the sum of 4 KiB did not come (Connection reset by peer)"


def test_with_ranks_missing_it_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(monkeypatch, None, absent=(1,)) == {"skipped": "not with ranks that are missing: 1"}


def test_alone_there_is_nothing_to_sum() -> None:
    assert "skipped" in measure_all_reduce(Board(dist.HashStore(), Ranks(), {}), crew("n1"), list, QUICK)


def test_the_slowest_rank_counts_and_a_slow_network_between_gpus_is_a_warning() -> None:
    def answers(seconds: float, device: str) -> dict[int, Facts]:
        return {rank: {"device": device, "seconds": {"4096": 1e-4, str(2**26): seconds * rank}} for rank in (1, 2)}

    assert bus_speed(10**9, 1.0, 2) == 1.0 and bus_speed(10**9, 1.0, 4) == 1.5
    verdict = judge_all_reduce(answers(0.0005, "cuda"), TWO, QUICK)
    assert verdict.problems == [] and verdict.warnings == []
    assert verdict.note == "4 KiB 0.10 ms (0.041 GB/s), 64 MiB 1.00 ms (67 GB/s)"
    (warning,) = judge_all_reduce(answers(0.02, "cuda"), TWO, QUICK).warnings
    assert "1.7 GB/s" in warning.what and "NCCL_DEBUG=INFO" in warning.remedy
    assert judge_all_reduce(answers(0.02, "cpu"), TWO, QUICK).warnings == []
