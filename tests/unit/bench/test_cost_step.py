"""What an update costs, part by part: at full width against the published numbers, small against hand formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ssvae.bench.cost_dinov2 import SIZES, published_size, unloaded_dinov2
from ssvae.bench.cost_meter import count
from ssvae.bench.cost_step import META, ProbeUpdate, VaeUpdate, known_text_width
from ssvae.bench.naive_vae import naive_decode, naive_encode_moments
from ssvae.bench.vae_step import build_case, chained
from ssvae.build import build_dit, build_vae
from ssvae.config.compose import resolve
from ssvae.config.probe import Condition
from ssvae.config.reg import TrainedStage
from ssvae.config.tree import Config
from ssvae.models.condition import BlankTexts
from ssvae.models.lpips import VGG16Features
from ssvae.models.resample import Upsample
from ssvae.models.vae import VideoVAE

CLIP = (2, 9, 32, 32)
SOME_FILE = f"objective.lpips.vgg='{Path(__file__).resolve()}'"


def config(*overrides: str) -> Config:
    (cell,) = resolve(overrides)
    return cell.cfg


def update(*overrides: str, kind: TrainedStage = TrainedStage.pretrain) -> VaeUpdate:
    cfg = config(*overrides)
    return VaeUpdate(cfg.vae, cfg.stages.pretrain, kind)


def flops(*overrides: str, kind: TrainedStage = TrainedStage.pretrain, critic: bool = False, draw: int = 1) -> float:
    return update(*overrides, kind=kind).count(CLIP, critic=critic, checkpointing=False, draw=draw).flops


def passes(model: VideoVAE, video: tuple[int, ...]) -> tuple[float, float]:
    """Products of one encoding and one decoding of ``video`` (B,3,T,H,W)."""
    grid = model.latent_grid(*video[2:])
    with torch.no_grad():
        encode = count(lambda: model.encode_moments(torch.empty(video, device=META)))
        decode = count(lambda: model.decode(torch.empty(video[0], model.channels, *grid, device=META)))
    return encode.flops, decode.flops


def tiny() -> VideoVAE:
    with META:
        return build_vae(config().vae)


def test_published_size_and_cost_of_the_full_vae() -> None:
    critic = [f"objective.critic.{value}" for value in ("width=64", "levels=4", "temporal_levels=2")]
    cfg = config("vae=ssvae", "resolution=256", "probe.dit.patch=[1,2,2]", "objective=l1_gan", *critic)
    built = VaeUpdate(cfg.vae, cfg.stages.pretrain, TrainedStage.pretrain)
    assert built.parameters["encoder"] == 141_568_832 and built.parameters["decoder"] == 173_609_027
    assert built.parameters["critic"] == 15_750_850
    with META:
        vae = build_vae(cfg.vae)
    video = (1, 3, 17, 256, 256)
    encode, decode = passes(vae, video)
    with torch.no_grad():
        plainly = count(lambda: naive_encode_moments(vae, torch.empty(video, device=META))).flops
        repeated = count(lambda: naive_decode(vae, torch.empty(1, 48, 5, 16, 16, device=META))).flops
    assert encode == plainly and 5.4e12 < encode < 5.5e12  # published: 5.5
    assert 8.75e12 < repeated < 8.85e12  # published: 8.8
    assert 7.85e12 < decode < 7.95e12
    # Repeating first: 27 taps at every fine position. Merged: 4 x 4 taps a coarse one, over 3 frames or, where time
    # doubles too, 4 (and one repeat instead of two before the clip).
    saved, grid = 0, [5, 16, 16]
    for level in vae.decoder.levels:
        if not isinstance(layer := level.upsample, Upsample):
            continue
        channels = layer.conv.weight.shape[0] * layer.conv.weight.shape[1]
        fine = [1 + (grid[0] - 1) * layer.time, 2 * grid[1], 2 * grid[2]]
        taps, before = (3, 2) if layer.time == 1 else (4, 1)
        saved += 2 * channels * (27 * math.prod(fine) - 16 * taps * (grid[0] + before) * grid[1] * grid[2])
        grid = fine
    assert grid == [17, 256, 256] and repeated - decode == saved


def test_update_is_the_real_one() -> None:
    """LCR with its two gradients at the encoder's last layer, on real tensors under PyTorch's own counter."""
    case = build_case(("reg=lcr",), batch=2)
    case.weights["lcr"] = replace(case.weights["lcr"], policy="grad_ratio")
    case.regularizers["lcr"].threshold = 1.0  # the hinge pulls, as is assumed
    real = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), real:
        chained(case)
    assert flops("reg=lcr") == real.get_total_flops()


def test_parts_of_an_update_by_hand() -> None:
    model = tiny()
    encode, decode = passes(model, (2, 3, *CLIP[1:]))
    # Every product twice more in the backward pass, but for the gradient of the clip.
    first = 2 * 2 * 27 * 3 * model.config.base_channels * math.prod(CLIP[1:])
    plain = flops("reg=none")
    assert plain == 3 * (encode + decode) - first
    for free in ("kl_1e-3", "lmr"):
        assert flops(f"reg={free}") == plain
    # Balancing asks twice for the gradient of the last convolution's weight, and of nothing behind it.
    (channels, width), grid = model.encoder_theta.shape[:2], model.latent_grid(*CLIP[1:])
    assert flops("reg=lcr") == plain + 2 * (2 * 2 * 27 * channels * width * math.prod(grid))
    # Scale equivariance decodes once more, small, with gradients to weights and latent.
    with torch.no_grad():
        small = count(lambda: model.decode(torch.empty(2, 48, 3, 4, 4, device=META))).flops
        smaller = count(lambda: model.decode(torch.empty(2, 48, 3, 2, 2, device=META))).flops
    factors = "reg.terms.se.factors=[2,4]"
    assert flops("reg=se", factors, draw=2) == plain + 3 * small
    assert flops("reg=se", factors, draw=1) == plain + 3 * smaller


def test_frozen_encoder() -> None:
    """No backward pass through it, and none through the decoder's input."""
    model = tiny()
    encode, decode = passes(model, (2, 3, *CLIP[1:]))
    entry = 2 * 2 * 27 * 48 * model.decoder.conv_in.weight.shape[0] * math.prod(model.latent_grid(*CLIP[1:]))
    assert flops("reg=none", kind=TrainedStage.decoder_finetune) == encode + 3 * decode - entry
    tuned = update("reg=none", kind=TrainedStage.decoder_finetune)
    assert tuned.trained == tuned.parameters["decoder"] + tuned.parameters["likelihood"]


