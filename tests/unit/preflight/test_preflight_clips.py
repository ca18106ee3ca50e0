"""Data that are missing, damaged, or different on one rank."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
from preflight_jobs import config, crew, job

from ssvae.config.data import DataKind
from ssvae.config.tree import Config
from ssvae.data.shards import index_shards
from ssvae.data.synthetic_shards import write_synthetic
from ssvae.preflight.clips import data_sets, judge_data, measure_data


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return write_synthetic(tmp_path / "clips", clips=12, images=6, frames=12, size=16, shard_size=6, seed=1)


def reading(path: Path, images: Path | None = None) -> Config:
    """A cell whose every stage reads the shards at ``path``."""
    cfg = config("stages.base=null", "stages.probe_base=null")
    given = None if images is None else str(images)
    data = replace(cfg.stages.pretrain.data, kind=DataKind.webdataset, path=str(path), synthetic=None, image_path=given)
    for name in ("pretrain", "decoder_finetune", "measure", "probe"):
        if (stage := getattr(cfg.stages, name)) is not None:
            stage.data = copy.deepcopy(data)
    return cfg


def damage(folder: Path, every: int) -> None:
    for sample in index_shards(folder).samples[::every]:
        with sample.tar.open("rb+") as file:
            file.seek(sample.media.offset)
            file.write(b"x" * sample.media.size)


def test_good_data(tmp_path: Path, clips: Path) -> None:
    facts = measure_data(job(tmp_path, reading(clips, clips / "images")), 0)
    assert facts["problems"] == [] and facts["warnings"] == []
    assert list(facts["sets"]) == [str(clips)] and len(facts["seconds"]) == 2, "a clip and an image"
    verdict = judge_data({0: facts}, crew("n1"))
    assert verdict.problems == [] and verdict.note.startswith(f"1 data set ({clips}), up to")


def test_each_set_and_shape_of_the_stages_to_come_is_tried_once(tmp_path: Path) -> None:
    cfg = config()
    assert len(data_sets(job(tmp_path, cfg))) == 1
    cfg.stages.probe.resolution = replace(cfg.stages.probe.resolution, frames=5)
    assert len(data_sets(job(tmp_path, cfg))) == 2
    assert len(data_sets(job(tmp_path, cfg, stages=("dit",)))) == 1


def test_data_that_are_not_there(tmp_path: Path) -> None:
    ((what, remedy),) = measure_data(job(tmp_path, reading(tmp_path / "nowhere")), 0)["problems"]
    assert str(tmp_path / "nowhere") in what and remedy


def test_clips_that_cannot_be_decoded(tmp_path: Path, clips: Path) -> None:
    damage(clips, 1)
    ((what, remedy),) = measure_data(job(tmp_path, reading(clips)), 0)["problems"]
    assert what.startswith(f"data {clips}: 4 of 4 video samples cannot be used (") and "not_video" in what
    assert "whole" in remedy


def test_clips_that_are_too_short(tmp_path: Path, clips: Path) -> None:
    cfg = reading(clips)
    cfg.stages.pretrain.resolution = replace(cfg.stages.pretrain.resolution, frames=401)
    ((what, remedy),) = measure_data(job(tmp_path, cfg, stages=("pretrain",)), 0)["problems"]
    assert "too_short" in what and "resolution.frames" in remedy


def test_one_damaged_clip_is_a_warning(tmp_path: Path, clips: Path) -> None:
    needs = job(tmp_path, reading(clips), stages=("pretrain",))
    first = needs.sources(needs.cells[0].stages.pretrain.data).train[0]
    sample = index_shards(clips).by_key()[first]
    with sample.tar.open("rb+") as file:
        file.seek(sample.media.offset)
        file.write(b"x" * sample.media.size)
    facts = measure_data(job(tmp_path, reading(clips), stages=("pretrain",)), 0)
    assert facts["problems"] == []
    ((what, remedy),) = facts["warnings"]
    assert first in what and "data.reject_share" in remedy
    assert measure_data(job(tmp_path, reading(clips), stages=("pretrain",)), 1)["warnings"] == [], "another clip"


def test_images_that_cannot_be_decoded(tmp_path: Path, clips: Path) -> None:
    damage(clips / "images", 1)
    ((what, _),) = measure_data(job(tmp_path, reading(clips, clips / "images"), stages=("pretrain",)), 0)["problems"]
    assert "image samples cannot be used" in what


def test_content_that_differs_on_one_rank_is_named(tmp_path: Path, clips: Path) -> None:
    good = measure_data(job(tmp_path, reading(clips)), 0)
    bad = copy.deepcopy(good)
    bad["sets"][str(clips)]["content"] = "0" * 32
    (problem,) = judge_data({0: good, 1: good, 2: bad}, crew("n1", "n1", "n2")).problems
    told = good["sets"][str(clips)]["content"][:12]
    assert problem.what == (
        f"data {clips}: the content differs between ranks: {told} on ranks 0-1 (n1), 000000000000 on rank 2 (n2)"
    )
    assert "same files" in problem.remedy


def test_two_sets_of_one_kind_are_kept_apart(tmp_path: Path) -> None:
    cfg = config("stages.base=null")
    cfg.stages.probe.data = copy.deepcopy(cfg.stages.probe.data)
    assert cfg.stages.probe.data.synthetic is not None
    cfg.stages.probe.data.synthetic.seed += 1
    facts = measure_data(job(tmp_path, cfg, stages=("pretrain", "dit")), 0)
    assert list(facts["sets"]) == ["synthetic", "synthetic (2)"]
    assert facts["sets"]["synthetic"]["content"] != facts["sets"]["synthetic (2)"]["content"]
