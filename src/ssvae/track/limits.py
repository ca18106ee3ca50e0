"""MLflow's limits, kept on our side: names, lengths, sizes of requests.

A request past a limit is refused as a whole, by some stores only (a server limits the request, a local database does
not), so everything is cut to fit before it is sent.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import TypeVar

T = TypeVar("T")

KEY_LIMIT = 250
"""Longest name of a metric, parameter or tag, in characters."""
PARAM_LIMIT = 6000
"""Longest value of a parameter."""
TAG_LIMIT = 5000
"""Longest value of a tag: what every version and store takes."""
PARAMS_PER_CALL = 100
"""Parameters, and tags, of one call."""
POINTS_PER_CALL = 1000
"""Metric values of one call."""
REQUEST_BYTES = 900_000
"""A server takes 1,000,000 bytes; the rest is for the frame around the values."""
_NOT_ALLOWED = re.compile(r"[^\w\-. :/]")
_ROW_BYTES = 140
"""What JSON adds to a row's texts: names of fields, numbers, quotes."""


def store_key(name: str) -> str:
    """``name`` in the form that MLflow takes, at most 250 characters; the same name always gives the same key.

    Characters that are refused become ``_``, and so do the parts of a path that would resolve to another one (``..``,
    an empty part). A name that is too long is cut and ends with a digest of the whole, so that two long names that
    begin alike stay two.
    """
    plain = _NOT_ALLOWED.sub("_", name)
    if posixpath.normpath(plain) != plain or plain.startswith(("/", "..")) or plain == ".":
        plain = "/".join(part if part not in ("", ".", "..") else "_" * max(1, len(part)) for part in plain.split("/"))
    return plain if len(plain) <= KEY_LIMIT else f"{plain[: KEY_LIMIT - 9]}_{_digest(name)}"


def unique_keys(names: Sequence[str]) -> dict[str, str]:
    """name -> key; of names that would become one key, all but the first get a digest at the end."""
    taken: set[str] = set()
    keys: dict[str, str] = {}
    for name in names:
        key = store_key(name)
        if key in taken:
            key = f"{key[: KEY_LIMIT - 9]}_{_digest(name)}"
        taken.add(key)
        keys[name] = key
    return keys


def cut_param(key: str, value: str) -> tuple[str, str | None]:
    """(what fits, artifact that holds the whole text): a value that is cut ends with the artifact's name."""
    if len(value) <= PARAM_LIMIT:
        return value, None
    file = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', key)[:100]}_{_digest(key)}.txt"
    mark = f"... (cut; the whole is in params/{file})"
    return value[: PARAM_LIMIT - len(mark)] + mark, file


def cut_tag(value: str) -> str:
    """A tag's value, cut with a mark."""
    return value if len(value) <= TAG_LIMIT else value[: TAG_LIMIT - 3] + "..."


def row_bytes(*texts: str) -> int:
    """Bytes of a request for one row with these texts; whatever is not ASCII is escaped there."""
    return _ROW_BYTES + sum(len(json.dumps(text)) for text in texts)


def calls(rows: Sequence[T], most: int, size: Callable[[T], int], limit: int = REQUEST_BYTES) -> Iterator[Sequence[T]]:
    """``rows`` in pieces of at most ``most`` rows and ``limit`` bytes; a row above the limit goes alone."""
    begin = total = 0
    for end, row in enumerate(rows):
        cost = size(row)
        if end > begin and (end - begin == most or total + cost > limit):
            yield rows[begin:end]
            begin, total = end, 0
        total += cost
    if begin < len(rows):
        yield rows[begin:]


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8]
