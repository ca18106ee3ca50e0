"""Room on the disk: what is needed, and what happens when there is less."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from preflight_jobs import QUICK, config, job

from ssvae.build import build_vae
from ssvae.preflight.base import GIB, Facts
from ssvae.preflight.disk import KEPT, SAMPLES, STATE, judge_disk, loader_bytes, measure_disk, needed_bytes

RUNS = Path("/somewhere/runs")


def disk(**changes: Any) -> Facts:
    return {"free": 100 * GIB, "inodes": 10**6, "needed": 10 * GIB, "shared": 8 * GIB, **changes}


def test_enough_of_everything() -> None:
    verdict = judge_disk({0: disk()}, RUNS, QUICK, GIB)
    assert verdict.problems == [] and verdict.warnings == []
    assert verdict.note == "100.0 GiB free under /somewhere/runs, at most 10 GiB needed"


def test_too_little_room_on_any_host_stops_the_job() -> None:
    (problem,) = judge_disk({0: disk(), 4: disk(free=9 * GIB)}, RUNS, QUICK, 0).problems
    assert problem.what == "9.00 GiB are free under /somewhere/runs, and the job may write 10.00 GiB"
    assert "SSVAE_ROOT" in problem.remedy


def test_too_few_files() -> None:
    (problem,) = judge_disk({0: disk(inodes=12)}, RUNS, QUICK, 0).problems
    assert problem.what.startswith("12 more files fit") and "inodes" in problem.remedy
    assert judge_disk({0: disk(inodes=None)}, RUNS, QUICK, 0).problems == [], "some file systems do not count"


def test_little_shared_memory_is_a_warning() -> None:
    verdict = judge_disk({0: disk(shared=64 * 2**20)}, RUNS, QUICK, GIB)
    (warning,) = verdict.warnings
    assert verdict.problems == [] and "/dev/shm has 0.06 GiB" in warning.what and "--shm-size" in warning.remedy


def test_what_is_free_is_what_the_file_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = SimpleNamespace(f_bavail=3, f_frsize=4096, f_favail=7, f_files=9)
    monkeypatch.setattr(os, "statvfs", lambda place: told)
    facts = measure_disk(job(tmp_path / "not" / "made", disk_bytes=5), True)
    assert facts == {"free": 12288, "inodes": 7, "needed": 5, "shared": 12288}
    assert measure_disk(job(tmp_path), False) == {"skipped": "another rank of this host looked"}


def test_the_need_of_a_training_stage(tmp_path: Path) -> None:
    """Its weights stay; its checkpoint is there twice while a new one replaces it."""
    cfg = config("stages.base=null", "objective=l1", "reg=none")
    with torch.device("meta"):
        weights = sum(value.numel() for value in build_vae(cfg.vae).parameters())
    needed = needed_bytes(job(tmp_path, cfg, stages=("pretrain",)))
    more = needed - SAMPLES - (KEPT + 2 * STATE) * weights
    assert 0 <= more <= 64 * (KEPT + 2 * STATE), "beside the VAE there is only the likelihood's scale"


def test_the_need_of_the_probe_has_the_latents(tmp_path: Path) -> None:
    cfg = config("stages.base=null", "stages.probe_base=null")
    alone, with_latents = (needed_bytes(job(tmp_path, cfg, stages=names)) for names in (("dit",), ("dit", "latents")))
    stage = cfg.stages.probe
    clips = stage.latents.windows * len(job(tmp_path).sources(stage.data).train) + stage.probe.sample.clips
    grid = cfg.vae.channels * (1 + (stage.resolution.frames - 1) // 4) * 4 * 4
    assert with_latents - alone - SAMPLES == 4 * clips * grid


def test_data_and_vaes_that_are_missing_are_left_to_their_own_checks(tmp_path: Path) -> None:
    cfg = config("stages.base=null", "stages.probe_base=null")

    def absent(data: object) -> Any:
        raise ValueError("data.path = /x: is not there")

    assert needed_bytes(job(tmp_path, cfg, sources=absent)) > 0
    cfg.vae.weights = str(tmp_path / "vae")
    facts = measure_disk(job(tmp_path, cfg, disk_bytes=None, stages=("dit",)), True)
    assert facts["needed"] == 0 and "what the job will write is not known" in facts["warnings"][0][0]


def test_what_loaders_hold(tmp_path: Path) -> None:
    cfg = config("runtime.workers=2", "stages.base=null")
    clip = cfg.stages.pretrain.resolution
    batch = 4 * 3 * 2 * clip.frames * 16 * 16
    assert loader_bytes(job(tmp_path, cfg, stages=("pretrain",)), 1, 1) == batch * 2 * 3
    assert loader_bytes(job(tmp_path, cfg, stages=("pretrain",)), 2, 2) == batch * 2 * 3
    cfg.runtime.workers = 0
    assert loader_bytes(job(tmp_path, cfg), 1, 1) == 0
