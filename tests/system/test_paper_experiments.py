"""The paper's two stages, every value of them but the widths, for one real step each, and what they were given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ssvae.cli.run import main
from ssvae.config.compose import resolve
from ssvae.core.files import read_json
from ssvae.data.synthetic_shards import write_synthetic
from tiny_runs import made_once

pytestmark = pytest.mark.system
NARROW = (
    "vae.base_channels=1",
    "vae.encoder_blocks=1",
    "vae.decoder_blocks=1",
    "channels=16",
    "objective.lpips.vgg=null",
    "objective.critic.width=2",
    "objective.critic.start_step=1",
    "data.heldout_share=0.5",
    "train.batch=1",
    "train.steps=1",
    "data.image_batch=2",
    "runtime.workers=0",
    "track=none",
)
"""Widths, lengths and what must be had from outside; resolutions, frames, terms and schedules stay the paper's."""
SECOND = (
    "stages.decoder_finetune.train.steps=1",
    "stages.decoder_finetune.train.batch=1",
    "stages.decoder_finetune.data.image_batch=1",
    "stages.decoder_finetune.objective.critic.width=2",
)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips long enough for 17 frames at 8 fps, and no images."""

    def make(folder: Path) -> None:
        write_synthetic(folder, clips=4, frames=18, size=64, fps=8, shard_size=4, seed=0)

    return made_once(tmp_path_factory, "paper_clips", make)


def lines(stage: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage / "steps.jsonl").read_text().splitlines()]


def test_both_stages_take_a_real_step(root: Path, clips: Path) -> None:
    """Stage 1 by its own experiment; then stage 2 alone, which finds it although resolution and terms differ."""
    more = (*NARROW, f"data.path={clips}", "reg=lcr_lmr", "resolution.lmr.probabilities=[0,1,0,0]")
    assert main(["exp=paper_256p", "stage=pretrain", *more]) == 0
    (first,) = (root / "runs" / "stages").glob("pretrain-*")
    second_stage = [text for text in more if "critic" not in text and "resolution" not in text]
    second_stage += ["objective.critic.width=2", "objective.critic.start_step=1"]
    own = "stages.pretrain.resolution.lmr.probabilities=[0,1,0,0]"
    other = "stages.decoder_finetune.resolution.lmr.probabilities=[0,1,0,0]"
    assert main(["exp=paper_512p", "stage=decoder_finetune", *second_stage, *SECOND, own, other]) == 0
    assert list((root / "runs" / "stages").glob("pretrain-*")) == [first], "found, not made again"
    (second,) = (root / "runs" / "stages").glob("decoder_finetune-*")
    assert read_json(second / "run.json")["parents"] == {"pretrain": first.name.removeprefix("pretrain-")}
    (one,), (two,) = lines(first), lines(second)
    assert {"nll", "l1", "kl", "lcr", "lcr/weight", "generator", "critic", "lmr/masked_fraction"} <= set(one)
    assert {"nll", "l1", "generator", "critic", "lmr/masked_fraction"} <= set(two)
    assert "lcr" not in two and "kl" not in two, "terms on the posterior have no encoder to act on"
    # 17 x 256²: 5 x 16 x 16 positions, a quarter of them; 17 x 512²: floor(5·32·32/4/8) blocks of 8.
    assert one["lmr/masked_fraction"] == pytest.approx(0.25)
    assert two["lmr/masked_fraction"] == pytest.approx(160 * 8 / (5 * 32 * 32))
    assert (second / "vae" / "latent_statistics.json").exists() and not (second / "vae_ema").exists()
    assert (one["lr"], two["lr"]) == (2e-6, 2e-6)


def values(exp: str, *overrides: str) -> Any:
    (cell,) = resolve((f"exp={exp}", "objective.lpips.vgg=null", *overrides))
    return cell.cfg.stages


@pytest.mark.parametrize("channels", [48, 128])
@pytest.mark.parametrize("reg", ["none", "lcr", "lmr", "lcr_lmr"])
def test_every_published_value(reg: str, channels: int, clips: Path, tmp_path: Path) -> None:
    """Stage 1 and 2 of the official code (README, main.py, loss_factory.py, both yamls at 0b141f7)."""
    pictures = images(tmp_path)
    own = (f"reg={reg}", f"channels={channels}", f"data.path={clips}", f"data.image_path={pictures}")
    first, both = values("paper_256p", *own), values("paper_512p", *own)
    assert first.base is None and first.decoder_finetune is None
    assert both.pretrain == first.pretrain
    one, two = first.pretrain, both.decoder_finetune
    for stage, size, steps, batch, pictures_a_step in ((one, 256, 150_000, 32, 192), (two, 512, 50_000, 8, 16)):
        clip, train, objective = stage.resolution, stage.train, stage.objective
        assert (clip.height, clip.width, clip.frames, clip.fps) == (size, size, 17, 8)
        assert (train.steps, train.batch, stage.data.image_batch) == (steps, batch, pictures_a_step)
        assert (train.optimizer.value, train.lr, list(train.betas)) == ("adam", 5e-5, [0.9, 0.999])
        assert (train.curve.value, train.warmup, train.lr_start, train.lr_end) == ("cosine", 1000, 2e-6, 2e-6)
        assert (train.precision.value, train.ema_decay, train.grad_clip) == ("fp32", None, None)
        assert (stage.data.image_weight, stage.data.video_weight) == (1, 7)
        assert (objective.initial_logscale, objective.lpips.weight) == (0, 1)
        critic = objective.critic
        assert (critic.width, critic.levels, critic.temporal_levels) == (64, 4, 2)
        assert (critic.weight.policy.value, critic.weight.value, critic.largest_weight) == ("grad_ratio", 1, 1e4)
        assert (critic.lr, list(critic.betas), critic.alternate) == (5e-6, [0.9, 0.999], False)
    assert (one.train.decay_steps, two.train.decay_steps) == (600_000, 400_000)
    assert (one.train.gradient_checkpointing, two.train.gradient_checkpointing) == (False, True)
    assert (one.objective.critic.start_step, two.objective.critic.start_step) == (25_001, 1)
    assert (list(one.resolution.lmr.probabilities), list(one.resolution.lmr.block)) == ([0.7, 0.1, 0.1, 0.1], [1, 1, 1])
    assert (list(two.resolution.lmr.probabilities), list(two.resolution.lmr.block)) == (
        [0.6, 0.1, 0.15, 0.15],
        [2, 2, 2],
    )
    kl, lcr, lmr = one.reg.terms.kl, one.reg.terms.lcr, one.reg.terms.lmr
    assert (kl.weight.policy.value, kl.weight.value, kl.reduction.value) == ("fixed", 5e-4, "sum")
    assert (lcr is not None, lmr is not None) == ("lcr" in reg, "lmr" in reg)
    if lcr is not None:
        assert (lcr.weight.policy.value, lcr.weight.value, lcr.threshold) == ("grad_ratio", 0.002, 0.75)
        assert (list(lcr.window), lcr.average.value) == ([2, 2, 2], "mean")
    assert both.measure.score.trained.value == "decoder_finetune"


def images(folder: Path) -> Path:
    """A folder that looks like shards of pictures; nothing here opens one."""
    Image.new("RGB", (8, 8)).save(folder / "picture.png")
    (folder / "000000.tar").touch()
    return folder


def test_bfloat16_training_is_refused_where_it_is_unsafe(
    root: Path, clips: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    half = ("train.precision=bf16", "stages.decoder_finetune.train.precision=bf16")
    assert main(["exp=paper_512p", f"data.path={clips}", "objective.lpips.vgg=null", *half]) == 2
    said = capsys.readouterr().err
    assert "train.precision = bf16" in said and "stages.decoder_finetune.train.precision=fp32" in said
    assert not (root / "runs" / "stages").exists()
