"""No key of the config is dead: each is read by the work itself, and another value makes another result.

A stage's identity holds nearly every value, so it proves nothing here: reads for identity, checks and records do not
count, and results are compared without the texts that repeat a config. Every stage is really run, at the smallest size.
"""

from __future__ import annotations

import copy
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from filled_config import filled, leaves, other, put, reads, training_stages, typed_leaves
from hydra import compose, initialize_config_dir
from key_cases import EXEMPT, SHARED, SHOWN_BY, UNREAD, WITNESSED, Case, all_alone, all_together, case_of, scenario
from omegaconf import OmegaConf
from tiny_stages import Outcome, Workshop, numbers, witnesses

import ssvae.build as building
from ssvae.config.checks import check
from ssvae.config.compose import CONF, Cell
from ssvae.config.train import VaeTrainConfig
from ssvae.config.tree import Config, register
from ssvae.flow.path import RectifiedFlow
from ssvae.regularizers.kl import KL
from ssvae.regularizers.noise import Noise
from ssvae.sweep import tracking
from ssvae.sweep.main import run_grid
from ssvae.sweep.record import flat_config
from ssvae.train.guard import NonFiniteLoss
from ssvae.train.settings import TrainSettings
from named_tests import absent

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("every_key")]
KEYS = list(typed_leaves())
CASES = [key for key in KEYS if case_of(key) is not None]


class Bench:
    """A workshop, and what it makes of every scenario as it stands."""

    def __init__(self, root: Path) -> None:
        self.shop = Workshop(root)
        self.shop.make_parents(self.config("plain"))
        self._controls: dict[tuple[str, str], Outcome] = {}

    def config(self, name: str) -> Config:
        return scenario(name, self.shop.full, self.shop.files)

    def control(self, case: Case) -> Outcome:
        place = (case.stage, case.scenario)
        if place not in self._controls:
            self._controls[place] = self.run(case, self.config(case.scenario))
        return self._controls[place]

    def run(self, case: Case, cfg: Config) -> Outcome:
        # In these two the error is the point; every other case has to run to its end.
        failing = case.key.endswith(("nonfinite_limit", "reject_share"))
        return self.shop.run(case.stage, cfg, (NonFiniteLoss, ValueError) if failing else ())

    def shows(self, case: Case) -> bool:
        """Does the case's stage make something else of the other value?"""
        cfg = self.config(case.scenario)
        old = leaves(cfg)[case.key]
        new = case.value(self.shop.files, self.shop.parents) if callable(case.value) else case.value
        new = other(old) if new is ... else new
        assert new != old
        put(cfg, case.key, new)
        before, after = self.control(case), self.run(case, cfg)
        if any(fnmatch(case.key, pattern) for pattern in WITNESSED):
            assert numbers(before) == numbers(after), "how the work is carried out changes no number"
            return before != after
        return numbers(before) != numbers(after)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    # Some kernels choose their way by what was computed before: one way for all.
    torch.manual_seed(0)
    yield Bench(tmp_path_factory.mktemp("bench"))
