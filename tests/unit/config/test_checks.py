"""The rules, which know no torch, against the objects that they speak for: reported exactly when building fails."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pytest
import torch

from ssvae.build import build_dit, build_regularizers, build_vae
from ssvae.config.checks import LEAST_SCORED_FRAMES, check, place
from ssvae.config.compose import resolve
from ssvae.config.probe import Condition
from ssvae.config.reg import RegConfig, TrainedStage, terms_in
from ssvae.config.tree import Config
from ssvae.config.vae import architecture
from ssvae.core.shapes import latent_grid
from ssvae.data.clips import pick_frames
from ssvae.data.pixels import ClipError
from ssvae.metrics.chopping import ChoppingCurve
from ssvae.metrics.latents import LatentStatistics
from ssvae.metrics.mask_robustness import MaskRobustness
from ssvae.metrics.recon import down_and_up
from ssvae.metrics.robustness import NoiseRobustness
from ssvae.models.features import LEAST_FRAMES
from ssvae.regularizers.base import Regularizer


@lru_cache
def _composed(*overrides: str) -> Config:
    (cell,) = resolve(overrides)
    return cell.cfg


def config(*overrides: str) -> Config:
    return copy.deepcopy(_composed(*overrides))


def keys(cfg: Config) -> set[str]:
    return {problem.key for problem in check(cfg)}


def fails(make: Callable[[], Any]) -> bool:
    try:
        make()
    except ValueError:
        return True
    return False


def agree(cfg: Config, key: str, make: Callable[[], Any]) -> bool:
    """Do rule and object agree? Returns whether both refuse. A stage's value that equals the shared one has its key."""
    refused = fails(make)
    shared = key.split(".", 2)[2] if key.startswith("stages.") else key
    assert any(found.startswith((key, shared)) for found in keys(cfg)) == refused, (key, keys(cfg))
    return refused


def built(reg: RegConfig) -> dict[str, Regularizer]:
    """The regularisers of a combination, for a VAE of 48 channels."""
    cfg = config("channels=48")
    with torch.device("meta"):
        vae = build_vae(cfg.vae)
    return build_regularizers(terms_in(reg.terms, TrainedStage.pretrain), vae, cfg.resolution)[0]


def test_the_default_has_no_problem() -> None:
    assert check(config("reg=lcr_lmr")) == []


def test_widths_and_levels_of_a_vae() -> None:
    cfg = config()
    outcomes = set()
    for multipliers in ([1, 2], [2, 3], [4, 2], [3, 2], [1, 8], [1, 3], [2, 1, 4], [0, 2], [2]):
        for levels in itertools.product([True, False], repeat=len(multipliers) - 1):
            for extra in ([], [True]):
                cfg.vae.multipliers, cfg.vae.temporal_levels = multipliers, [*levels, *extra]

                def make() -> None:
                    with torch.device("meta"):
                        build_vae(cfg.vae)

                outcomes.add(agree(cfg, "vae.", make))
    assert outcomes == {True, False}


def test_compression_is_that_of_the_network() -> None:
    for name in ("tiny", "ssvae"):
        cfg = config(f"vae={name}", "resolution=256", "score=paper", "probe.dit.patch=[1,2,2]")
        with torch.device("meta"):
            vae = build_vae(cfg.vae)
        assert (vae.temporal_ratio, vae.spatial_ratio) == architecture(cfg.vae).ratios


@pytest.mark.parametrize("frames", [1, 9, 13, 17])
def test_windows_and_blocks_tile_the_latent_grid(frames: int) -> None:
    cfg = config("reg=lcr", "stage=pretrain", "data.synthetic.frames=17")
    cfg.stages.pretrain.resolution.frames = cfg.stages.measure.resolution.frames = frames
    grid = latent_grid(frames, 32, 32, 4, 4)
    outcomes = set()
    for sides in ([2, 2, 2], [1, 1, 2], [1, 1, 1], [1, 3, 2], [3, 2, 2], [4, 8, 8], [2, 2], [0, 2, 2], [2, 2, 16]):
        window = config("reg=lcr").stages.pretrain.reg
        assert window.terms.lcr is not None
        window.terms.lcr.window = sides
        cfg.stages.pretrain.reg = window

        def make_lcr() -> None:
            regularizers = built(cfg.stages.pretrain.reg)
            regularizers["lcr"].check_grid(grid)

        outcomes.add(agree(cfg, "stages.pretrain.reg.terms.lcr.window", make_lcr))
        score = cfg.stages.measure.score
        score.window, score.block = sides, [1, 1, 1]
        outcomes.add(
            agree(cfg, "stages.measure.score.window", partial(LatentStatistics, 4, grid, (1, 1, 1), tuple(sides)))
        )
        score.window, score.block = [1, 2, 2], sides
        outcomes.add(
            agree(cfg, "stages.measure.score.block", partial(LatentStatistics, 4, grid, tuple(sides), (1, 2, 2)))
        )
    assert outcomes == {True, False}


