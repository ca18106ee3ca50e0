"""Every file under conf/ and sweeps/ composes, passes the checks and makes objects."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssvae.build import (
    build_adversary,
    build_cadence,
    build_dit,
    build_flow,
    build_nll,
    build_regularizers,
    build_settings,
    build_vae,
)
from ssvae.config.checks import stages_used
from ssvae.config.compose import CONF, PROJECT, Cell, resolve
from ssvae.config.probe import Condition
from ssvae.config.reg import TrainedStage, terms_in
from ssvae.config.vae import architecture
from ssvae.core.shapes import latent_grid
from ssvae.models.condition import BlankTexts
from ssvae.models.load import RELEASES
from ssvae.models.zoo_source import PRESETS

SMALL_PATCH = "probe.dit.patch=[1,2,2]"
PAPER = ("data.path={clips}", "data.image_path={clips}", "objective.lpips.vgg=null")
CONTEXT = {
    # Choices that only make sense beside others.
    "vae=ssvae": ("resolution=256", "score=paper", SMALL_PATCH),
    "score=paper": ("resolution=256", "vae=ssvae", SMALL_PATCH),
    "resolution=256": (SMALL_PATCH,),
    "resolution=512": (SMALL_PATCH,),
    "data=webdataset": ("data.path={clips}", "data.image_path={clips}"),
    "objective=l1_lpips_gan": ("objective.lpips.vgg=null", "resolution=64"),
    "exp=paper_256p": PAPER,
    "exp=paper_512p": PAPER,
    "exp=finetune_256p": PAPER,
    "exp=paper_512p_continue": PAPER,
    **{f"probe={size}": ("probe.text.model=google-t5/t5-base",) for size in ("0.75b", "1.3b", "4b")},
    **{f"vae={name}": ("stage=evaluate",) for name in (*PRESETS, *RELEASES)},
    "vae=weights": ("stage=evaluate", "vae.weights=here.ckpt"),
    "probe=s2": (),
    "reg=noise": ("exp=cpu_finetune",),
    "reg/term=noise": ("exp=cpu_finetune",),
    "reg=vf": ("reg.terms.vf.model=facebook/dinov2-large",),
    "reg/term=vf": ("reg.terms.vf.model=facebook/dinov2-large",),
    "stage=decoder_finetune": ("exp=cpu_finetune",),
}
FILES = sorted(path for path in CONF.rglob("*.yaml") if path != CONF / "config.yaml")


def overrides_for(path: Path) -> tuple[str, ...]:
    group, choice = str(path.parent.relative_to(CONF)), path.stem
    if group == "reg/term":
        more = CONTEXT.get(f"{group}={choice}", ())
        plus = "" if choice == "kl" else "+"
        return (f"{plus}reg/term@reg.terms.{choice}={choice}", *more)
    if group == "launch/queue":
        return (f"{group}@launch.jobs.pretrain={choice}",)
    return (f"{group}={choice}", *CONTEXT.get(f"{group}={choice}", ()))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder that looks like shards; nothing here opens one."""
    (tmp_path / "000000.tar").touch()
    return tmp_path


def build_all(cell: Cell) -> None:
    """Make every object of a cell; networks on the meta device, where the paper's size costs nothing."""
    cfg = cell.cfg
    if cfg.vae.weights is not None:
        assert stages_used(cfg) == ["measure", "probe"]
        assert cfg.vae.weights in (*PRESETS, *RELEASES, "here.ckpt")
        return
    for name in ("base", "pretrain", "decoder_finetune"):
        stage = getattr(cfg.stages, name)
        if stage is None:
            continue
        kind = TrainedStage.decoder_finetune if name == "decoder_finetune" else TrainedStage.pretrain
        with torch.device("meta"):
            vae = build_vae(cfg.vae)
        clip = stage.resolution
        grid = vae.latent_grid(clip.frames, clip.height, clip.width)
        assert grid == latent_grid(clip.frames, clip.height, clip.width, *architecture(cfg.vae).ratios)
        terms = terms_in(stage.reg.terms, kind)
        if terms.vf is None:  # it needs a network from outside: tests/unit/regularizers/test_vf.py
            regularizers, weights = build_regularizers(terms, vae, clip)
            for regularizer in regularizers.values():
                regularizer.check_grid(grid)
            assert set(weights) <= {*regularizers, "motion"}
        with torch.device("meta"):
            adversary = build_adversary(stage.objective)
        assert (adversary is None) == (stage.objective.critic is None)
        assert build_nll(stage.objective).perceptual is None
        settings = build_settings(stage.train)
        settings.set_rate(settings.build_optimizer([torch.nn.Parameter(torch.zeros(1))]), 0)
    probe = cfg.stages.probe.probe
    with torch.device("meta"):
        kind = Condition.caption if probe.condition is Condition.auto else probe.condition
        texts = BlankTexts(64, probe.text.max_length) if kind is Condition.text else None
        clip = cfg.stages.probe.resolution
        grid = latent_grid(clip.frames, clip.height, clip.width, *architecture(cfg.vae).ratios)
        build_dit(probe, channels=cfg.vae.channels, grid=grid, condition=kind, classes=0, texts=texts)
    build_flow(probe)
    build_settings(probe.train)
    assert build_cadence(cfg.runtime).logs(1, 2)


def test_the_plain_default_boots() -> None:
    (cell,) = resolve(())
    build_all(cell)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(CONF)) for path in FILES])
def test_every_choice_of_every_group_boots(path: Path, clips: Path) -> None:
    (cell,) = resolve(tuple(text.format(clips=clips) for text in overrides_for(path)))
    build_all(cell)
    group = path.parent.name
    if group == "reward":
        assert (cell.cfg.reward is None) == (path.stem == "none")
    if group in ("reg", "vae", "resolution", "objective", "score", "probe"):
        assert getattr(cell.cfg, group).name == path.stem
    if group == "exp":
        assert cell.cfg.exp == path.stem
    if group == "stage":
        assert cell.cfg.stage.value == path.stem


@pytest.mark.parametrize("name", [path.stem for path in sorted((PROJECT / "sweeps").glob("*.yaml"))])
def test_every_sweep_boots(name: str) -> None:
    cells = resolve((f"+sweep={name}",))
    assert (len(cells) > 1) == (cells[0].cfg.search is None), "a search starts from one cell"
    for cell in cells:
        build_all(cell)


@pytest.mark.parametrize("exp", [path.stem for path in sorted((CONF / "exp").glob("*.yaml"))])
def test_the_main_job_boots_in_every_experiment(exp: str, clips: Path) -> None:
    more = [text.format(clips=clips) for text in CONTEXT.get(f"exp={exp}", ())]
    cells = resolve((f"exp={exp}", "reg=none,lcr,lmr,lcr_lmr", "channels=48,128", *more))
    assert len(cells) == 8
    for cell in cells:
        build_all(cell)


def test_only_choices_that_are_files_are_offered_to_the_type() -> None:
    """An enumeration of the typed tree and the files of its group name the same things."""
    from ssvae.config.launch import LaunchName
    from ssvae.config.run import StageName

    assert {path.stem for path in (CONF / "stage").glob("*.yaml")} == {name.value for name in StageName}
    # A launcher may have several presets.
    launches = {path.stem for path in (CONF / "launch").glob("*.yaml")}
    assert {resolve((f"launch={name}",))[0].cfg.launch.name for name in launches} == set(LaunchName)
    assert {name.value for name in LaunchName} <= launches
