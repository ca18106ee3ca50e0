"""What a command line means: quoting, grids, sweep files, and that the fast composition equals Hydra's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ssvae.config import compose as composing
from ssvae.config.compose import CONF, PROJECT, Cell, group_names, quote_choices, resolve
from ssvae.config.problem import InputError
from ssvae.config.tree import register

MAIN_JOB = ("reg=none,lcr,lmr,lcr_lmr", "channels=48,128")


def shape(cells: tuple[Cell, ...]) -> list[tuple[str, int, str, int]]:
    return [(cell.cfg.reg.name, cell.cfg.vae.channels, cell.cfg.resolution.name, cell.cfg.seed) for cell in cells]


@pytest.fixture
def sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/ with sweep files of the test's own; returns their folder."""
    conf = tmp_path / "conf"
    conf.mkdir()
    for entry in CONF.iterdir():
        if entry.name != "sweep":
            (conf / entry.name).symlink_to(entry)
    (tmp_path / "sweeps").mkdir()
    (conf / "sweep").symlink_to("../sweeps")
    monkeypatch.setattr(composing, "CONF", conf)
    resolve.cache_clear()
    yield tmp_path / "sweeps"
    resolve.cache_clear()


def write_sweep(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.yaml").write_text("# @package _global_\n" + text)


def test_main_job_is_the_full_product_with_the_first_axis_slowest() -> None:
    cells = resolve(MAIN_JOB)
    wanted = [(reg, channels, "32", 0) for reg in ("none", "lcr", "lmr", "lcr_lmr") for channels in (48, 128)]
    assert shape(cells) == wanted
    assert all(len(cell.axes) == 2 for cell in cells)


@pytest.mark.parametrize(
    ("given", "quoted"),
    [
        ("channels=48,128", "channels='48','128'"),
        ("channels=48", "channels='48'"),
        ("channels='48',\"128\"", "channels='48',\"128\""),
        ("channels=choice(48,128)", "channels=choice('48','128')"),
        ("resolution=32", "resolution='32'"),
        ("+resolution@stages.probe.resolution=64", "+resolution@stages.probe.resolution='64'"),
        ("reg=lcr", "reg=lcr"),
        ("seed=0,1", "seed=0,1"),
        ("train.steps=48", "train.steps=48"),
        ("-m", "-m"),
        ("vae.channels=48", "vae.channels=48"),
    ],
)
def test_only_choices_of_groups_are_quoted(given: str, quoted: str) -> None:
    assert quote_choices([given], group_names(CONF)) == [quoted]


@pytest.mark.parametrize("channels", ["channels=16", "channels='16'", 'channels="16"'])
def test_an_integer_choice_works_bare_and_quoted(channels: str) -> None:
    assert resolve((channels,))[0].cfg.vae.channels == 16


def test_two_integer_groups_and_a_plain_value_span_one_grid() -> None:
    cells = resolve(("channels=16,48", "resolution=32,64", "seed=3,4"))
    assert shape(cells) == [("none", c, r, s) for c in (16, 48) for r in ("32", "64") for s in (3, 4)]


def test_ablation_file_makes_the_cells_of_the_main_job() -> None:
    assert [cell.cfg for cell in resolve(("+sweep=ablation",))] == [cell.cfg for cell in resolve(MAIN_JOB)]


def test_sweep_folder_of_the_project_is_the_config_group() -> None:
    assert (CONF / "sweep").resolve() == (PROJECT / "sweeps").resolve()


def test_axes_of_a_file_are_quoted_too_and_give_way_to_the_command_line(sweeps: Path) -> None:
    write_sweep(sweeps, "grid", "hydra: {sweeper: {params: {reg: 'none,lcr', channels: '48,128', seed: 5}}}\n")
    assert shape(resolve(("+sweep=grid",))) == [(r, c, "32", 5) for r in ("none", "lcr") for c in (48, 128)]
    assert shape(resolve(("+sweep=grid", "channels=16"))) == [("none", 16, "32", 5), ("lcr", 16, "32", 5)]
    # One value for an axis, as a YAML integer.
    write_sweep(sweeps, "one", "hydra: {sweeper: {params: {channels: 128}}}\n")
    assert shape(resolve(("+sweep=one",))) == [("none", 128, "32", 0)]


def test_a_file_may_override_choices_and_values(sweeps: Path) -> None:
    text = 'defaults:\n  - override /channels: "128"\n  - override /reg: lmr\ntrain: {steps: 7}\n'
    write_sweep(sweeps, "fixed", text)
    (cell,) = resolve(("+sweep=fixed",))
    assert (cell.cfg.vae.channels, cell.cfg.reg.name, cell.cfg.stages.pretrain.train.steps) == (128, "lmr", 7)


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("defaults:\n  - override /channels: 48\n", ("+sweep=bad",), ('override /channels: "48"', "sweep/bad.yaml")),
        ('defaults:\n  - override /channels: "49"\n', ("+sweep=bad",), ("channels=49", "128, 16, 48")),
        ("hydra: {sweeper: {params: {chanels: 48}}}\n", ("+sweep=bad",), ("chanels", "did you mean channels")),
        ("hydra: {sweeper: {params: {channels: '48,'}}}\n", ("+sweep=bad",), ("channels", "cannot be parsed")),
        (
            "train: {stepps: 3}\n",
            ("+sweep=bad",),
            ("its file has the unknown key train.stepps", "did you mean train.steps"),
        ),
        ("seed: 1\n", ("sweep=bad",), ("+sweep=bad",)),
        ("seed: 1\n", ("+sweep=bad,ablation",), ("one sweep file at a time",)),
        ("seed: 1\n", ("+sweep=other",), ("sweep = other", "one of bad")),
    ],
)
def test_a_broken_sweep_file_is_named_with_a_remedy(
    sweeps: Path, text: str, overrides: tuple[str, ...], words: tuple[str, ...]
) -> None:
    write_sweep(sweeps, "bad", text)
    with pytest.raises(InputError) as caught:
        resolve(overrides)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ("reg=lcr_lmr", "channels='128'", "train.steps=3", "resolution.frames=17", "probe.dit.patch=[1,2,2]"),
        ("+reg/term@reg.terms.lmr=lmr", "strength.lcr=0.5", "stages.base=null"),
        ("reg=lcr", "reg.terms.lcr=null", "resolution='64'", "probe.dit.patch=[1,4,4]", "seed=7"),
        ("exp=cpu_long", "train.lr=0.5", "data.image_weight=2", "objective.lpips.weight=0"),
    ],
)
def test_cells_equal_hydras_own_composition(overrides: tuple[str, ...]) -> None:
    """Choices are composed once and values applied to a copy; Hydra, asked for all at once, must agree."""
    (cell,) = resolve(overrides)
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        whole = compose(config_name="config", overrides=list(overrides))
    assert OmegaConf.to_object(whole) == cell.cfg


def test_a_stage_may_have_a_group_of_its_own_and_nothing_else_changes() -> None:
    (cell,) = resolve(("+resolution@stages.measure.resolution=64", "stages.measure.resolution.frames=17"))
    stages = cell.cfg.stages
    assert (stages.measure.resolution.height, stages.measure.resolution.frames) == (64, 17)
    assert stages.pretrain.resolution == stages.probe.resolution == cell.cfg.resolution
    assert (cell.cfg.resolution.height, cell.cfg.resolution.frames) == (32, 9)


def test_the_sweep_files_header_names_command_and_cells() -> None:
    for path in sorted((PROJECT / "sweeps").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        # A search has no rows of its own: a space, and what is wanted of a point in it.
        about = ("# Space", "# Wanted", "# Pruning") if "\nsearch:\n" in text else ("# Rows", "# Columns")
        for word in ("# Command", f"+sweep={path.stem}", *about, "# Cost", "# Expected"):
            assert word in text, (path.name, word)
        assert text.startswith("# @package _global_\n"), path.name
        assert yaml.safe_load(text) is not None