def test_critic_and_its_order() -> None:
    once = flops("objective=l1_gan", critic=True)
    alternating = flops("objective=l1_gan", "objective.critic.alternate=true", critic=True)
    assert alternating - once == sum(passes(tiny(), (2, 3, *CLIP[1:])))  # one more forward pass of the VAE
    assert flops("objective=l1_gan") == flops() < once
    # A term that is balanced needs the decoder's backward pass of the likelihood alone.
    assert flops("objective=l1_gan", "reg=lcr", critic=True) - flops("reg=lcr") > 1.2 * (once - flops())


def test_lpips() -> None:
    """Both clips pass through; the reconstruction's gradient passes back, weights are frozen."""
    with META:
        vgg = VGG16Features()
    with torch.no_grad():
        once = count(lambda: vgg(torch.empty(2 * 9, 3, 32, 32, device=META))).flops
    assert flops(SOME_FILE) - flops() == pytest.approx(3 * once, rel=1e-3)
    built = update(SOME_FILE)
    assert built.parameters["LPIPS"] == 14_714_688 + 64 + 128 + 256 + 512 + 512
    assert built.trained == built.parameters["encoder"] + built.parameters["decoder"] + 1
    assert "LPIPS" not in update(SOME_FILE, "objective.lpips.weight=0").parameters


def test_checkpointing_computes_again_what_it_does_not_keep() -> None:
    built = update("reg=none")
    kept, again = (built.count(CLIP, critic=False, checkpointing=on) for on in (False, True))
    encode, decode = passes(tiny(), (2, 3, *CLIP[1:]))
    assert 0 < again.flops - kept.flops < encode + decode
    assert again.peak < 0.9 * kept.peak


def test_bfloat16_halves_the_memory() -> None:
    single, half = update(), update("train.precision=bf16")
    whole, halved = (built.count(CLIP, critic=False, checkpointing=False) for built in (single, half))
    assert halved.flops == whole.flops and 0.45 < halved.peak / whole.peak < 0.65
    assert half.parameters == single.parameters


@pytest.mark.parametrize("reg", ["cov", "predictive", "lcr_lmr"])
def test_every_regularizer_can_be_counted(reg: str) -> None:
    assert flops(f"reg={reg}", "objective=l1_gan", critic=True) > 0


