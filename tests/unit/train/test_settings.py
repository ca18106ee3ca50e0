"""Optimiser, rate and cadence as the settings say."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn

from ssvae.core.schedule import learning_rate
from ssvae.train.settings import Cadence, TrainSettings

SETTINGS = TrainSettings(
    steps=10,
    batch=2,
    optimizer="adamw",
    lr=0.01,
    betas=(0.8, 0.9),
    weight_decay=0.1,
    curve="cosine",
    warmup=3,
    lr_start=0.001,
    lr_end=0.002,
    decay_steps=None,
    grad_clip=1.0,
    ema_decay=None,
    precision="fp32",
    nonfinite_limit=0,
)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_optimizer_is_the_one_asked_for(name: Literal["adam", "adamw"], kind: type) -> None:
    optimizer = replace(SETTINGS, optimizer=name).build_optimizer([nn.Parameter(torch.zeros(2))])
    assert type(optimizer) is kind
    assert {key: optimizer.defaults[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 0.01,
        "betas": (0.8, 0.9),
        "weight_decay": 0.1,
    }


@pytest.mark.parametrize("decay_steps", [None, 40])
def test_rate_follows_the_curve_and_is_set_in_every_group(decay_steps: int | None) -> None:
    settings = replace(SETTINGS, decay_steps=decay_steps)
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.Adam([{"params": [parameter]} for parameter in parameters], lr=1.0)
    for step in range(10):
        wanted = learning_rate(
            step, curve="cosine", peak=0.01, warmup=3, start=0.001, end=0.002, decay_steps=decay_steps or 10
        )
        assert settings.set_rate(optimizer, step) == wanted
        assert [group["lr"] for group in optimizer.param_groups] == [wanted, wanted]


def test_cadence_counts_updates_and_never_misses_the_ends() -> None:
    cadence = Cadence(checkpoint_every=4, log_every=3)
    assert [step for step in range(1, 11) if cadence.logs(step, 10)] == [1, 3, 6, 9, 10]
    assert [step for step in range(1, 11) if cadence.saves(step, 10)] == [4, 8, 10]
    assert Cadence(100, 100).saves(2, 2)
