"""Config values of metrics reach the objects that use them."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from ssvae.build_metrics import build_frechet_networks, build_lpips, build_reward_settings
from ssvae.config.reward import RewardConfig, RewardVersion
from ssvae.config.score import NetworksConfig
from ssvae.models.lpips import LPIPS
from tiny_i3d import write_tiny_i3d

CPU = torch.device("cpu")


def nothing() -> NetworksConfig:
    return NetworksConfig(None, None, None, None, fdd_frames=1, fvd_frames=9)


def reward() -> RewardConfig:
    return RewardConfig(
        name="r",
        endpoint="http://localhost:1",
        model="m",
        version=RewardVersion.v1,
        template=None,
        frames=8,
        jpeg_quality=95,
        max_tokens=100,
        wrong_prompts=True,
        unparsed_share=0.1,
        concurrency=2,
        timeout_s=3.0,
        retries=4,
        backoff_s=0.5,
        longest_wait_s=9.0,
        api_key_env=None,
    )


def test_every_value_of_the_reward_reaches_its_settings(tmp_path: Path) -> None:
    template = tmp_path / "template.txt"
    template.write_text("How good is [{prompt}]?")
    others = {
        "endpoint": "http://localhost:2",
        "model": "n",
        "version": RewardVersion.v2,
        "template": str(template),
        "frames": 7,
        "jpeg_quality": 80,
        "max_tokens": 50,
        "wrong_prompts": False,
        "unparsed_share": 0.2,
        "concurrency": 3,
        "timeout_s": 4.0,
        "retries": 5,
        "backoff_s": 0.25,
        "longest_wait_s": 8.0,
        "api_key_env": "A_KEY",
    }
    assert set(others) == {field.name for field in fields(RewardConfig)} - {"name"}
    before = asdict(build_reward_settings(reward()))
    for name, value in others.items():
        after = asdict(build_reward_settings(replace(reward(), **{name: value})))
        plain = Path(value) if name == "template" else getattr(value, "value", value)
        assert {key: after[key] for key in after if after[key] != before[key]} == {name: plain}


def test_frames_reach_the_networks_that_look_at_them(tmp_path: Path) -> None:
    small = Dinov2Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(small).save_pretrained(tmp_path / "dinov2")
    given = replace(nothing(), dinov2=str(tmp_path / "dinov2"), i3d=str(write_tiny_i3d(tmp_path / "i3d.pt")))
    one, two = (build_frechet_networks(replace(given, fdd_frames=n, fvd_frames=9 + n), 12, CPU) for n in (1, 2))
    video = torch.rand(1, 3, 12, 16, 16) * 2 - 1
    assert [network.metric for network in one] == ["fdd", "fvd"]
    assert [len(network.features(video)) for network in one] == [1, 1]
    assert [len(network.features(video)) for network in two] == [2, 1]
    assert not torch.equal(one[1].features(video), two[1].features(video))
    with pytest.raises(ValueError, match="11 frames"):
        build_frechet_networks(replace(given, fvd_frames=11), 10, CPU)


def test_what_is_not_given_is_absent(tmp_path: Path) -> None:
    assert build_lpips(nothing(), CPU) == {} and build_frechet_networks(nothing(), 9, CPU) == []
    torch.save(dict(LPIPS("alex").trunk.named_parameters()), tmp_path / "alex.pth")
    (found,) = build_lpips(replace(nothing(), lpips_alex=str(tmp_path / "alex.pth")), CPU).items()
    assert found[0] == found[1].net == "alex"
