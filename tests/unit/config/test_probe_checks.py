"""Rules of the probe's conditions, prompts and checkpoints: each fires on its mistake and on nothing else."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from ssvae.config.compose import resolve
from ssvae.config.probe import Condition, ProbeConfig
from ssvae.config.probe_checks import probe_checks


def probe(*overrides: str) -> ProbeConfig:
    (cell,) = resolve(overrides)
    return copy.deepcopy(cell.cfg.stages.probe.probe)


def keys(cfg: ProbeConfig) -> list[str]:
    return [problem.key for problem in probe_checks(cfg, "probe")]


@pytest.mark.parametrize("name", ["tiny", "s2", "b2", "l2", "xl2"])
def test_presets_are_fine(name: str) -> None:
    assert keys(probe(f"probe={name}")) == []


@pytest.mark.parametrize("name", ["0.75b", "1.3b", "4b"])
def test_the_large_presets_ask_for_a_text_encoder_and_nothing_else(name: str) -> None:
    cfg = probe(f"probe={name}", "probe.text.model=owner/name")
    assert keys(cfg) == []
    cfg.text.model = None
    (problem,) = probe_checks(cfg, "probe")
    assert (problem.key, problem.value) == ("probe.text.model", "null")


@pytest.mark.parametrize(
    ("condition", "model", "wrong"),
    [
        (Condition.text, "owner/name", False),
        (Condition.auto, "owner/name", False),
        (Condition.caption, "owner/name", True),
        (Condition.none, "owner/name", True),
        (Condition.text, "/nowhere/at/all", True),
        (Condition.auto, "~/nowhere-at-all", True),
        (Condition.label, None, False),
    ],
)
def test_a_text_encoder_is_one_that_is_read(condition: Condition, model: str | None, wrong: bool) -> None:
    cfg = probe()
    cfg.condition, cfg.text.model = condition, model
    assert keys(cfg) == ["probe.text.model"] * wrong


def test_a_folder_that_is_there_may_be_a_path(tmp_path: Path) -> None:
    cfg = probe()
    cfg.text.model = str(tmp_path)
    assert keys(cfg) == []
    cfg.text.max_length = 0
    assert keys(cfg) == ["probe.text.max_length"]


@pytest.mark.parametrize(
    ("steps", "wrong"), [([], False), ([5], False), ([1, 5], False), ([5, 1], True), ([5, 5], True), ([0, 5], True)]
)
def test_checkpoints_rise(steps: list[int], wrong: bool) -> None:
    cfg = probe()
    cfg.checkpoints = steps
    assert keys(cfg) == ["probe.checkpoints"] * wrong


def test_prompts_are_a_file_and_need_a_model_that_reads(tmp_path: Path) -> None:
    cfg = probe()
    cfg.sample.prompts = str(tmp_path / "prompts.txt")
    assert keys(cfg) == ["probe.sample.prompts"]
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    assert keys(cfg) == []
    cfg.condition = Condition.none
    assert keys(cfg) == ["probe.sample.prompts"]
