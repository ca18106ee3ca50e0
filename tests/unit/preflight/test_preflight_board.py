"""Notes between ranks: who is there, who is silent, and nothing from a call before."""

from __future__ import annotations

import pytest
import torch.distributed as dist
from preflight_jobs import crew, together

from ssvae.core.ranks import ALONE, Ranks
from ssvae.preflight.base import Crew, PreflightError, differing
from ssvae.preflight.board import Board, meeting_point


def test_all_sign_in_and_all_know_it() -> None:
    found = together(3, lambda board: board.roll_call(5))
    assert [found[rank].hosts.keys() for rank in range(3)] == [{0, 1, 2}] * 3
    assert found[0].absent == []


def test_who_never_comes_is_known_after_its_time() -> None:
    found = together(3, lambda board: board.roll_call(0.3), present=range(2))
    assert [found[rank].absent for rank in range(2)] == [[2], [2]]


def test_a_first_rank_that_never_comes_is_named() -> None:
    found = together(2, lambda board: board.roll_call(0.01), present=range(1, 2))
    assert isinstance(found[1], PreflightError) and "the first rank is silent" in str(found[1])


def test_notes_of_those_who_wrote_are_collected() -> None:
    def work(board: Board) -> object:
        if board.ranks.rank == 3:
            return None
        board.post("x", {"rank": board.ranks.rank})
        return board.collect("x", range(4), 2.0) if board.ranks.first else None

    assert together(4, work)[0] == {rank: {"rank": rank} for rank in range(3)}


def test_the_first_ranks_word_is_everyones() -> None:
    found = together(2, lambda board: board.from_first("word", [board.ranks.rank, "x"], 5))
    assert found == {0: [0, "x"], 1: [0, "x"]}


def test_a_second_call_finds_nothing_of_the_first() -> None:
    store = dist.HashStore()
    before, after = Board(store, ALONE, {}), Board(store, ALONE, {})
    before.post("here", "old")
    assert after.read("here", 0, 0) is None and before.read("here", 0, 0) == "old"


def test_ranks_that_are_started_again_find_nothing_of_their_predecessors() -> None:
    store = dist.HashStore()
    Board(store, ALONE, {"TORCHELASTIC_RESTART_COUNT": "0"}).post("here", "old")
    assert Board(store, ALONE, {"TORCHELASTIC_RESTART_COUNT": "1"}).read("here", 0, 0) is None


def test_ranks_without_a_place_to_meet_are_told_how_to_start() -> None:
    with pytest.raises(PreflightError, match="MASTER_ADDR and MASTER_PORT are not set; start them with torchrun"):
        meeting_point(Ranks(1, 2), 1, {"MASTER_ADDR": "localhost"})
    with pytest.raises(PreflightError, match=r"the port cannot be opened at localhost:x .*firewall"):
        meeting_point(Ranks(0, 2), 1, {"MASTER_ADDR": "localhost", "MASTER_PORT": "x"})


def test_ranks_are_named_with_their_hosts() -> None:
    four = crew("n1", "n1", "n1", "n2")
    assert four.names([0]) == "rank 0 (n1)"
    assert four.names([3, 1, 0]) == "ranks 0-1 (n1), 3 (n2)"
    assert four.names(range(4)) == "every rank"
    assert crew("n1").names([0]) == ""
    assert Crew(3, {0: "n1", 1: "n1"}).names([2]) == "rank 2"
    assert four.on_host(1) == [0, 1, 2] and four.on_host(3) == [3]
    assert differing(four, dict.fromkeys(range(4), "a")) is None
    assert differing(four, {0: "a", 1: "b", 2: "a", 3: "b"}) == "a on ranks 0, 2 (n1), b on ranks 1 (n1), 3 (n2)"
