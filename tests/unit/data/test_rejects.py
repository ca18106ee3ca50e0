"""Rejected samples are counted, named once, and stop the run above the stated share."""

from __future__ import annotations

import json
import logging

import pytest

from ssvae.data.rejects import RejectLog


def test_counts_by_reason_and_names_once(caplog: pytest.LogCaptureFixture) -> None:
    log = RejectLog(limit=1.0)
    with caplog.at_level(logging.WARNING):
        log.add(8, [("a", "truncated"), ("b", "too_short")])
        log.add(8, [("a", "truncated"), ("c", "truncated")])
    assert log.counts() == {"too_short": 1, "truncated": 2}
    assert (log.accepted, log.rejected) == (16, 4)
    assert log.describe(names=1) == "too_short 1: b; truncated 2: a, ..."
    assert [record.getMessage() for record in caplog.records] == [
        "data: rejected a (truncated)",
        "data: rejected b (too_short)",
        "data: rejected c (truncated)",
    ]


def test_stops_above_the_share_and_only_then() -> None:
    log = RejectLog(limit=0.1, minimum=50)
    log.add(4, [("a", "truncated")] * 5)
    log.add(41, [])
    with pytest.raises(
        ValueError, match=r"6 of 51.*data\.reject_share=0\.1.*truncated 2: a, b.*raise data\.reject_share"
    ):
        log.add(0, [("b", "truncated")])
    even = RejectLog(limit=0.1, minimum=10)
    even.add(9, [("a", "truncated")])
    assert even.rejected == 1


def test_a_limit_of_zero_stops_at_the_first() -> None:
    log = RejectLog(limit=0.0, minimum=1)
    log.add(10, [])
    with pytest.raises(ValueError, match="1 of 11"):
        log.add(0, [("a", "truncated")])


def test_state_continues() -> None:
    one, two = RejectLog(limit=0.2, minimum=10), RejectLog(limit=0.2, minimum=10)
    one.add(8, [("a", "zero_fps"), ("b", "truncated")])
    two.load_state(json.loads(json.dumps(one.state())))
    assert (two.counts(), two.accepted, two.rejected) == (one.counts(), 8, 2)
    with pytest.raises(ValueError, match="3 of 11"):
        two.add(0, [("c", "truncated")])


def test_the_limit_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"reject_share=1\.5"):
        RejectLog(limit=1.5)
