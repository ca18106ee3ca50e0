"""Training of the shipped networks: labels stay true under augmentation, and what it writes can be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssvae.cli.probe_training_data import LabelledClips, degrade, draw_batch, middle_windows, render_clips
from ssvae.cli.train_probe_networks import Settings, attribute_loss, train_features, train_judge
from ssvae.core.seeds import torch_generator
from ssvae.data.synthetic import VOCABULARY
from ssvae.models.features import coarse_flow, load_probe_features, load_probe_judge

SETTINGS = Settings(seed=3, train_clips=16, held_out_clips=16, steps=2, warm_up_steps=2, warm_up_frames=4, batch=4)


@pytest.fixture(scope="module")
def clips() -> LabelledClips:
    return render_clips(16, seed=31)


def test_camera_labels_follow_mirrored_and_reversed_clips(clips: LabelledClips) -> None:
    """The border of the flow moves against a pan, and outwards in a zoom in, whatever was flipped."""
    checked = set()
    for draw in range(4):
        video, labels = draw_batch(clips, 16, torch_generator(draw, "draw"))
        flow = coarse_flow(video).mean(dim=1)
        across = flow[:, 0].mean(dim=(1, 2))
        outwards = (flow[:, 0, :, -1] - flow[:, 0, :, 0]).mean(1) + (flow[:, 1, -1] - flow[:, 1, 0]).mean(1)
        for row, index in enumerate(labels["camera"].tolist()):
            name = VOCABULARY["camera"][index]
            measure = {"pan left": across, "pan right": -across, "zoom in": outwards, "zoom out": -outwards}.get(name)
            if measure is not None:
                assert float(measure[row]) > 0.1, (draw, row, name)
                checked.add(name)
    assert checked == {"pan left", "pan right", "zoom in", "zoom out"}


def test_windows_are_the_middle_frames(clips: LabelledClips) -> None:
    video = middle_windows(clips)
    assert torch.equal(video[3, :, 2], clips.clips[3, 9].float() / 127.5 - 1)


def test_degrade_spoils_in_one_way_and_says_how_much(clips: LabelledClips) -> None:
    video = middle_windows(clips).repeat(8, 1, 1, 1, 1)
    spoilt, levels = degrade(video, torch_generator(0, "d"), clean_share=0.4)
    assert int((levels > 0).sum(dim=1).max()) == 1
    changed = (spoilt - video).abs().flatten(1).amax(1) > 1e-3
    clean = levels.sum(1) == 0
    assert not bool(changed[clean].any())
    assert bool(changed[levels.amax(1) > 0.4].all())
    assert 0.25 < float(clean.double().mean()) < 0.6
    untouched, none = degrade(video, torch_generator(0, "d"), clean_share=1.0)
    torch.testing.assert_close(untouched, video)
    assert not bool(none.any())


def test_hidden_motion_is_not_held_against_the_network() -> None:
    """At a full shuffle the motion head's loss counts nothing; the shape head's does."""
    labels = {"shape": torch.tensor([0, 1]), "motion": torch.tensor([0, 1])}
    wrong = torch.tensor([[5.0, 0.0, 0.0, 0.0], [5.0, 0.0, 0.0, 0.0]])
    levels = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    right = torch.tensor([[5.0, 0.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0]])
    base = attribute_loss({"shape": right, "motion": right}, labels, levels)
    torch.testing.assert_close(attribute_loss({"shape": right, "motion": wrong}, labels, levels), base)
    assert float(attribute_loss({"shape": wrong, "motion": right}, labels, levels)) > float(base) + 1


def test_what_is_written_can_be_loaded_and_names_its_training(clips: LabelledClips, tmp_path: Path) -> None:
    train_features(clips, clips, SETTINGS, tmp_path)
    train_judge(clips, clips, SETTINGS, tmp_path)
    network, card = load_probe_features(tmp_path)
    judge, judge_card = load_probe_judge(tmp_path)
    assert card.training["steps"] == judge_card.training["steps"] == 2
    code = network(middle_windows(clips))[:, :-4]
    torch.testing.assert_close(code.mean(0), torch.zeros(network.dim - 4), atol=1e-4, rtol=0)
    torch.testing.assert_close(code.std(0), torch.ones(network.dim - 4), atol=1e-4, rtol=0)
    shares = {
        name: float((logits.argmax(1) == clips.labels[name]).double().mean())
        for name, logits in judge(middle_windows(clips)).items()
    }
    assert judge_card.held_out["accuracy"] == pytest.approx(shares)


def test_training_is_reproducible(clips: LabelledClips, tmp_path: Path) -> None:
    hashes = []
    for run in ("a", "b"):
        train_judge(clips, clips, SETTINGS, tmp_path / run)
        hashes.append(load_probe_judge(tmp_path / run)[1].sha256)
    assert hashes[0] == hashes[1]
