"""Frames that are shown, wrong prompts, and the numbers that come out of answers, against direct computation."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from ssvae.metrics.reward import (
    RewardResult,
    frame_picks,
    reward_protocol,
    reward_values,
    shown_frames,
    wrong_prompts,
)
from ssvae.metrics.reward_parse import Parsed
from ssvae.metrics.reward_prompt import QUESTIONS

V1, V2 = QUESTIONS["v1"], QUESTIONS["v2"]
UNREAD = Parsed(None, "missing", "visual quality")


def parsed(*scores: float, final: float = 5) -> Parsed:
    names = [scale.name for scale in V1.scales]
    return Parsed(dict(zip(names, [*scores, final], strict=True)), None, "")


def make_result(answers: list[Parsed], controls: list[Parsed] | None = None, share: float = 0.5) -> RewardResult:
    keys = tuple(f"{i}.mp4" for i in range(len(answers)))
    return RewardResult(
        question=V1,
        protocol="unified_reward/1;test",
        seed=7,
        unparsed_share=share,
        keys=keys,
        prompts=keys,
        controls=None if controls is None else keys,
        answers=tuple(answers),
        control_answers=None if controls is None else tuple(controls),
        asked=0,
        reused=0,
        torn=0,
    )


@pytest.mark.parametrize(("total", "count"), [(17, 16), (81, 16), (16, 16), (5, 16), (1, 8), (17, 8), (1000, 7)])
def test_frames_are_those_of_the_published_rule(total: int, count: int) -> None:
    """A reader that goes through the clip once and takes each frame whose index is listed."""
    listed = [int(i * total / count) for i in range(count)]
    assert frame_picks(total, count) == [index for index in range(total) if index in listed]


def test_shown_frames_of_both_kinds_of_clip() -> None:
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (3, 9, 4, 6), generator=generator, dtype=torch.uint8)
    expected = levels[:, [0, 2, 4, 6]].permute(1, 2, 3, 0)
    assert torch.equal(shown_frames(levels, 4), expected)
    scaled = levels.float() / 127.5 - 1
    assert torch.equal(shown_frames(scaled, 4), expected)
    assert torch.equal(shown_frames(scaled.double(), 4), expected)
    assert torch.equal(shown_frames(torch.full((3, 1, 2, 2), 1.7), 4), torch.full((1, 2, 2, 3), 255, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (torch.zeros(1, 3, 5, 4, 4), r"must be \(3,T,H,W\), got \(1, 3, 5, 4, 4\)"),
        (torch.zeros(5, 3, 4, 4), r"must be \(3,T,H,W\)"),
        (torch.zeros(3, 0, 4, 4), r"must be \(3,T,H,W\)"),
        (torch.zeros(3, 2, 4, 4, dtype=torch.int64), "must be uint8 or float"),
        (torch.full((3, 2, 4, 4), float("nan")), "NaN or infinity"),
    ],
)
def test_what_is_no_clip_is_refused(video: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shown_frames(video, 4)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=40), st.integers(0, 5))
def test_wrong_prompts_are_a_derangement_wherever_one_exists(prompts: list[str], seed: int) -> None:
    if 2 * max(Counter(prompts).values()) > len(prompts):
        with pytest.raises(ValueError, match="no wrong prompt is left"):
            wrong_prompts(prompts, seed)
        return
    wrong = wrong_prompts(prompts, seed)
    assert Counter(wrong) == Counter(prompts)
    assert all(one != other for one, other in zip(prompts, wrong, strict=True))


def test_wrong_prompts_come_from_the_seed() -> None:
    prompts = [f"prompt {i % 30}" for i in range(60)]
    one, same, other = (wrong_prompts(prompts, seed) for seed in (1, 1, 2))
    assert one == same != other
    # Over seeds a clip meets many prompts, not just its neighbour in the file.
    assert len({wrong_prompts(prompts, seed)[0] for seed in range(60)}) > 20


def test_prompts_that_differ_only_in_case_and_spacing_are_the_same() -> None:
    prompts = ["A cat", "a  cat ", "a dog", "A DOG"]
    for seed in range(5):
        wrong = wrong_prompts(prompts, seed)
        assert all(("cat" in one.lower()) != ("cat" in two.lower()) for one, two in zip(prompts, wrong, strict=True))
    with pytest.raises(ValueError, match=r"2 of 2 clips have the prompt 'a cat'"):
        wrong_prompts(["A cat", "a cat"], 0)
    with pytest.raises(ValueError, match="0 of 0 clips"):
        wrong_prompts([], 0)


def test_values_are_means_over_readable_clips() -> None:
    scores = np.array([[4, 3, 2, 1, 3], [2, 2, 2, 2, 2], [4, 4, 4, 4, 1]], dtype=float)
    answers = [parsed(*scores[0], final=9), UNREAD, parsed(*scores[1], final=2), parsed(*scores[2], final=4)]
    values = {value.name: value for value in reward_values(make_result(answers))}
    assert list(values) == [
        "reward_mean",
        "reward_visual_quality",
        "reward_temporal_consistency",
        "reward_dynamic_degree",
        "reward_alignment",
        "reward_factual_consistency",
        "reward_final",
        "reward_unparsed",
    ]
    means = scores.mean(axis=1)
    mean = values["reward_mean"]
    assert (mean.unit, mean.direction, mean.n) == ("points 1-4", "up", 3)
    assert mean.value == pytest.approx(means.mean(), abs=1e-12)
    low, high = stats.t.interval(0.95, 2, loc=means.mean(), scale=stats.sem(means))
    assert mean.ci95 == pytest.approx((low, high), abs=1e-9)
    assert values["reward_dynamic_degree"].value == pytest.approx(scores[:, 2].mean(), abs=1e-12)
    final = values["reward_final"]
    assert (final.value, final.unit) == (pytest.approx(5.0, abs=1e-12), "points 1-10")
    unread = values["reward_unparsed"]
    assert (unread.value, unread.n, unread.ci95, unread.direction) == (1.0, 4, None, "down")
    assert {value.protocol for value in values.values()} == {"unified_reward/1;test"}


def test_the_control_and_its_gap_are_paired() -> None:
    right = [parsed(4, 4, 4, 4, 4), parsed(3, 3, 3, 3, 3), parsed(2, 2, 2, 2, 2), UNREAD]
    wrong = [parsed(3, 3, 3, 1, 3), UNREAD, parsed(2, 2, 2, 1, 2), parsed(1, 1, 1, 1, 1)]
    values = {value.name: value for value in reward_values(make_result(right, wrong))}
    other, gap = values["reward_mean_wrong_prompt"], values["reward_prompt_gap"]
    assert (other.value, other.n, other.direction) == (pytest.approx((2.6 + 1.8 + 1.0) / 3), 3, "none")
    # Only clips with both answers: 4 - 2.6 and 2 - 1.8.
    assert (gap.value, gap.n, gap.direction) == (pytest.approx((1.4 + 0.2) / 2), 2, "none")
    assert values["reward_unparsed_wrong_prompt"].value == 1.0
    assert other.protocol == gap.protocol == "unified_reward/1;test;wrong_prompt=derangement;seed=7"
    assert values["reward_mean"].protocol == "unified_reward/1;test"


def test_clips_of_one_prompt_count_once() -> None:
    answers = [parsed(4, 4, 4, 4, 4), parsed(2, 2, 2, 2, 2), parsed(1, 1, 1, 1, 1)]
    values = {value.name: value for value in reward_values(make_result(answers), ["a", "a", "b"])}
    mean = values["reward_mean"]
    assert (mean.value, mean.n) == (pytest.approx((3 + 1) / 2), 2)


def test_too_many_unread_answers_refuse_the_metric() -> None:
    good = parsed(3, 3, 3, 3, 3)
    assert reward_values(make_result([good, UNREAD], share=0.5))
    with pytest.raises(ValueError, match=r"reward_mean: 2 of 3 .*\(1\.mp4: missing \(visual quality\).*version v1"):
        reward_values(make_result([good, UNREAD, UNREAD], share=0.5))
    with pytest.raises(ValueError, match="reward_mean: 2 of 2 answers"):
        reward_values(make_result([UNREAD, UNREAD], share=1.0))
    with pytest.raises(ValueError, match="reward_mean_wrong_prompt: 2 of 2"):
        reward_values(make_result([good, good], [UNREAD, UNREAD], share=0.5))
    with pytest.raises(ValueError, match="reward_prompt_gap: no clip has"):
        reward_values(make_result([good, UNREAD], [UNREAD, good], share=0.5))


def test_failures_are_counted_by_reason() -> None:
    other = Parsed(None, "contradictory", "")
    result = make_result([parsed(3, 3, 3, 3, 3), UNREAD, other], [other, other, UNREAD])
    assert result.failures() == {"missing": 2, "contradictory": 3}


def test_the_protocol_tells_apart_everything_that_changes_a_score() -> None:
    def protocol(question: object = V2, **changes: int | str) -> str:
        values = {"model": "UR", "frames": 16, "jpeg_quality": 95, "max_tokens": 4096, **changes}
        return reward_protocol(question, **values)  # type: ignore[arg-type] # values of several types

    base = protocol()
    assert base == (
        f"unified_reward/1;version=v2;model=UR;frames=16;jpeg=95;template={V2.digest[:12]};max_tokens=4096;temperature=0"
    )
    reworded = replace(V2, template="Text Caption: [{prompt}]")
    others = [
        protocol(V1),
        protocol(reworded),
        protocol(model="UR2"),
        protocol(frames=8),
        protocol(jpeg_quality=90),
        protocol(max_tokens=1024),
    ]
    assert len({base, *others}) == 7
