"""Answers that are read, and every kind that is not: each failure is provoked, none is guessed away."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_server import v1_answer, v2_answer
from ssvae.metrics.reward_parse import parse_answer
from ssvae.metrics.reward_prompt import QUESTIONS

V1, V2 = QUESTIONS["v1"], QUESTIONS["v2"]
BLOCK = v1_answer(4, 3, 2, 1, 3, final=6.5)
SCORES = {
    "visual_quality": 4.0,
    "temporal_consistency": 3.0,
    "dynamic_degree": 2.0,
    "alignment": 1.0,
    "factual_consistency": 3.0,
    "final": 6.5,
}


def with_line(number: int, line: str) -> str:
    lines = BLOCK.splitlines()
    lines[number] = line
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        BLOCK,
        BLOCK.upper(),
        BLOCK.replace("\n", "\r\n"),
        "\n\n" + BLOCK.replace("\n", "\n\n") + "\n",
        "Let me think. In frame 3 the cat has 5 legs, so I rate\nvisual quality: hard to say.\n\n" + BLOCK,
        BLOCK + "\n\nI hope that this helps: 100 points to the maker of this video.",
        BLOCK + "\n\nTo sum up:\n" + BLOCK,
        "\n".join(f"- **{line.split(':')[0]}**:{line.split(':')[1]}" for line in BLOCK.splitlines()),
        "\n".join(f"**{line.split(':')[0]}:**{line.split(':')[1]}" for line in BLOCK.splitlines()),
        "\n".join(f"({n}) {line}" for n, line in enumerate(BLOCK.splitlines(), start=1)),
        with_line(0, "visual quality (1-4): 4/4"),
        with_line(0, "visual quality: 4 (Perfect)"),
        with_line(0, "visual quality: 4.0, since every frame is sharp"),
        with_line(0, "visual  quality : 4"),
        with_line(5, "Final Score: 6.5/10"),
    ],
)
def test_readable_answers(text: str) -> None:
    parsed = parse_answer(text, V1, cut=False)
    assert (parsed.scores, parsed.failure) == (SCORES, None), parsed.detail
    assert parsed.mean(V1) == pytest.approx((4 + 3 + 2 + 1 + 3) / 5, abs=1e-15)


def test_fractions_of_v2() -> None:
    parsed = parse_answer(v2_answer(2.4036, 3.0987, 5), V2, cut=False)
    assert parsed.scores == {"alignment": 2.4036, "physics": 3.0987, "style": 5.0}
    assert parsed.mean(V2) == pytest.approx((2.4036 + 3.0987 + 5) / 3, abs=1e-15)


@pytest.mark.parametrize(
    ("text", "failure", "detail"),
    [
        ("", "empty", "no text"),
        (" \n ", "empty", "no text"),
        ("I cannot judge this video.", "missing", "visual quality"),
        (BLOCK.replace("dynamic degree: 2\n", ""), "missing", "dynamic degree"),
        (BLOCK.replace("Final Score: 6.5", ""), "missing", "Final Score"),
        (with_line(0, "visual quality: N/A"), "missing", "visual quality"),
        (with_line(0, "overall visual quality: 4"), "missing", "visual quality"),
        (BLOCK.replace("\n", ", "), "ambiguous", "visual quality"),
        (with_line(0, "visual quality: 5"), "out_of_range", "5 is not in [1, 4]"),
        (with_line(0, "visual quality: 0"), "out_of_range", "0 is not in [1, 4]"),
        (with_line(0, "visual quality: -3"), "out_of_range", "-3 is not in [1, 4]"),
        (with_line(5, "Final Score: 10.5"), "out_of_range", "10.5 is not in [1, 10]"),
        (with_line(0, "visual quality: 3.5"), "not_integer", "3.5"),
        (with_line(0, "visual quality: NaN"), "not_finite", "NaN"),
        (with_line(0, "visual quality: inf"), "not_finite", "inf"),
        (with_line(0, "visual quality: 4/5"), "other_scale", "4/5"),
        (with_line(0, "visual quality: 80/100"), "other_scale", "80/100"),
        (with_line(0, "visual quality: 3-4"), "ambiguous", "3-4"),
        (with_line(0, "visual quality: 3 or 4"), "ambiguous", "3 or 4"),
        (with_line(0, "visual quality: 3,5"), "ambiguous", "3,5"),
        (with_line(0, "visual quality: 4%"), "ambiguous", "4%"),
        (with_line(0, "visual quality: 4 people are seen"), "ambiguous", "4 people"),
        (with_line(0, "visual quality: 4e0"), "ambiguous", "4e0"),
        (BLOCK + "\nOn reflection:\n" + BLOCK.replace("degree: 2", "degree: 3"), "contradictory", "2 and 3"),
        (BLOCK + "\nFinal Score: 7", "contradictory", "6.5 and 7"),
    ],
)
def test_unreadable_answers(text: str, failure: str, detail: str) -> None:
    parsed = parse_answer(text, V1, cut=False)
    assert (parsed.scores, parsed.failure) == (None, failure)
    assert detail in parsed.detail


def test_an_answer_that_was_cut_does_not_give_its_last_line() -> None:
    """``Style Score: 3`` may have been going to be 3.9."""
    whole = v2_answer(2.5, 3.5, 3.9)
    assert parse_answer(whole[:-2], V2, cut=True).failure == "truncated"
    assert parse_answer(whole[:-2], V2, cut=False).scores == {"alignment": 2.5, "physics": 3.5, "style": 3.0}
    assert parse_answer("", V2, cut=True).failure == "truncated"
    # One that rambles on behind its block is whole where it matters.
    assert parse_answer(whole + "\nThe video the video the vid", V2, cut=True).failure is None


def test_a_mean_of_no_scores_is_an_error() -> None:
    with pytest.raises(AssertionError, match="has no mean"):
        parse_answer("", V1, cut=False).mean(V1)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200), st.booleans())
def test_any_text_is_answered_with_scores_in_range_or_a_failure(text: str, cut: bool) -> None:
    parsed = parse_answer(BLOCK.replace("4", text, 1), V1, cut=cut)
    assert (parsed.scores is None) == (parsed.failure is not None)
    if parsed.scores is not None:
        assert all(scale.low <= parsed.scores[scale.name] <= scale.high for scale in V1.scales)
