"""Between two steps two real processes agree: to go on, to stop, or to fail together, and none is left waiting."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from ssvae.core.ranks import ALONE, Ranks
from ssvae.core.stop import ELSEWHERE, Stop
from ssvae.train.boundary import Boundary
from ssvae.train.log import samples_digest

WORLD = 2


class Reader:
    """Batches of one rank; ``failures``: what it raises at which draw."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        self.draws, self.failures = 0, failures

    def __call__(self) -> int:
        self.draws += 1
        if self.draws in self.failures:
            raise self.failures[self.draws]
        return self.draws


def told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _member(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    ranks = Ranks.current()
    found: dict[str, object] = {}
    for name, failing, error in (
        ("users", 1, ValueError("data: 16 clips in a row could not be used")),
        ("other", 0, OSError("stale file handle")),
    ):
        boundary = Boundary(ranks, Stop(), "cpu")
        reader = Reader({3: error} if rank == failing else {})
        drawn = [boundary.draw(reader), boundary.draw(reader)]
        try:
            boundary.draw(reader)
        except Exception as raised:
            found[name] = [drawn, told(raised)]
    # One is asked to stop while the other cannot read: what is whole is kept.
    stop = Stop()
    boundary, reader = Boundary(ranks, stop, "cpu"), Reader({2: ValueError("broken")} if rank == 0 else {})
    first = boundary.draw(reader)
    if rank == 1:
        stop.ask("signal SIGTERM")
    found["stop"] = [first, boundary.draw(reader), stop.reason, reader.draws]
    mine = [["a", "b"], ["x", "y"]] if rank == 0 else [["c", "d"], ["z", "w"]]
    found["digest"] = samples_digest(mine, ranks)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    ranks.wait()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    folder = tmp_path_factory.mktemp("boundary")
    mp.spawn(_member, (str(folder),), nprocs=WORLD)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


def test_a_users_error_on_one_rank_is_raised_on_all(pair: list[dict[str, object]]) -> None:
    same = [[1, 2], "ValueError: data: 16 clips in a row could not be used"]
    assert [one["users"] for one in pair] == [same, same]


def test_another_error_keeps_its_type_where_it_happened_and_is_named_elsewhere(pair: list[dict[str, object]]) -> None:
    assert pair[0]["other"] == [[1, 2], "OSError: stale file handle"]
    assert pair[1]["other"] == [[1, 2], "RuntimeError: rank 0 could not go on: OSError: stale file handle"]


def test_a_stop_of_one_rank_is_one_of_all_also_where_another_fails(pair: list[dict[str, object]]) -> None:
    assert pair[0]["stop"] == [1, None, ELSEWHERE, 2]
    assert pair[1]["stop"] == [1, None, "signal SIGTERM", 1], "who stops reads nothing more"


def test_the_digest_is_that_of_the_global_batch(pair: list[dict[str, object]]) -> None:
    whole = samples_digest([["a", "b", "c", "d"], ["x", "y", "z", "w"]], ALONE)
    assert [one["digest"] for one in pair] == [whole, whole]
    assert len(whole) == 12
    others = ([["a", "b", "d", "c"], ["x", "y", "z", "w"]], [["a", "b", "c", "d", "x", "y", "z", "w"]])
    assert all(samples_digest(turns, ALONE) != whole for turns in others), "order and turns count"


def test_alone_an_error_is_raised_as_it_is() -> None:
    error = OSError("gone")
    boundary = Boundary(ALONE, Stop(), "cpu")
    with pytest.raises(OSError, match="gone") as caught:
        boundary.draw(Reader({1: error}))
    assert caught.value is error
