"""The video reward: what UnifiedReward says about generated clips, beside what it says when the prompt is wrong.

Headline ``reward_mean``: the mean over the question's dimensions, then over clips. Its control, with ``wrong_prompt``
in its name, asks about the same clips with other clips' prompts; a reward whose gap ``reward_prompt_gap`` is near 0
does not read the prompt. A clip whose answer cannot be read has no score: it is counted, never guessed and never asked
again, since at temperature 0 the answer would be the same.

Scores belong to their protocol: another model, wording, number of frames or JPEG quality gives other numbers. The scale
of the SSVAE paper's reward is not stated; these are not comparable with it.

Dimension legend
    N clips, T frames of a clip, n frames shown, H W pixels    video (3,T,H,W) uint8, or float in [-1, 1]
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssvae.core.seeds import torch_generator
from ssvae.core.types import Direction, MetricValue
from ssvae.data.pixels import to_uint8
from ssvae.metrics.interval import metric_from_samples
from ssvae.metrics.reward_parse import Parsed
from ssvae.metrics.reward_prompt import Question, Scale

log = logging.getLogger(__name__)

REWARD_PROTOCOL = "unified_reward/1"
WRONG_PROMPTS = "reward_wrong_prompts"
"""Stream of random numbers that draws the control's prompts."""


@dataclass(frozen=True, slots=True)
class RewardResult:
    """What N clips got. keys, prompts: as given; controls: the wrong prompts, None without the control.

    answers, control_answers: one a clip. asked: requests that were answered now; reused: answers that were there; torn:
    lines that a kill had torn.
    """

    question: Question
    protocol: str
    seed: int
    unparsed_share: float
    keys: tuple[str, ...]
    prompts: tuple[str, ...]
    controls: tuple[str, ...] | None
    answers: tuple[Parsed, ...]
    control_answers: tuple[Parsed, ...] | None
    asked: int
    reused: int
    torn: int

    def failures(self) -> dict[str, int]:
        """How many answers could not be read, by reason, both columns together."""
        every = [*self.answers, *(self.control_answers or ())]
        return dict(Counter(str(answer.failure) for answer in every if answer.failure is not None))


def reward_protocol(
    question: Question, *, model: str, frames: int, jpeg_quality: int, max_tokens: int, temperature: int = 0
) -> str:
    """Everything that the number depends on. model: as :meth:`RewardClient.check` names it."""
    return (
        f"{REWARD_PROTOCOL};version={question.version};model={model};frames={frames};jpeg={jpeg_quality};"
        f"template={question.digest[:12]};max_tokens={max_tokens};temperature={temperature}"
    )


def shown_frames(video: Tensor, count: int) -> Tensor:
    """The frames that the model sees, (n,H,W,3) uint8: those at int(i·T/count), each once, so n = min(T, count).

    video (3,T,H,W): uint8, or float in [-1, 1] (clamped, rounded to the nearest of 256 levels). Raises ValueError for
    other shapes and types, and for values that are not finite.
    """
    if video.ndim != 4 or video.shape[0] != 3 or 0 in video.shape:
        raise ValueError(f"a clip to be scored must be (3,T,H,W), got {tuple(video.shape)}")
    if video.dtype != torch.uint8 and not video.is_floating_point():
        raise ValueError(f"a clip to be scored must be uint8 or float in [-1, 1], got {video.dtype}")
    picked = video[:, frame_picks(video.shape[1], count)].detach().cpu()
    if picked.is_floating_point():
        if not torch.isfinite(picked).all():
            raise ValueError("a clip to be scored holds NaN or infinity")
        picked = to_uint8(picked.float())
    return picked.permute(1, 2, 3, 0).contiguous()


