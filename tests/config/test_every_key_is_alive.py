"""No key of the config is dead: each is read by the work itself, and another value makes another result.

A stage's identity holds nearly every value, so it proves nothing here: reads for identity, checks and records do not
count, and results are compared without the texts that repeat a config. Every stage is really run, at the smallest size.
"""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
from key_cases import (
    BATCHES,
    NAMES,
    NOT_HERE,
    SHARED,
    SHOWN_BY,
    UNREAD,
    WITHOUT_EFFECT,
    WITNESSED,
    Case,
    case_of,
    is_one_of,
    scenario,
)

from filled_config import leaves, other, put, reads, training_stages, typed_leaves
from named_tests import absent
from ssvae import build
from ssvae.config.checks import check
from ssvae.config.compose import Cell
from ssvae.config.data import DataConfig, DataKind
from ssvae.config.reg import TermsConfig, TrainedStage
from ssvae.config.run import StageName
from ssvae.config.train import VaeTrainConfig
from ssvae.config.tree import Config
from ssvae.regularizers.kl import KL
from ssvae.sweep.main import run_grid
from ssvae.train.guard import NonFiniteLoss
from ssvae.train.settings import TrainSettings
from tiny_stages import Outcome, Workshop, numbers, witnesses

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("every_key")]
KEYS = list(typed_leaves())


class Bench:
    """A workshop, and what it makes of every scenario as it stands."""

    def __init__(self, root: Path) -> None:
        self.shop = Workshop(root)
        averaged = self.config("plain")
        for stage in training_stages(averaged):
            stage.train.ema_decay = 0.5  # so that there are other weights to measure
        self.shop.make_parents(averaged)
        self._controls: dict[tuple[str, str], Outcome] = {}

    def config(self, name: str) -> Config:
        return scenario(name, self.shop.full, self.shop.files)

    def run(self, case: Case, cfg: Config) -> Outcome:
        # In these two the error is the point; every other case has to run to its end.
        failing = case.key.endswith(("nonfinite_limit", "reject_share"))
        return self.shop.run(case.stage, cfg, (NonFiniteLoss, ValueError) if failing else ())

    def control(self, case: Case) -> Outcome:
        place = (case.stage, case.scenario)
        if place not in self._controls:
            self._controls[place] = self.run(case, self.config(case.scenario))
        return self._controls[place]

    def shows(self, case: Case) -> bool:
        """Does the case's stage make something else of the other value?"""
        cfg = self.config(case.scenario)
        old, new = leaves(cfg)[case.key], case.value
        if new is ...:
            new = other(old)
        elif callable(new):
            new = new(self.shop.files, self.shop.parents)
        assert new != old
        put(cfg, case.key, new)
        before, after = self.control(case), self.run(case, cfg)
        if is_one_of(case.key, WITNESSED):
            assert numbers(before) == numbers(after), "how the work is carried out changes no number"
        if is_one_of(case.key, (*WITNESSED, *BATCHES)):
            return before != after
        return numbers(before) != numbers(after)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def test_every_key_has_a_proof_and_every_exception_a_key() -> None:
    cases = {key for key in KEYS if case_of(key) is not None}
    shared = {key for key in KEYS if key.startswith(tuple(f"{group}." for group in SHARED))}
    same_code = {
        key for key in KEYS if key.startswith(("stages.base.", "stages.decoder_finetune.", "stages.probe_base."))
    }
    other_proof = {key for key in KEYS if is_one_of(key, (*SHOWN_BY, *NAMES, *NOT_HERE, *WITHOUT_EFFECT))}
    assert set(KEYS) == cases | shared | same_code | other_proof
    assert len(cases) > 170
    assert absent(SHOWN_BY.values()) == []
    for pattern in (*SHOWN_BY, *NAMES, *NOT_HERE, *WITHOUT_EFFECT, *UNREAD, *WITNESSED, *BATCHES):
        assert any(is_one_of(key, [pattern]) for key in KEYS), f"{pattern} is no key any more"


# -------- being read


def data_of_its_own(cfg: Config) -> list[DataConfig]:
    """The data of every stage, a little different from stage to stage: equal ones are opened once."""
    found = [stage.data for stage in training_stages(cfg)] + [cfg.stages.measure.data, cfg.stages.probe.data]
    found += [] if cfg.stages.probe_base is None else [cfg.stages.probe_base.data]
    for index, data in enumerate(found):
        data.reject_share += 0.01 * index
    return found


def together(bench: Bench) -> Config:
    """A cell with all parts at once, but those that exclude each other."""
    cfg = copy.deepcopy(bench.shop.full)
    for stage in training_stages(cfg):
        terms = stage.reg.terms
        assert terms.lcr and terms.eq and terms.se and terms.noise and terms.predictive and stage.objective.critic
        terms.vf, terms.lcr.window, terms.eq.downscaled, terms.se.factors = None, [1, 2, 2], 0.0, [2]
        terms.noise.stages = terms.predictive.stages = [*TrainedStage]
        stage.objective.lpips.vgg = stage.objective.lpips.heads = None
        stage.objective.critic.start_step, stage.train.ema_decay = 2, 0.5
    for data in data_of_its_own(cfg):
        data.image_path, data.image_weight, data.image_batch = str(bench.shop.files.images), 1.0, 2
    return cfg


