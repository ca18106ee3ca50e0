"""Single stages of the smallest size, run on any config, and all that came out of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import Dinov2Config, Dinov2Model

from filled_config import Files, filled
from ssvae.build import build_accelerator
from ssvae.config.train import Precision
from ssvae.config.tree import Config
from ssvae.core.progress import Silent
from ssvae.data import mix
from ssvae.data.shards import index_shards
from ssvae.data.synthetic_shards import write_synthetic
from ssvae.models import blocks, dit
from ssvae.models.lpips import LPIPS
from ssvae.models.vae import VideoVAE
from ssvae.stages import execute, trained
from ssvae.stages.plan import StagePlan, plan_cell
from ssvae.sweep.main import Sources
from ssvae.train import dit_loop, vae_loop
from text_encoders import save_encoder
from tiny_i3d import write_tiny_i3d

Outcome = dict[str, Any]


def make_files(folder: Path) -> Files:
    """Clips, images and random networks for the optional parts."""
    clips = write_synthetic(folder / "clips", clips=12, images=6, frames=12, size=16, shard_size=6, seed=1)
    damaged = folder / "damaged"
    shutil.copytree(clips, damaged, ignore=shutil.ignore_patterns("images"))
    for sample in index_shards(damaged).samples[::3]:
        with sample.tar.open("rb+") as file:
            file.seek(sample.media.offset)
            file.write(b"x" * sample.media.size)
    torch.manual_seed(0)
    lpips = LPIPS()
    torch.save(dict(lpips.trunk.named_parameters()), folder / "vgg16.pth")
    heads = {f"lin{i}.model.1.weight": head.detach().view(1, -1, 1, 1).clone() for i, head in enumerate(lpips.heads)}
    save_file(heads, folder / "heads.safetensors")
    alex = folder / "alex.pth"
    torch.save(dict(LPIPS("alex").trunk.named_parameters()), alex)
    small: dict[str, Any] = {
        "hidden_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    for name in ("dinov2", "more_dinov2"):
        Dinov2Model(Dinov2Config(**small)).save_pretrained(folder / name)
    encoders = [save_encoder(folder / f"t5_{seed}", "t5", seed) for seed in (0, 1)]
    prompts = folder / "prompts.txt"
    prompts.write_text("a red circle moves right\n")
    more = write_synthetic(folder / "more_clips", clips=12, frames=12, size=16, shard_size=6, seed=2)
    return Files(
        clips, more, clips / "images", damaged, folder / "vgg16.pth", folder / "heads.safetensors",
        folder / "dinov2", alex, write_tiny_i3d(folder / "i3d.pt"), folder / "more_dinov2", *encoders, prompts,
    )  # fmt: skip


class Workshop:
    """Runs stages under ``root``. full: the filled config that all others are made from."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = make_files(root / "files")
        self.full = filled(self.files)
        self.sources = Sources(root, Silent())
        self.parents: dict[str, StagePlan] = {}
        self._runs = 0

    def plans(self, cfg: Config) -> dict[str, StagePlan]:
        return plan_cell(
            cfg, self.root, lambda data: self.sources(data).fingerprint, lambda data: self.sources(data).conditions
        )

    def make_parents(self, cfg: Config) -> None:
        """Run what measuring and probing need."""
        self.parents = self.plans(cfg)
        for name in ("pretrain", "decoder_finetune", "latents", "dit"):
            execute.execute(self.job(cfg, self.parents[name], self.parents), wait=False)

    def job(self, cfg: Config, plan: StagePlan, plans: dict[str, StagePlan]) -> execute.Job:
        return execute.Job(cfg, plan, plans, self.sources, self.root, Silent())

    def run(self, stage: str, cfg: Config, failing: tuple[type[Exception], ...] = ()) -> Outcome:
        """All that ``stage`` makes of ``cfg`` beside records of the config itself; its parents stay what they are.

        failing: errors that are an outcome, too.
        """
        self._runs += 1
        plan = replace(self.parents[stage], folder=self.root / "again" / str(self._runs))
        with witnesses() as seen:
            try:
                execute.execute(self.job(cfg, plan, {**self.parents, stage: plan}), wait=False)
            except failing as error:
                return {"error": type(error).__name__}
        found = {**outputs(plan.folder), **{WITNESS + name: values for name, values in seen.items()}}
        data = getattr(cfg.stages, "probe" if stage in ("latents", "dit") else stage).data
        found[f"{WITNESS}tars"] = sorted({sample.tar.name for sample in self.sources(data).index.samples})
        return found


def outputs(folder: Path) -> Outcome:
    """Numbers and files of a finished stage. Names, protocols, rates and labels would repeat the config: left out."""
    found: Outcome = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            found.update({f"{name}/{key}": digest(value) for key, value in load_file(path).items()})
        elif path.name == "steps.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in line.items() if key != "lr"} for line in lines]
        elif path.name == "metrics.json":
            found[name] = [metric["value"] for metric in json.loads(path.read_text())]
        elif path.name == "curves.json":
            found[name] = [curve["y"] for curve in json.loads(path.read_text()).values()]
        elif path.suffix in (".npy", ".mp4"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found, folder
    return found


def digest(value: torch.Tensor) -> str:
    return hashlib.sha256(f"{value.shape}".encode() + value.contiguous().numpy().tobytes()).hexdigest()


WITNESS = "witness/"
"""Begins the names of what a number cannot show: how the work was carried out."""


def numbers(outcome: Outcome) -> Outcome:
    return {name: value for name, value in outcome.items() if not name.startswith(WITNESS)}


@contextmanager
def witnesses() -> Iterator[dict[str, list[Any]]]:
    """Notes checkpoints, recomputed blocks, loader processes (none is started), batch sizes of encoder and decoder."""
    seen: dict[str, list[Any]] = {
        name: [] for name in ("saved", "recomputed", "workers", "encoded", "decoded", "precision")
    }

    def noted(owner: Any, name: str, what: str, of: Callable[..., Any]) -> None:
        real = getattr(owner, name)

        def call(*given: Any, **named: Any) -> Any:
            seen[what].append(of(*given))
            return real(*given, **named)

        patch.setattr(owner, name, call)

    def save(folder: Path, step: int, state: dict[str, Any]) -> None:
        seen["saved"].append(step)

    def loader(plan: Any, *, num_workers: int, **named: Any) -> DataLoader[Any]:
        seen["workers"].append(num_workers)
        return DataLoader(plan, num_workers=0, **named)

    def accelerator(precision: Precision) -> Accelerator:
        # bfloat16 convolutions are unsafe on a CPU: what was asked for is noted, and float32 is used.
        seen["precision"].append(build_accelerator(precision).mixed_precision)
        return build_accelerator(Precision.fp32)

    with pytest.MonkeyPatch.context() as patch:
        for module in (blocks, dit):
            noted(module, "checkpoint", "recomputed", lambda *given: True)
        noted(VideoVAE, "encode", "encoded", lambda vae, video: len(video))
        noted(VideoVAE, "decode", "decoded", lambda vae, latent: len(latent))
        patch.setattr(mix, "DataLoader", loader)
        patch.setattr(trained, "build_accelerator", accelerator)
        # What does not matter here and takes time: the checkpoints themselves, git, and most of the clips behind the
        # latent statistics.
        for loop in (vae_loop, dit_loop):
            patch.setattr(loop, "save_checkpoint", save)
        patch.setattr(execute, "provenance", lambda project: {})
        patch.setattr(trained, "STATISTICS_CLIPS", 2)
        patch.setattr(os, "fsync", lambda file: None)
        yield seen