def frame_picks(total: int, count: int) -> list[int]:
    """Indices int(i·total/count) for i < count, without repetitions (the published rule, in whole numbers)."""
    return sorted({i * total // count for i in range(count)})


def wrong_prompts(prompts: Sequence[str], seed: int) -> list[str]:
    """For each clip another clip's prompt, never an equal text: a permutation of ``prompts``, drawn by ``seed``.

    Texts are compared without case and spacing. Clips are put in a drawn order, equal prompts together, and each takes
    the prompt m places on, m the size of the largest group; that is a derangement whenever one exists. Raises
    ValueError where none exists: one prompt belongs to more than half of the clips.
    """
    same = [" ".join(prompt.casefold().split()) for prompt in prompts]
    groups = Counter(same)
    largest, count = groups.most_common(1)[0] if groups else ("", 0)
    if not prompts or 2 * count > len(prompts):
        raise ValueError(
            f"{count} of {len(prompts)} clips have the prompt {largest[:60]!r}: no wrong prompt is left for each of "
            "them; give more prompts, or turn the control off (reward.wrong_prompts=false, --no-wrong-prompts)"
        )
    draws = torch.rand(len(groups) + len(prompts), generator=torch_generator(seed, WRONG_PROMPTS), dtype=torch.float64)
    # Groups are numbered by their text, so that the order of clips plays no part in which groups meet.
    place = {text: float(draws[index]) for index, text in enumerate(sorted(groups))}
    order = sorted(range(len(prompts)), key=lambda i: (place[same[i]], float(draws[len(groups) + i])))
    found = [""] * len(prompts)
    for position, index in enumerate(order):
        found[index] = prompts[order[(position + count) % len(order)]]
    return found


def reward_values(result: RewardResult, clusters: Sequence[str] | None = None) -> list[MetricValue]:
    """Headline, dimensions, final score (v1), control, gap and unread answers, with 95 % intervals.

    clusters: one name a clip; clips that share one (say, a prompt) are not independent, are averaged first, and n
    counts clusters. None: every clip stands for itself. Raises ValueError when more answers than ``unparsed_share``
    could not be read, or none could.
    """
    names = list(clusters) if clusters is not None else [str(index) for index in range(len(result.keys))]
    assert len(names) == len(result.keys), (len(names), len(result.keys))
    _refuse_unread(result, "reward_mean", result.answers)
    question, protocol = result.question, result.protocol
    means = _means(result.answers, question)
    values = [_metric("reward_mean", means, names, _unit(question.dimensions), "up", protocol)]
    for scale in question.scales:
        column = [None if answer.scores is None else answer.scores[scale.name] for answer in result.answers]
        values.append(_metric(f"reward_{scale.name}", column, names, _unit((scale,)), "up", protocol))
    values.append(_unread("reward_unparsed", result.answers, protocol))
    if result.control_answers is None:
        return values
    _refuse_unread(result, "reward_mean_wrong_prompt", result.control_answers)
    control = f"{protocol};wrong_prompt=derangement;seed={result.seed}"
    others = _means(result.control_answers, question)
    gaps = [None if a is None or b is None else a - b for a, b in zip(means, others, strict=True)]
    if all(gap is None for gap in gaps):
        raise ValueError("reward_prompt_gap: no clip has a readable answer to both prompts")
    return [
        *values,
        _metric("reward_mean_wrong_prompt", others, names, _unit(question.dimensions), "none", control),
        _metric("reward_prompt_gap", gaps, names, "points", "none", control),
        _unread("reward_unparsed_wrong_prompt", result.control_answers, control),
    ]


def _means(answers: Sequence[Parsed], question: Question) -> list[float | None]:
    return [None if answer.scores is None else answer.mean(question) for answer in answers]


def _metric(
    name: str, column: Sequence[float | None], clusters: Sequence[str], unit: str, direction: Direction, protocol: str
) -> MetricValue:
    """Over the clips that have the value."""
    have = [(value, cluster) for value, cluster in zip(column, clusters, strict=True) if value is not None]
    values, owners = [value for value, _ in have], [cluster for _, cluster in have]
    return metric_from_samples(name, values, unit, direction, protocol, owners)


def _unread(name: str, answers: Sequence[Parsed], protocol: str) -> MetricValue:
    count = sum(answer.failure is not None for answer in answers)
    return MetricValue(name, float(count), "answers", "down", len(answers), None, protocol)


def _refuse_unread(result: RewardResult, name: str, answers: Sequence[Parsed]) -> None:
    unread = [(key, answer) for key, answer in zip(result.keys, answers, strict=True) if answer.failure is not None]
    if unread:
        shown = "; ".join(f"{key}: {answer.failure} ({answer.detail})" for key, answer in unread[:3])
        log.warning("%s: %d of %d answers could not be read: %s", name, len(unread), len(answers), shown)
    if len(unread) > result.unparsed_share * len(answers) or len(unread) == len(answers):
        raise ValueError(
            f"{name}: {len(unread)} of {len(answers)} answers could not be read, more than reward.unparsed_share = "
            f"{result.unparsed_share:g} ({shown}); is this the model for version {result.question.version}? "
            "Their texts are kept beside the scores"
        )


def _unit(scales: Sequence[Scale]) -> str:
    """Points on a stated scale; the dimensions of one question share theirs."""
    return f"points {scales[0].low:g}-{scales[0].high:g}"
