"""Is there room for what the job will write?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ssvae.bench.cost_grid import PROBES, finished_shape, grid_stages, node_of
from ssvae.bench.cost_step import ProbeUpdate, VaeUpdate
from ssvae.config.reg import TrainedStage
from ssvae.config.tree import Config
from ssvae.config.vae import architecture
from ssvae.core.shapes import latent_grid
from ssvae.preflight.base import GIB, Facts, Limits, Needs, Problem, Verdict
from ssvae.stages.plan import ENCODING

STATE = 16
"""Bytes of a trained weight in a checkpoint: float32 of itself, of its moving average, and of both of Adam's."""
KEPT = 8
"""Bytes of a weight that stay: as trained, and its moving average."""
SAMPLES = 16 * 2**20
"""Bytes of sample videos, figures and logs of a stage, generously."""
_PREFETCHED = 2
"""Batches that a loader process has ready (PyTorch's default)."""
SHARED_MEMORY = Path("/dev/shm")


def needed_bytes(needs: Needs) -> int:
    """What the job's stages may write: all finished weights, the largest checkpoint twice (a new one is whole before
    the old one goes), the latents, samples. Raises ValueError where a finished VAE cannot be had."""
    kept, largest = 0, 0
    for stage in grid_stages(needs.cells):
        if stage.name not in needs.stages:
            continue
        node = node_of(stage.cfg, stage.name)
        if stage.name in PROBES:
            channels, grid = _latent(stage.cfg, PROBES[stage.name])
            probe = ProbeUpdate(node.probe, channels=channels, grid=grid)
            weights, trained = sum(probe.parameters.values()), probe.trained
        else:
            kind = TrainedStage.decoder_finetune if stage.name == "decoder_finetune" else TrainedStage.pretrain
            vae = VaeUpdate(stage.cfg.vae, node, kind)
            weights, trained = sum(vae.parameters.values()), vae.trained
        kept += KEPT * weights
        largest = max(largest, STATE * trained)
    distinct = {repr(_latent_key(cfg, name)): (cfg, name) for cfg in needs.cells for name in needs.stages_of(cfg)}
    latents = sum(_latent_bytes(needs, cfg, name) for cfg, name in distinct.values() if name in ENCODING)
    return kept + 2 * largest + latents + SAMPLES * len(distinct)


def _latent_key(cfg: Config, name: str) -> tuple[object, ...]:
    return (name, cfg.vae, cfg.seed, cfg.stages)


def _latent(cfg: Config, stage: str) -> tuple[int, tuple[int, int, int]]:
    """(C, (F,h,w)) of the latents of a probe's clips."""
    clip = getattr(cfg.stages, stage).resolution
    if cfg.vae.weights is not None:
        channels, grid_of = finished_shape(cfg.vae.weights)
        return channels, grid_of(clip.frames, clip.height, clip.width)
    return cfg.vae.channels, latent_grid(clip.frames, clip.height, clip.width, *architecture(cfg.vae).ratios)


def _latent_bytes(needs: Needs, cfg: Config, name: str) -> int:
    """Of a cache in float32: some windows of each training clip, and those that samples are scored against."""
    where = "probe_base" if name.endswith("_base") else "probe"
    stage = getattr(cfg.stages, where)
    if stage is None:
        return 0
    try:
        found = len(needs.sources(stage.data).train)
    except ValueError:
        found = 0  # the check of the data names what is wrong
    channels, (frames, height, width) = _latent(cfg, where)
    clips = stage.latents.windows * found + stage.probe.sample.clips
    return 4 * clips * channels * frames * height * width


def measure_disk(needs: Needs, first_here: bool) -> Facts:
    """Of the file system of ``runs/``, and of this host's shared memory. first_here: one rank a host looks."""
    if not first_here:
        return {"skipped": "another rank of this host looked"}
    place = next(folder for folder in (needs.runs, *needs.runs.parents) if folder.exists())
    told = os.statvfs(place)
    facts: Facts = {"free": told.f_bavail * told.f_frsize, "inodes": told.f_favail if told.f_files else None}
    try:
        facts["needed"] = needs.disk_bytes if needs.disk_bytes is not None else needed_bytes(needs)
    except ValueError as error:
        facts["needed"] = 0
        facts["warnings"] = [[f"what the job will write is not known ({error})", "see the check of the networks"]]
    if SHARED_MEMORY.is_dir():
        memory = os.statvfs(SHARED_MEMORY)
        facts["shared"] = memory.f_bavail * memory.f_frsize
    return facts


def loader_bytes(needs: Needs, world: int, ranks_here: int) -> int:
    """Shared memory that the loader processes of one host hold at once: batches of float32 clips, read ahead."""
    most = 0
    for cfg in needs.cells:
        for name in needs.stages_of(cfg):
            stage = getattr(cfg.stages, name, None)
            if stage is None or not hasattr(stage, "train"):
                continue
            clip = stage.resolution
            batch = 4 * 3 * stage.train.batch * clip.frames * clip.height * clip.width // world
            most = max(most, batch * cfg.runtime.workers * (_PREFETCHED + 1) * ranks_here)
    return most


def judge_disk(answers: Mapping[int, Facts], runs: Path, limits: Limits, batches: int) -> Verdict:
    """Every host's view counts: the least room is what there is. batches: shared memory that loaders need there."""
    looked = [facts for facts in answers.values() if "free" in facts]
    if not looked:
        return Verdict("", [], [])
    free, needed = min(facts["free"] for facts in looked), max(facts["needed"] for facts in looked)
    problems, warnings = [], []
    if free < needed:
        text = f"{free / GIB:.2f} GiB are free under {runs}, and the job may write {needed / GIB:.2f} GiB"
        problems.append(Problem(text, "free some, or set SSVAE_ROOT to a larger file system"))
    left = [facts["inodes"] for facts in looked if facts["inodes"] is not None]
    if left and min(left) < limits.inodes:
        text = f"{min(left)} more files fit on the file system of {runs}, at least {limits.inodes} should"
        problems.append(Problem(text, "remove small files there: the quota of files (inodes) is nearly used up"))
    shared = min((facts["shared"] for facts in looked if "shared" in facts), default=None)
    if shared is not None and shared < batches:
        text = f"{SHARED_MEMORY} has {shared / GIB:.2f} GiB, and loaders hold up to {batches / GIB:.2f} GiB there"
        warnings.append(Problem(text, "give the container more (--shm-size, --ipc=host), or lower runtime.workers"))
    return Verdict(f"{free / GIB:.1f} GiB free under {runs}, at most {needed / GIB:.2g} GiB needed", problems, warnings)
