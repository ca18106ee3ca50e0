"""What two real processes agree on, against one that has everything."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ssvae.core.ranks import ALONE, Ranks
from ssvae.train.guard import Guard, NonFiniteLoss


def _member(rank: int, store: str, out: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    ranks = Ranks.current()
    big, small, lone, unused = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 2), (5,), (2,), (4,)))
    if rank == 0:
        lone.grad = torch.ones(2)
    big.grad, small.grad = torch.full((3, 2), 1.0 + rank), torch.arange(5.0) * rank
    ranks.average_gradients([big, small, lone, unused])
    guard = Guard(limit=1, ranks=ranks)
    loss = torch.tensor(float("nan") if rank == 1 else 1.0)
    verdicts = [guard.allows(1, loss=torch.tensor(1.0)), guard.allows(2, loss=loss)]
    stopped = ""
    try:
        guard.allows(3, loss=loss)
    except NonFiniteLoss as error:
        stopped = str(error)
    torch.save(
        {
            "ranks": (ranks.rank, ranks.world, ranks.first),
            "sum": ranks.sum(torch.tensor([1.0, float(rank)], dtype=torch.float64)),
            "mean": ranks.mean(torch.tensor(float(rank))),
            "all": (ranks.all(True), ranks.all(rank == 0)),
            "largest": (ranks.largest(rank), ranks.largest(2 - rank)),
            "shared": ranks.share({"from": rank}),
            "gradients": [big.grad, small.grad, lone.grad],
            "unused": unused.grad is None,
            "verdicts": verdicts,
            "stopped": stopped,
        },
        Path(out) / f"{rank}.pt",
    )
    ranks.wait()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    folder = tmp_path_factory.mktemp("ranks")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    mp.spawn(_member, (str(folder / "store"), str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_both_know_who_they_are(pair: list[dict[str, object]]) -> None:
    assert [one["ranks"] for one in pair] == [(0, 2, True), (1, 2, False)]


def test_sums_means_and_votes_are_the_same_on_both(pair: list[dict[str, object]]) -> None:
    for one in pair:
        assert torch.equal(one["sum"], torch.tensor([2.0, 1.0], dtype=torch.float64))  # type: ignore[arg-type]
        assert float(one["mean"]) == 0.5  # type: ignore[arg-type]
        assert one["all"] == (True, False)
        assert one["largest"] == (1, 2)
        assert one["shared"] == {"from": 0}


def test_gradients_become_their_mean_and_one_missing_on_a_rank_counts_as_zero(pair: list[dict[str, object]]) -> None:
    for one in pair:
        big, small, lone = one["gradients"]  # type: ignore[misc]
        assert torch.equal(big, torch.full((3, 2), 1.5))
        assert torch.equal(small, torch.arange(5.0) / 2)
        assert torch.equal(lone, torch.full((2,), 0.5))
        assert one["unused"], "an optimiser leaves alone what no rank used, as in one process"


def test_one_ranks_nan_stops_the_update_on_both_and_the_limit_raises_on_both(pair: list[dict[str, object]]) -> None:
    for one in pair:
        assert one["verdicts"] == [True, False]
        assert "at step 3" in str(one["stopped"])


def test_alone_everything_is_the_identity() -> None:
    value = torch.tensor([1.0, 2.0])
    parameter = torch.nn.Parameter(torch.zeros(2))
    ALONE.average_gradients([parameter])
    assert parameter.grad is None
    assert ALONE.sum(value) is value and ALONE.mean(value) is value
    assert (ALONE.all(True), ALONE.all(False), ALONE.largest(3)) == (True, False, 3)
    assert ALONE.share("x") == "x" and ALONE.first
    assert Ranks.current() == ALONE
