"""Probe distance and reward on held-out synthetic clips: they move as they must, and count what they cannot read."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from ssvae.core.seeds import torch_generator
from ssvae.data.synthetic import render
from ssvae.metrics.degradations import add_noise, blur, freeze_frames, shuffle_frames
from ssvae.metrics.probe import extract_features, probe_fd, probe_reward, reward_metrics, wrong_captions
from ssvae.models.features import NetworkCard, ProbeFeatures, ProbeJudge, load_probe_features, load_probe_judge

CLIPS = 128
SEED = 424_242
"""A data seed that neither the networks' training nor their cards' accuracies used."""


def _read(first: int) -> tuple[torch.Tensor, list[str]]:
    videos, captions = [], []
    for index in range(first, first + CLIPS):
        clip = render(index, seed=SEED, frames=9, size=64)
        frames = [np.asarray(Image.fromarray(f).resize((32, 32), Image.Resampling.BICUBIC)) for f in clip.frames]
        videos.append(torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).float() / 127.5 - 1)
        captions.append(clip.caption)
    return torch.stack(videos), captions


@pytest.fixture(scope="module")
def clips() -> tuple[torch.Tensor, list[str]]:
    return _read(0)


@pytest.fixture(scope="module")
def network() -> tuple[ProbeFeatures, NetworkCard]:
    return load_probe_features()


@pytest.fixture(scope="module")
def judge() -> tuple[ProbeJudge, NetworkCard]:
    return load_probe_judge()


@pytest.fixture(scope="module")
def reference(network: tuple[ProbeFeatures, NetworkCard]) -> torch.Tensor:
    """Features of other clips of the same kind: the real set."""
    return extract_features(network[0], _read(CLIPS)[0])


@pytest.mark.parametrize("kind", ["blur", "noise", "shuffle", "freeze"])
def test_distance_rises_strictly_with_each_degradation(
    kind: str,
    clips: tuple[torch.Tensor, list[str]],
    network: tuple[ProbeFeatures, NetworkCard],
    reference: torch.Tensor,
) -> None:
    levels = {
        "blur": [0.0, 0.5, 0.8, 1.2, 1.8],
        "noise": [0.0, 0.05, 0.1, 0.2, 0.4],
        "shuffle": [0, 2, 3, 4, 6],  # beyond two thirds the order is as random as it gets
        "freeze": [0, 2, 4, 6, 8],
    }[kind]
    values = []
    for level in levels:
        amount = torch.full((CLIPS,), level)
        rng = torch_generator(0, "test.degrade")
        spoilt = {
            "blur": lambda a=amount: blur(clips[0], a),
            "noise": lambda a=amount, g=rng: add_noise(clips[0], a, g),
            "shuffle": lambda a=amount, g=rng: shuffle_frames(clips[0], a, g),
            "freeze": lambda a=amount: freeze_frames(clips[0], a),
        }[kind]()
        found = probe_fd(reference, extract_features(network[0], spoilt), card=network[1], calibrated=True)
        values.append(found.value)
    assert all(after > before for before, after in pairwise(values)), values
    assert values[-1] > 1.5 * values[0], values


def test_features_do_not_depend_on_the_batch(
    clips: tuple[torch.Tensor, list[str]], network: tuple[ProbeFeatures, NetworkCard]
) -> None:
    some = clips[0][:12]
    whole = extract_features(network[0], some, batch=12)
    assert whole.dtype == torch.float64
    torch.testing.assert_close(extract_features(network[0], some, batch=5), whole, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(extract_features(network[0], some.split(7), batch=1), whole, atol=2e-5, rtol=1e-5)


def test_code_has_unit_scale_and_levels_are_near_zero_on_clean_clips(
    reference: torch.Tensor, network: tuple[ProbeFeatures, NetworkCard]
) -> None:
    count = len(network[1].architecture["degradations"])
    code, levels = reference[:, :-count], reference[:, -count:]
    assert float(code.mean(0).abs().max()) < 0.6
    assert float(code.std(0).min()) > 0.6
    assert float(code.std(0).max()) < 1.6
    assert float(levels.mean(0).abs().max()) < 0.1 * network[1].architecture["level_weight"]


def test_distance_is_zero_to_itself_and_carries_its_protocol(
    reference: torch.Tensor, network: tuple[ProbeFeatures, NetworkCard]
) -> None:
    card = network[1]
    same = probe_fd(reference, reference, card=card, calibrated=True)
    assert abs(same.value) < 1e-6
    assert (same.name, same.direction, same.n) == ("probe_fd", "down", CLIPS)
    assert same.protocol == f"probe_fd/1;net={card.sha256[:12]};real={CLIPS}"
    assert "not calibrated" in probe_fd(reference, reference, card=card, calibrated=False).protocol


def test_distance_of_known_gaussians(network: tuple[ProbeFeatures, NetworkCard]) -> None:
    """Shifting features by s moves the distance by |s|²; doubling them adds the trace of the covariance."""
    features = torch.randn(200, 6, generator=torch_generator(0, "g"), dtype=torch.float64)
    features = features - features.mean(0)
    shifted = probe_fd(features, features + 2.0, card=network[1], calibrated=True).value
    assert abs(shifted - 24.0) < 1e-9
    doubled = probe_fd(features, 2 * features, card=network[1], calibrated=True).value
    assert abs(doubled - float(features.var(0).sum())) < 1e-9


def test_too_few_clips_warn(
    reference: torch.Tensor, network: tuple[ProbeFeatures, NetworkCard], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="ssvae.metrics.probe"):
        probe_fd(reference, reference, card=network[1], calibrated=True)
        assert caplog.text == ""
        probe_fd(reference, reference[:20], card=network[1], calibrated=True)
    assert "20 fake clips" in caplog.text
    with pytest.raises(ValueError, match="no clips"):
        extract_features(network[0], reference.new_zeros(0, 3, 9, 32, 32))


def test_right_captions_beat_wrong_ones(
    clips: tuple[torch.Tensor, list[str]], judge: tuple[ProbeJudge, NetworkCard]
) -> None:
    videos, captions = clips
    right = probe_reward(videos, captions, judge=judge[0], card=judge[1]).scores
    wrong = probe_reward(videos, wrong_captions(captions, seed=0), judge=judge[0], card=judge[1]).scores
    assert float(right.mean()) > 0.75
    assert float(wrong.mean()) < 0.6 * float(right.mean())
    assert float((right > wrong).double().mean()) > 0.95
    assert bool(((right >= 0) & (right <= 1)).all())


def test_reward_falls_when_clips_get_worse(
    clips: tuple[torch.Tensor, list[str]], judge: tuple[ProbeJudge, NetworkCard]
) -> None:
    videos, captions = clips
    means = []
    for sigma in (0.0, 2.5, 6.0):
        spoilt = blur(videos, torch.full((CLIPS,), sigma))
        means.append(float(probe_reward(spoilt, captions, judge=judge[0], card=judge[1]).scores.mean()))
    assert means[0] > means[1] > means[2], means


def test_unreadable_captions_are_counted_not_guessed(
    clips: tuple[torch.Tensor, list[str]], judge: tuple[ProbeJudge, NetworkCard], caplog: pytest.LogCaptureFixture
) -> None:
    videos, captions = clips[0][:5], [*clips[1][:3], "a dog on a beach", None]
    found = probe_reward(videos, captions, judge=judge[0], card=judge[1], batch=2)
    assert found.unreadable == 2
    assert torch.isnan(found.scores).tolist() == [False, False, False, True, True]
    alone = probe_reward(videos[1:2], captions[1:2], judge=judge[0], card=judge[1])
    torch.testing.assert_close(found.scores[1:2], alone.scores, atol=1e-5, rtol=1e-5)

    rows = {row.name: row for row in reward_metrics(videos, captions, judge=judge[0], card=judge[1], calibrated=False)}
    assert rows["probe_reward"].n == 3
    assert math.isclose(rows["probe_reward"].value, float(found.scores[:3].mean()), rel_tol=1e-5)
    assert rows["probe_reward"].ci95 is not None
    assert "not calibrated" in rows["probe_reward"].protocol
    assert rows["probe_reward_unreadable"].value == 2
    assert "2 of 5" in caplog.text
    foreign = reward_metrics(videos[:1], ["a dog"], judge=judge[0], card=judge[1], calibrated=False)
    assert [row.name for row in foreign] == ["probe_reward_unreadable"]


def test_misuse_is_refused(
    clips: tuple[torch.Tensor, list[str]],
    judge: tuple[ProbeJudge, NetworkCard],
    network: tuple[ProbeFeatures, NetworkCard],
) -> None:
    videos, captions = clips
    with pytest.raises(ValueError, match="128 clips but 3 captions"):
        probe_reward(videos, captions[:3], judge=judge[0], card=judge[1])
    other = replace(judge[1], vocabulary={"shape": ["heart"]})
    with pytest.raises(ValueError, match="another vocabulary"):
        probe_reward(videos, captions, judge=judge[0], card=other)
    training, _ = load_probe_features()
    with pytest.raises(ValueError, match="eval"):
        extract_features(training.train(), videos)
