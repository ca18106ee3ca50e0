"""Captions say exactly the attributes, and a wrong caption is wrong."""

from __future__ import annotations

import itertools

import pytest
import torch

from ssvae.data.captions import CLASSES, VOCABULARY, label, make_caption, parse_caption, targets, wrong_caption

EVERYTHING = [dict(zip(VOCABULARY, values, strict=True)) for values in itertools.product(*VOCABULARY.values())]


def test_every_caption_parses_back_and_no_two_are_equal() -> None:
    captions = [make_caption(attributes) for attributes in EVERYTHING]
    assert [parse_caption(caption) for caption in captions] == EVERYTHING
    assert len(set(captions)) == len(EVERYTHING)


@pytest.mark.parametrize(
    "foreign",
    [
        "",
        "a dog runs over a field",
        "a red square moves left over a green background",
        "a pink square moves left over a green background while the camera is still",
        "a red square moves left over a green background while the camera pans up",
        "a red square moves left over a green background while the camera is still, slowly",
    ],
)
def test_foreign_captions_are_not_parsed(foreign: str) -> None:
    assert parse_caption(foreign) is None


def test_labels_cover_all_classes_evenly() -> None:
    labels = [label(attributes) for attributes in EVERYTHING]
    assert set(labels) == set(range(CLASSES))
    assert {labels.count(value) for value in range(CLASSES)} == {len(EVERYTHING) // CLASSES}


def test_targets_index_the_vocabulary() -> None:
    for attributes in EVERYTHING[::7]:
        assert {name: VOCABULARY[name][index] for name, index in targets(attributes).items()} == attributes


def test_wrong_captions_are_false_possible_and_touch_every_attribute() -> None:
    generator = torch.Generator().manual_seed(0)
    changed = dict.fromkeys(VOCABULARY, 0)
    possible = [attributes for attributes in EVERYTHING if attributes["colour"] != attributes["background"]]
    for attributes in possible[::3]:
        wrong = parse_caption(wrong_caption(attributes, generator))
        assert wrong is not None
        assert wrong != attributes
        assert wrong["colour"] != wrong["background"]
        for name in VOCABULARY:
            changed[name] += wrong[name] != attributes[name]
    # One in five by design, and one in four of the others: 0.4 of the time.
    shares = {name: count / len(possible[::3]) for name, count in changed.items()}
    assert all(0.33 < share < 0.47 for share in shares.values()), shares


def test_wrong_captions_follow_the_generator() -> None:
    attributes = EVERYTHING[17]
    one, two = (torch.Generator().manual_seed(5) for _ in range(2))
    assert [wrong_caption(attributes, one) for _ in range(9)] == [wrong_caption(attributes, two) for _ in range(9)]