def test_vf_counts_its_frozen_network() -> None:
    vf = ("reg=vf", "reg.terms.vf.model=facebook/dinov2-small", "reg.terms.vf.size=28")
    built = update(*vf)
    assert built.parameters["DINOv2"] == 22_056_576 and built.parameters["regularizers"] == 384 * 48
    with torch.no_grad():
        seen = count(partial(unloaded_dinov2("facebook/dinov2-small", 28), torch.empty(18, 3, 32, 32, device=META)))
    more = flops(*vf) - flops("reg=none")
    assert seen.flops < more < 1.2 * seen.flops


def test_dinov2_by_name_and_by_folder(tmp_path: Path) -> None:
    from transformers import Dinov2Config

    assert [published_size(f"facebook/dinov2-{size}") for size in SIZES] == list(SIZES)
    assert published_size("dinov2-base") == "base"
    assert [published_size(name) for name in ("me/dinov2-base", "base", "facebook/dinov2-tiny")] == [None] * 3
    values = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    Dinov2Config(**values).save_pretrained(tmp_path)
    network = unloaded_dinov2(str(tmp_path), 14)
    assert network.dim == 12 and network.grid == 2 and all(p.is_meta for p in network.parameters())
    assert sum(p.numel() for p in unloaded_dinov2("elsewhere/unknown", 14).parameters()) == 304_368_640


@pytest.mark.parametrize("text", [False, True])
def test_probe_by_hand(text: bool) -> None:
    said = ("probe.condition=auto", "probe.text.model=google/umt5-xxl", "probe.text.max_length=32") if text else ()
    probe, grid = config(*said).stages.probe.probe, (3, 8, 8)
    built = ProbeUpdate(probe, channels=48, grid=grid)
    condition, texts = (Condition.text, BlankTexts(4096, 32)) if text else (Condition.caption, None)
    with META:
        dit = build_dit(probe, channels=48, grid=grid, condition=condition, classes=1, texts=texts)
    rows: dict[str, float] = {}

    def note(name: str, layer: nn.Linear, inputs: tuple[torch.Tensor, ...], out: object) -> None:
        rows[name] = 2 * inputs[0].numel() * layer.out_features

    for name, layer in dit.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(partial(note, name))
    batch, tokens = probe.train.batch, math.prod(grid) // math.prod(probe.dit.patch)
    with torch.no_grad():
        dit(torch.empty(batch, 48, *grid, device=META), torch.empty(batch, device=META), dit.null_conditions(batch))
    # Nobody needs the gradient of the latent or of the time; that of a text's embedding the norm before it learns from.
    unasked = rows["embed"] + rows["time_mlp.0"]
    attention = 2 * batch * tokens * (tokens + (32 if text else 0)) * probe.dit.width * probe.dit.depth
    kept, again = (built.count(batch, checkpointing=on) for on in (False, True))
    assert kept.flops == 3 * sum(rows.values()) - unasked + (2 + 5) * attention
    assert built.parameters["DiT"] == built.trained == sum(p.numel() for p in dit.parameters())
    # Every block once more.
    blocks = sum(value for name, value in rows.items() if name.startswith("blocks."))
    assert again.flops - kept.flops == blocks + 2 * attention and again.peak < (0.85 if text else 0.6) * kept.peak


def test_width_of_a_text_encoder(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPTextConfig, UMT5Config

    UMT5Config(d_model=24).save_pretrained(tmp_path / "umt5")
    UMT5Config(d_model=40).save_pretrained(tmp_path / "pipeline" / "text_encoder")
    CLIPConfig(text_config=CLIPTextConfig(hidden_size=56).to_dict()).save_pretrained(tmp_path / "clip")
    assert [known_text_width(str(tmp_path / name)) for name in ("umt5", "pipeline", "clip")] == [24, 40, 56]
    assert known_text_width("google/umt5-xxl") is None is known_text_width("{to be given}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"probe\.text\.model: .*empty holds no config\.json"):
        known_text_width(str(tmp_path / "empty"))
    said = ("probe.condition=text", f"probe.text.model={tmp_path / 'umt5'}")
    here, elsewhere = (ProbeUpdate(config(*said[:1], model).stages.probe.probe, channels=48, grid=(3, 8, 8))
                       for model in (said[1], "probe.text.model=google/umt5-xxl"))  # fmt: skip
    width = config().stages.probe.probe.dit.width
    assert elsewhere.trained - here.trained == (4096 - 24) * (2 * width + 1)