def test_lmr() -> None:
    outcomes = set()
    values: list[tuple[list[float], list[float], list[int]]] = [
        ([0.0, 0.5], [0.5, 0.5], [1, 1, 1]),
        ([0.0, 1.0], [0.5, 0.5], [1, 1, 1]),
        ([0.0, -0.1], [0.5, 0.5], [1, 1, 1]),
        ([0.5], [0.5, 0.5], [1, 1, 1]),
        ([], [], [1, 1, 1]),
        ([0.5, 0.2], [0.5, 0.6], [1, 1, 1]),
        ([0.5, 0.2], [1.5, -0.5], [1, 1, 1]),
        ([0.5], [1.0], [1, 1]),
        ([0.5], [1.0], [0, 1, 1]),
    ]
    for ratio, probability, block in values:
        cfg = config("reg=lmr")
        lmr = cfg.stages.pretrain.reg.terms.lmr
        assert lmr is not None
        lmr.ratios, lmr.probabilities, lmr.block = ratio, probability, block
        reg = cfg.stages.pretrain.reg
        outcomes.add(agree(cfg, "stages.pretrain.reg.terms.lmr", lambda reg=reg: built(reg)))
    assert outcomes == {True, False}


def test_the_probes_transformer() -> None:
    outcomes = set()
    for width, heads, patch in itertools.product(
        [128, 12, 10, 15, 20], [4, 5, 0], [[1, 2, 2], [3, 8, 8], [2, 2, 2], [1, 1]]
    ):
        cfg = config()
        dit = cfg.stages.probe.probe.dit
        dit.width, dit.heads, dit.patch = width, heads, patch
        probe = cfg.stages.probe.probe

        def make(probe: Any = probe) -> None:
            with torch.device("meta"):
                build_dit(probe, channels=4, grid=(3, 8, 8), condition=Condition.none, classes=0)

        outcomes.add(agree(cfg, "stages.probe.probe.dit", make))
    assert outcomes == {True, False}


def test_synthetic_clips_are_long_enough() -> None:
    outcomes = set()
    for frames, fps, made, rate in itertools.product([9, 17], [8.0, 4.0, 30.0], [8, 9, 16, 17, 33], [8.0, 16.0]):
        cfg = config("resolution.frames=9", f"data.synthetic.frames={64}")
        for stage in (cfg.stages.base, cfg.stages.pretrain, cfg.stages.measure, cfg.stages.probe):
            assert stage is not None
            assert stage.data.synthetic is not None
            stage.resolution.frames, stage.resolution.fps = frames, fps
            stage.data.synthetic.frames, stage.data.synthetic.fps = made, rate
        times = np.arange(made) / rate
        short = False
        try:
            pick_frames(times, frames=frames, fps=fps, position=0.5)
        except ClipError:
            short = True
        assert any(key.endswith("synthetic.frames") for key in keys(cfg)) == short, (frames, fps, made, rate)
        outcomes.add(short)
    assert outcomes == {True, False}


@pytest.mark.parametrize("factor", [1, 2, 3, 8, 32, 33])
def test_down_sampling_factor(factor: int) -> None:
    cfg = config()
    cfg.stages.measure.score.downsample = factor
    agree(cfg, "stages.measure.score.downsample", lambda: down_and_up(torch.zeros(1, 3, 1, 32, 32), factor))


@pytest.mark.parametrize("name", ["noise", "mask", "chop"])
@pytest.mark.parametrize("levels", [[0.1, 0.2], [0.1, 0.1], [-0.1], [0.0], [0.5, 1.5], [1.0], []])
def test_levels(name: str, levels: list[float]) -> None:
    """Level 0 is measured anyway, and an empty list leaves the curve out."""
    cfg = config()
    setattr(cfg.stages.measure.score, name, levels)
    every, ones = (0.0, *levels), torch.ones(2)
    builds = {
        "noise": lambda: NoiseRobustness(lambda latent: latent, ones, every),
        "mask": lambda: MaskRobustness(lambda latent: latent, ones, every),
        "chop": lambda: ChoppingCurve(lambda latent: latent, (1, 2, 2), (1, 2, 2), every),
    }
    agree(cfg, f"stages.measure.score.{name}", builds[name])


def test_the_probe_looks_at_as_many_frames_as_its_networks_need() -> None:
    assert LEAST_SCORED_FRAMES == LEAST_FRAMES
    image = ("resolution.frames=1", "score.window=[1,2,2]", "score.block=[1,4,4]", "probe.dit.patch=[1,2,2]")
    with pytest.raises(ValueError, match="5 frames or more"):
        resolve(image)
    assert resolve((*image, "stage=pretrain"))


@pytest.mark.parametrize(("image", "video", "fine"), [(0, 0, False), (-1, 2, False), (1, 0, True), (0, 1, True)])
def test_odds_of_images_and_videos(image: float, video: float, fine: bool) -> None:
    cfg = config()
    cfg.stages.pretrain.data.image_weight, cfg.stages.pretrain.data.video_weight = image, video
    assert any("weight" in key for key in keys(cfg)) != fine


def test_a_group_of_a_stage_is_named_where_a_user_sets_it() -> None:
    cfg = config()
    assert place(cfg, "pretrain", "train") == "train"
    cfg.stages.pretrain.train.steps += 1
    assert place(cfg, "pretrain", "train") == "stages.pretrain.train"
