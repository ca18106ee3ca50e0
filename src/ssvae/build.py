"""The one place where a config value becomes an object; what measures and scores is in build_metrics.py."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState

from ssvae.config.objective import ObjectiveConfig
from ssvae.config.probe import Condition, FlowKind, ProbeConfig
from ssvae.config.reg import TermsConfig, VFConfig, WeightConfig, lmr_shape
from ssvae.config.resolution import ResolutionConfig
from ssvae.config.run import RuntimeConfig
from ssvae.config.train import Precision, TrainConfig
from ssvae.config.vae import VaeConfig, architecture
from ssvae.flow.path import RectifiedFlow
from ssvae.flow.vp import VPrediction
from ssvae.models.condition import ConditionKind, TextSource
from ssvae.models.critic import PatchCritic
from ssvae.models.dinov2 import load_dinov2
from ssvae.models.dit import VideoDiT
from ssvae.models.lpips import load_lpips
from ssvae.models.vae import VideoVAE
from ssvae.objective.adversary import Adversary
from ssvae.objective.nll import NegativeLogLikelihood
from ssvae.objective.weighting import Weight
from ssvae.regularizers.base import Regularizer
from ssvae.regularizers.cov import Covariance
from ssvae.regularizers.eq import EQ
from ssvae.regularizers.kl import KL
from ssvae.regularizers.lcr import LCR
from ssvae.regularizers.lmr import LMR
from ssvae.regularizers.noise import Noise
from ssvae.regularizers.predictive import Predictive
from ssvae.regularizers.se import SE
from ssvae.regularizers.vf import VisionFoundation
from ssvae.train.settings import Cadence, TrainSettings

T = TypeVar("T")


def build_vae(cfg: VaeConfig) -> VideoVAE:
    """A VAE with fresh weights from torch's global generator."""
    parts = architecture(cfg)
    return VideoVAE(
        channels=cfg.channels,
        base_channels=parts.base_channels,
        multipliers=parts.multipliers,
        encoder_blocks=parts.encoder_blocks,
        decoder_blocks=parts.decoder_blocks,
        temporal_levels=parts.temporal_levels,
        encoder_mid_attention=_attention(parts.encoder_attention, parts.decoder_attention),
        decoder_mid_attention=_attention(parts.decoder_attention, parts.encoder_attention),
        initial_logvar=cfg.initial_logvar,
    )


def _attention(count: int, other: int) -> list[bool]:
    """Both bottlenecks have as many residual blocks as the larger attention count; attention follows the first ones."""
    return [index < count for index in range(max(count, other, 1))]


def build_regularizers(
    terms: TermsConfig, vae: VideoVAE, resolution: ResolutionConfig
) -> tuple[dict[str, Regularizer], dict[str, Weight]]:
    """The regularisers of ``terms`` in their declared order (terms on the posterior, then transforms), and the weight
    of every term that they yield. vae: whose latents they work on; resolution: of the stage.

    Raises ValueError when a frozen network cannot be had.
    """
    found: dict[str, Regularizer] = {}
    weights: dict[str, Weight] = {}
    if (kl := terms.kl) is not None:
        found["kl"], weights["kl"] = KL(reduction=kl.reduction.value), _weight(kl.weight)
    if (lcr := terms.lcr) is not None:
        found["lcr"] = LCR(lcr.threshold, _triple(lcr.window), lcr.average.value)
        weights["lcr"] = _weight(lcr.weight)
    if (cov := terms.cov) is not None:
        found["cov"], weights["cov"] = Covariance(vae.channels, cov.form.value, cov.modes), _weight(cov.weight)
    if (vf := terms.vf) is not None:
        found["vf"], weights["vf"] = _vision_foundation(vf, vae), _weight(vf.weight)
    if (predictive := terms.predictive) is not None:
        found["predictive"] = Predictive(
            channels=vae.channels,
            temporal_ratio=vae.temporal_ratio,
            max_drop=predictive.max_drop,
            padding=predictive.padding.value,
        )
        weights["motion"] = _weight(predictive.motion)
    if (noise := terms.noise) is not None:
        found["noise"] = Noise(variance=noise.variance)
    if (eq := terms.eq) is not None:
        found["eq"] = EQ(
            probability=eq.probability,
            scales=_pair(eq.scales),
            rotations=tuple(eq.rotations),
            downscaled=eq.downscaled,
            spatial_ratio=vae.spatial_ratio,
        )
    if (lmr := terms.lmr) is not None:
        shape = lmr_shape(lmr, resolution)
        found["lmr"] = LMR(vae.channels, tuple(shape.ratios), tuple(shape.probabilities), _triple(shape.block))
    if (se := terms.se) is not None:
        found["se"], weights["se"] = SE(factors=tuple(se.factors), axes=se.axes.value), _weight(se.weight)
    return found, weights


