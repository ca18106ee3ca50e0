"""Scores out of a reward model's answer, strictly: a number is taken only where there is no doubt about it.

What counts: a line that begins with a dimension's label (bullets, numbering and bold marks before it are skipped, case
does not matter), a colon, and a number. ``3/4`` is 3 where 4 is the top of that scale; any other denominator is
refused, since it tells of another scale. A remark may follow the number behind a bracket, comma, dash or stop, if it
holds no digit: "4 (Perfect)"; "3-4", "3 or 4" and "4 people are seen" are refused. Text around the lines may ramble. A
label line without any number is prose (answers like to repeat the question) and is passed over. The same line twice is
fine if both say the same; if not, the answer contradicts itself. Every dimension and, in v1, the final score must be
there: half an answer is none.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from ssvae.metrics.reward_prompt import Question, Scale

Failure = Literal[
    "empty",
    "truncated",
    "missing",
    "contradictory",
    "ambiguous",
    "other_scale",
    "not_finite",
    "not_integer",
    "out_of_range",
]
"""Every reason for which an answer gives no score."""

_BEFORE = r"^[\s>*_#•\-]*(?:\(?\d+[.)]\s*)?[*_]*"
_RANGE = r"\s*(?:\(\s*\d+\s*[-–]\s*\d+\s*\))?"
_NUMBER = re.compile(r"(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)|[+-]?(?:nan|inf(?:inity)?)\b)(?P<rest>.*)", re.I)
_REMARK = re.compile(r"[\s*_]*(?:$|[(\[,;.\-–—][^\d]*$)")
_OVER = re.compile(r"\s*/\s*(?P<top>\d+(?:\.\d+)?)(?P<rest>.*)")


@dataclass(frozen=True, slots=True)
class Parsed:
    """scores: one a scale of the question, by its name; None if the answer gives none.

    failure, detail: why not; None and "" for an answer that could be read.
    """

    scores: dict[str, float] | None
    failure: Failure | None
    detail: str

    def mean(self, question: Question) -> float:
        """The headline: mean over dimensions, without the final score."""
        assert self.scores is not None, "an answer without scores has no mean"
        return math.fsum(self.scores[scale.name] for scale in question.dimensions) / len(question.dimensions)


class _Unreadable(Exception):
    """One line of an answer that cannot be read."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(failure, detail)
        self.failure: Failure = failure
        self.detail = detail


def parse_answer(text: str, question: Question, *, cut: bool) -> Parsed:
    """Scores of an answer. cut: the server stopped it at max_tokens, so that its last line may not be whole.

    Never raises: an answer that cannot be read comes back with its :data:`Failure`.
    """
    if cut:
        text = text.rpartition("\n")[0]
    elif not text.strip():
        return Parsed(None, "empty", "the answer holds no text")
    try:
        return Parsed({scale.name: _score(text, scale) for scale in question.scales}, None, "")
    except _Unreadable as error:
        if cut and error.failure == "missing":
            return Parsed(None, "truncated", f"max_tokens was reached before '{error.detail}'")
        return Parsed(None, error.failure, error.detail)


def _score(text: str, scale: Scale) -> float:
    label = re.escape(scale.label).replace(r"\ ", r"\s+")
    line = re.compile(rf"{_BEFORE}{label}[*_]*{_RANGE}[*_]*\s*:[\s*_]*(?P<value>.*)$", re.I)
    found = [match["value"] for one in text.splitlines() if (match := line.match(one))]
    numbers = {value for one in found if (value := _number(one, scale)) is not None}
    if not numbers:
        raise _Unreadable("missing", scale.label)
    if len(numbers) > 1:
        said = " and ".join(f"{number:g}" for number in sorted(numbers))
        raise _Unreadable("contradictory", f"{scale.label}: {said}")
    (number,) = numbers
    if not scale.low <= number <= scale.high:
        raise _Unreadable("out_of_range", f"{scale.label}: {number:g} is not in [{scale.low:g}, {scale.high:g}]")
    if scale.whole and not number.is_integer():
        raise _Unreadable("not_integer", f"{scale.label}: {number:g}")
    return number


def _number(value: str, scale: Scale) -> float | None:
    """The number that ``value`` begins with; None for prose."""
    match = _NUMBER.match(value)
    if match is None:
        return None
    number, rest = float(match["number"]), match["rest"]
    if not math.isfinite(number):
        raise _Unreadable("not_finite", f"{scale.label}: {match['number']}")
    if over := _OVER.match(rest):
        if float(over["top"]) != scale.high:
            raise _Unreadable("other_scale", f"{scale.label}: {value.strip()}, on a scale up to {scale.high:g}")
        rest = over["rest"]
    if _REMARK.match(rest) is None:
        raise _Unreadable("ambiguous", f"{scale.label}: {value.strip()[:60]}")
    return number
