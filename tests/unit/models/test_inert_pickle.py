"""A pickle that would take years: some dozen bytes whose keys' hashes double in time with every link."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any

import pytest

from ssvae.models.inert_pickle import UNPICKLING_ERRORS, read_inert

LINK = b"2\x86"  # the top of the stack twice, as a pair
JUNK = b"K\x010"  # pushed and popped: what an eye on chains alone would be misled by


def nested(links: int, link: bytes) -> bytes:
    return b")" + link * links


@pytest.mark.parametrize("links", [3, 64])
@pytest.mark.parametrize(
    "stream",
    [
        lambda key: b"\x80\x02}" + key + b"K\x01s.",  # {key: 1}
        lambda key: b"\x80\x02}(" + key + b"K\x01u.",  # the same by SETITEMS
        lambda key: b"\x80\x02(" + key + b"K\x01d.",  # by DICT
        lambda key: b"\x80\x04\x8f(" + key + b"\x90.",  # a set
        lambda key: b"\x80\x04(" + key + b"\x91.",  # a frozen set
        lambda key: b"\x80\x02ccollections\nOrderedDict\n](" + key + b"K\x01\x86e\x85R.",  # OrderedDict([(key, 1)])
    ],
    ids=["setitem", "setitems", "dict", "set", "frozenset", "ordered"],
)
@pytest.mark.parametrize("link", [LINK, JUNK + LINK], ids=["plain", "with junk"])
def test_nested_keys_are_refused_before_they_are_hashed(stream: Any, link: bytes, links: int) -> None:
    with pytest.raises(UNPICKLING_ERRORS):
        read_inert(stream(nested(links, link)))


@pytest.mark.parametrize(
    ("content", "protocol"),
    [
        ({"a": 1, 2: "b", None: 3.5, True: [1, (2, 3)], "x": {"deep": {"er": ()}}}, 2),
        ({("name", 0): 1}, 2),
        (OrderedDict([("b", 1), ("a", 2)]), 2),
        ({"set": {1, 2}, "frozen": frozenset({"x"}), b"bytes": 1}, 4),  # before protocol 4 these are calls
    ],
)
def test_ordinary_content_arrives(content: Any, protocol: int) -> None:
    assert read_inert(pickle.dumps(content, protocol)).content == content