def _vision_foundation(cfg: VFConfig, vae: VideoVAE) -> VisionFoundation:
    assert cfg.model is not None, "config/checks.py refuses it"
    return VisionFoundation(
        features=load_dinov2(cfg.model, size=cfg.size, resize="bilinear"),
        channels=vae.channels,
        temporal_ratio=vae.temporal_ratio,
        cos_margin=cfg.cos_margin,
        distance_margin=cfg.distance_margin,
    )


def build_adversary(cfg: ObjectiveConfig) -> Adversary | None:
    """The critic with its optimiser, with fresh weights from torch's global generator; None without one."""
    critic = cfg.critic
    if critic is None:
        return None
    return Adversary(
        PatchCritic(width=critic.width, levels=critic.levels, temporal_levels=critic.temporal_levels),
        start_step=critic.start_step,
        lr=critic.lr,
        betas=_pair(critic.betas),
        weight=_weight(critic.weight),
        largest=critic.largest_weight,
        alternate=critic.alternate,
    )


def _weight(cfg: WeightConfig) -> Weight:
    return Weight(cfg.policy.value, cfg.value)


def _triple(values: Sequence[int]) -> tuple[int, int, int]:
    first, second, third = values
    return first, second, third


def _pair(values: Sequence[T]) -> tuple[T, T]:
    first, second = values
    return first, second


def build_nll(cfg: ObjectiveConfig) -> NegativeLogLikelihood:
    """The likelihood; LPIPS joins where its VGG weights are given, and is only measured at weight 0."""
    lpips = None
    if cfg.lpips.vgg is not None:
        lpips = load_lpips(cfg.lpips.vgg, cfg.lpips.heads)
    return NegativeLogLikelihood(
        initial_logscale=cfg.initial_logscale, perceptual=lpips, perceptual_weight=cfg.lpips.weight
    )


def build_settings(cfg: TrainConfig) -> TrainSettings:
    return TrainSettings(
        steps=cfg.steps,
        batch=cfg.batch,
        optimizer=cfg.optimizer.value,
        lr=cfg.lr,
        betas=_pair(cfg.betas),
        weight_decay=cfg.weight_decay,
        curve=cfg.curve.value,
        warmup=cfg.warmup,
        lr_start=cfg.lr_start,
        lr_end=cfg.lr_end,
        decay_steps=cfg.decay_steps,
        grad_clip=cfg.grad_clip,
        ema_decay=cfg.ema_decay,
        precision=cfg.precision.value,
        nonfinite_limit=cfg.nonfinite_limit,
    )


def build_cadence(cfg: RuntimeConfig) -> Cadence:
    return Cadence(checkpoint_every=cfg.checkpoint_every, log_every=cfg.log_every)


def build_accelerator(precision: Precision) -> Accelerator:
    """One process a rank. Without a GPU, ``cpu=True`` must be said: otherwise ranks silently stay alone."""
    # Accelerate keeps one state a process and refuses another precision; stages of one process may differ in it.
    AcceleratorState._reset_state(reset_partial_state=False)
    mixed = "bf16" if precision is Precision.bf16 else "no"
    # A rank may wait for long: for the first one to measure, or for another process that trains a shared stage.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=12))
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=mixed, kwargs_handlers=[patience])


def default_device() -> torch.device:
    """Where passes without training run: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_dit(
    cfg: ProbeConfig,
    *,
    channels: int,
    grid: tuple[int, int, int],
    condition: Condition,
    classes: int,
    texts: TextSource | None = None,
    base_grid: tuple[int, int, int] | None = None,
) -> VideoDiT:
    """A DiT with fresh weights from torch's global generator. condition: what ``auto`` was resolved to; texts: the
    embeddings of ``text``. base_grid: the grid whose positions the weights know that will be loaded, None: ``grid``."""
    kinds: dict[Condition, ConditionKind] = {
        Condition.caption: "caption",
        Condition.text: "text",
        Condition.label: "class",
        Condition.none: "none",
    }
    return VideoDiT(
        channels=channels,
        grid=grid,
        patch=cfg.dit.patch,
        width=cfg.dit.width,
        depth=cfg.dit.depth,
        heads=cfg.dit.heads,
        condition=kinds[condition],
        classes=classes,
        input_skip=cfg.dit.input_skip,
        texts=texts,
        base_grid=base_grid,
        gradient_checkpointing=cfg.dit.gradient_checkpointing,
    )


def build_flow(cfg: ProbeConfig) -> RectifiedFlow | VPrediction:
    """The path from data to noise, which training, validation and sampling share."""
    if cfg.flow.kind is FlowKind.v:
        return VPrediction(distribution=cfg.flow.times.value, shift=cfg.flow.shift)
    return RectifiedFlow(distribution=cfg.flow.times.value, shift=cfg.flow.shift)