def apart(bench: Bench) -> Config:
    """What :func:`together` leaves out: clips from folders, LPIPS, the vision network, weights to start from."""
    cfg = copy.deepcopy(bench.shop.full)
    for stage in training_stages(cfg):
        stage.reg.terms, stage.objective.critic = TermsConfig(vf=stage.reg.terms.vf), None
        assert stage.reg.terms.vf is not None
        stage.reg.terms.vf.size = 28
        stage.init = str(bench.shop.parents["pretrain"].folder)
    assert cfg.stages.decoder_finetune is not None
    cfg.stages.decoder_finetune.init = None
    for probe in (cfg.stages.probe, cfg.stages.probe_base):
        assert probe is not None
        probe.probe.text.model = str(bench.shop.files.text_encoder)
    for networks in (cfg.stages.measure.networks, cfg.stages.probe.networks):
        networks.dinov2, networks.i3d = str(bench.shop.files.dinov2), str(bench.shop.files.i3d)
        networks.fvd_frames = 9
    for data in data_of_its_own(cfg):
        data.kind, data.path = DataKind.webdataset, str(bench.shop.files.clips)
    return cfg


def continued(bench: Bench) -> Config:
    """A cell without a base, which goes on from weights."""
    cfg = bench.config("plain")
    cfg.stage, cfg.stages.pretrain.init = StageName.pretrain, str(bench.shop.parents["pretrain"].folder)
    return cfg


def test_the_work_itself_reads_every_key(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path))
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    seen: set[str] = set()
    for cfg in (together(bench), apart(bench), continued(bench)):
        with reads(cfg) as found, witnesses():
            assert run_grid([Cell((), (), cfg)], []) == 0
        seen |= found
    pointed = tuple(f"{group}." for group in SHARED)
    unread = {key for key in KEYS if key not in seen and not key.startswith(pointed)}
    assert {key for key in unread if not is_one_of(key, UNREAD)} == set()
    stale = [pattern for pattern in UNREAD if not any(is_one_of(key, [pattern]) for key in unread)]
    assert stale == [], "all of these are read after all"


@dataclass
class WithDeadKey(VaeTrainConfig):
    dead: int = 3


def with_dead_key(cfg: Config) -> Config:
    train = cfg.stages.pretrain.train
    cfg.stages.pretrain.train = WithDeadKey(**{field.name: getattr(train, field.name) for field in fields(train)})
    return cfg


def test_a_key_that_nobody_reads_is_reported(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Identity, checks and records all look at it, and that does not count."""
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path))
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    plain, cfg = bench.config("plain"), with_dead_key(bench.config("plain"))
    ids = [bench.shop.plans(one)["pretrain"].id for one in (plain, cfg)]
    assert ids[0] != ids[1]
    with reads(cfg) as seen, witnesses():
        check(cfg)
        assert run_grid([Cell((), (), cfg)], []) == 0
    mine = {key for key in leaves(cfg) if key.startswith("stages.pretrain.train.")}
    assert mine - seen == {"stages.pretrain.train.dead", "stages.pretrain.train.name"}


# -------- making a difference


@pytest.mark.parametrize("key", [key for key in KEYS if case_of(key) is not None])
def test_another_value_makes_another_result(key: str, bench: Bench) -> None:
    case = case_of(key)
    assert case is not None
    assert bench.shows(case)


def test_the_same_value_makes_the_same_result(bench: Bench) -> None:
    for key in ("seed", "stages.measure.score.clips", "stages.probe.latents.windows", "stages.probe.probe.dit.depth"):
        case = case_of(key)
        assert case is not None
        assert bench.control(case) == bench.run(case, bench.config(case.scenario)), case.stage


def deaf_kl(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(build, "KL", lambda reduction: KL())


def deaf_optimizer(patch: pytest.MonkeyPatch) -> None:
    real = TrainSettings.build_optimizer
    patch.setattr(TrainSettings, "build_optimizer", lambda self, given: real(replace(self, weight_decay=0.1), given))


def deaf_flow(patch: pytest.MonkeyPatch) -> None:
    real = build.RectifiedFlow
    patch.setattr(build, "RectifiedFlow", lambda distribution, shift: real(distribution="logit_normal", shift=shift))


@pytest.mark.parametrize(
    ("key", "deafen"),
    [
        ("stages.pretrain.reg.terms.kl.reduction", deaf_kl),
        ("stages.pretrain.train.weight_decay", deaf_optimizer),
        ("stages.probe.probe.flow.times", deaf_flow),
    ],
)
def test_a_value_that_is_passed_on_and_ignored_is_reported(
    key: str, deafen: Callable[[pytest.MonkeyPatch], None], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(key)
    assert case is not None
    deafen(monkeypatch)
    assert not bench.shows(case)


def test_a_planted_key_makes_no_difference(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "config", lambda name: with_dead_key(scenario(name, bench.shop.full, bench.shop.files)))
    assert not bench.shows(Case("stages.pretrain.train.dead", "pretrain", "plain", ...))
