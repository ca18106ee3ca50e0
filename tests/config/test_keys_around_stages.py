"""Keys that stages point to, and keys around the stages; the others are in test_every_key_is_alive.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from key_cases import SHARED
from omegaconf import OmegaConf

from filled_config import leaves
from ssvae.config.compose import CONF, resolve
from ssvae.config.run import TrackConfig
from ssvae.config.tree import register
from ssvae.sweep import tracking
from ssvae.sweep.planned import PlannedCell
from ssvae.sweep.publish import experiment_notes
from ssvae.sweep.record import CellRecord, flat_config, resolved_values
from ssvae.track.records import read_cell

CHANGES = {
    "resolution": "resolution.fps=7.5",
    "reg": "reg.terms.kl.weight.value=0.125",
    "data": "data.reject_share=0.125",
    "objective": "objective.initial_logscale=0.125",
    "train": "train.lr=0.125",
    "probe": "probe.dit.depth=3",
    "score": "score.clips=77",
    "latents": "latents.windows=3",
    "networks": "networks.fdd_frames=3",
    "reward": "reward.frames=3",
}
"""A change of each shared group."""


def test_shared_groups_are_those_of_the_stages_that_point_to_them() -> None:
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        raw = OmegaConf.to_container(compose(config_name="config"), resolve=False)
    assert isinstance(raw, dict)
    for group in SHARED:
        pointing = [name for name, stage in raw["stages"].items() if stage and stage.get(group) == f"${{{group}}}"]
        assert pointing, f"no stage of the plain default takes the shared {group}"
        more = ("reward=unified_v2",) if group == "reward" else ()
        (cell,) = resolve((*more, CHANGES[group]))
        key, _, value = CHANGES[group].partition("=")
        for name in pointing:
            assert str(leaves(cell.cfg)[f"stages.{name}.{key}"]) == value


@pytest.mark.parametrize("name", ["kl", "lcr", "cov"])
def test_a_strength_reaches_its_term(name: str) -> None:
    (cell,) = resolve((f"reg={'none' if name == 'kl' else name}", f"strength.{name}=0.123"))
    assert leaves(cell.cfg)[f"stages.pretrain.reg.terms.{name}.weight.value"] == 0.123


def test_a_note_on_strengths_is_printed_under_the_table(tmp_path: Path) -> None:
    (cell,) = resolve(("strength.note=hear",))
    config = tmp_path / "cell.yaml"
    config.write_text(yaml.safe_dump(resolved_values(cell)))
    assert "hear" in experiment_notes([], [config])


def test_tracking_is_opened_as_the_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[object, ...]] = []

    class Tracker:
        def __init__(self, root: Path, experiment: str, uri: str | None, *, lives: object) -> None:
            opened.append((experiment, uri))

    class Live:
        def __init__(self, root: Path, connect: Any, problems: Any, *, every_s: float) -> None:
            opened.append((every_s,))
            connect()

        def open_sweep(self, name: str, params: Any) -> None:
            return None

        def close_sweep(self, name: str, status: str) -> None:
            return None

        def close(self, patience_s: float) -> list[str]:
            opened.append((patience_s,))
            return []

    monkeypatch.setattr(tracking, "MlflowTracker", Tracker)
    monkeypatch.setattr(tracking, "Live", Live)
    monkeypatch.setattr(tracking, "prepare", lambda root, uri: opened.append((uri,)))
    for enabled in (False, True):
        config = TrackConfig(enabled, "http://host", "mine", 3.5, 7.5, None, 1)
        tracking.Tracking.open(tmp_path, "s", config, "command", []).finish("FINISHED")
    assert opened == [("http://host",), (3.5,), ("mine", "http://host"), (7.5,)]


@pytest.mark.parametrize("exp", ["cpu", "cpu_long"])
def test_a_cells_run_is_tagged_with_its_experiment_and_shows_every_value(exp: str, tmp_path: Path) -> None:
    """Names and labels too: there is where one sees them. What the tracker reads from disk is the config itself."""
    (cell,) = resolve((f"exp={exp}",))
    record = CellRecord.open(tmp_path, "s", PlannedCell(cell, {}, "id"))
    shown = read_cell(tmp_path, record.path)
    assert shown.tags["exp"] == exp
    assert shown.params == flat_config(cell)
    present = {key for key, value in leaves(cell.cfg).items() if value not in ([], {})}
    assert present <= set(shown.params)
