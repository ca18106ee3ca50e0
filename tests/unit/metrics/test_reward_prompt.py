"""The questions: what they demand is what the parser reads, and another wording is another question."""

from __future__ import annotations

import hashlib

import pytest

from ssvae.metrics.reward_parse import parse_answer
from ssvae.metrics.reward_prompt import QUESTIONS, SLOT, reward_question


@pytest.mark.parametrize(
    ("version", "names", "low", "high", "end"),
    [
        (
            "v1",
            ["visual_quality", "temporal_consistency", "dynamic_degree", "alignment", "factual_consistency"],
            1,
            4,
            "Text Prompt: [a cat]",
        ),
        ("v2", ["alignment", "physics", "style"], 1, 5, "Text Caption: [a cat]"),
    ],
)
def test_dimensions_scales_and_end_are_the_published_ones(
    version: str, names: list[str], low: int, high: int, end: str
) -> None:
    question = reward_question(version)  # type: ignore[arg-type] # text of a parametrised test
    assert [scale.name for scale in question.dimensions] == names
    assert {(scale.low, scale.high, scale.whole) for scale in question.dimensions} == {(low, high, version == "v1")}
    text = question.ask("a cat")
    assert text.endswith(end)
    lines = text.splitlines()
    assert all(any(line.startswith(scale.label) and ":" in line for line in lines) for scale in question.scales)


def test_published_frame_counts_and_final_score() -> None:
    assert (QUESTIONS["v1"].frames, QUESTIONS["v2"].frames) == (8, 16)
    final = QUESTIONS["v1"].final
    assert final is not None and (final.label, final.low, final.high) == ("Final Score", 1, 10)
    assert QUESTIONS["v2"].final is None


@pytest.mark.parametrize("version", QUESTIONS)
def test_the_question_repeated_is_no_answer(version: str) -> None:
    """Its own lines hold no number that could be taken for a score."""
    question = QUESTIONS[version]
    assert parse_answer(question.ask("a cat"), question, cut=False).failure == "missing"


def test_braces_and_brackets_of_a_prompt_stay() -> None:
    text = QUESTIONS["v1"].ask("{x} [y] %s {prompt}")
    assert text.endswith("Text Prompt: [{x} [y] %s {prompt}]")


def test_another_wording_has_another_digest() -> None:
    own = reward_question("v2", f"Rate it. Text Caption: [{SLOT}]")
    assert own.ask("z") == "Rate it. Text Caption: [z]"
    assert own.digest == hashlib.sha256(b"Rate it. Text Caption: [{prompt}]").hexdigest() != QUESTIONS["v2"].digest
    assert own.scales == QUESTIONS["v2"].scales


def test_wordings_are_frozen() -> None:
    """A changed sentence changes every score: these digests stand in the protocols of published tables."""
    assert {name: question.digest[:12] for name, question in QUESTIONS.items()} == {
        "v1": "d7c19a09a132",
        "v2": "180f738d4e0d",
    }


@pytest.mark.parametrize("template", ["no place", "{prompt} twice {prompt}"])
def test_a_template_needs_one_place_for_the_prompt(template: str) -> None:
    with pytest.raises(ValueError, match=r"reward\.template.*must stand there once"):
        reward_question("v1", template)


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reward\.version = 'v3': must be one of v1, v2"):
        reward_question("v3")  # type: ignore[arg-type] # the mistake
