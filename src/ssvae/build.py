"""The one place where a config value becomes an object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from ssvae.config.objective import ObjectiveConfig
from ssvae.config.probe import Condition, ProbeConfig
from ssvae.config.reg import RegConfig, WeightConfig
from ssvae.config.run import RuntimeConfig
from ssvae.config.train import Precision, TrainConfig
from ssvae.config.vae import VaeConfig
from ssvae.flow.path import RectifiedFlow
from ssvae.models.dit import ConditionKind, VideoDiT
from ssvae.models.lpips import load_lpips
from ssvae.models.vae import VideoVAE
from ssvae.objective.nll import NegativeLogLikelihood
from ssvae.objective.weighting import Weight
from ssvae.regularizers.base import Regularizer
from ssvae.regularizers.kl import KL
from ssvae.regularizers.lcr import LCR
from ssvae.regularizers.lmr import LMR
from ssvae.train.settings import Cadence, TrainSettings


def build_vae(cfg: VaeConfig) -> VideoVAE:
    """A VAE with fresh weights from torch's global generator."""
    return VideoVAE(
        channels=cfg.channels,
        base_channels=cfg.base_channels,
        multipliers=cfg.multipliers,
        encoder_blocks=cfg.encoder_blocks,
        decoder_blocks=cfg.decoder_blocks,
        temporal_levels=cfg.temporal_levels,
        encoder_mid_attention=_attention(cfg.encoder_attention, cfg.decoder_attention),
        decoder_mid_attention=_attention(cfg.decoder_attention, cfg.encoder_attention),
        initial_logvar=cfg.initial_logvar,
    )


def _attention(count: int, other: int) -> list[bool]:
    """Both bottlenecks have as many residual blocks as the larger attention count; attention follows the first ones."""
    return [index < count for index in range(max(count, other, 1))]


def build_regularizers(cfg: RegConfig, channels: int) -> tuple[dict[str, Regularizer], dict[str, Weight]]:
    """Regularisers in the declared order of composition (terms on the posterior, then transforms), and term weights."""
    terms = cfg.terms
    regularizers: dict[str, Regularizer] = {}
    weights: dict[str, Weight] = {}
    if terms.kl is not None:
        regularizers["kl"] = KL()
        weights["kl"] = _weight(terms.kl.weight)
    if terms.lcr is not None:
        regularizers["lcr"] = LCR(threshold=terms.lcr.threshold, window=_triple(terms.lcr.window))
        weights["lcr"] = _weight(terms.lcr.weight)
    if terms.lmr is not None:
        regularizers["lmr"] = LMR(
            channels=channels,
            ratios=tuple(terms.lmr.ratios),
            probabilities=tuple(terms.lmr.probabilities),
            block=_triple(terms.lmr.block),
        )
    return regularizers, weights


def _weight(cfg: WeightConfig) -> Weight:
    return Weight(cfg.policy.value, cfg.value)


def _triple(values: Sequence[int]) -> tuple[int, int, int]:
    first, second, third = values
    return first, second, third


def build_nll(cfg: ObjectiveConfig) -> NegativeLogLikelihood:
    """The likelihood; LPIPS joins where its VGG weights are given."""
    lpips = None
    if cfg.lpips.vgg is not None and cfg.lpips.weight > 0:
        lpips = load_lpips(cfg.lpips.vgg, cfg.lpips.heads)
    return NegativeLogLikelihood(
        initial_logscale=cfg.initial_logscale, perceptual=lpips, perceptual_weight=cfg.lpips.weight
    )


def build_settings(cfg: TrainConfig) -> TrainSettings:
    first, second = cfg.betas
    return TrainSettings(
        steps=cfg.steps,
        batch=cfg.batch,
        optimizer=cfg.optimizer.value,
        lr=cfg.lr,
        betas=(first, second),
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
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=precision.value)


def default_device() -> torch.device:
    """Where passes without training run: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_dit(
    cfg: ProbeConfig, *, channels: int, grid: tuple[int, int, int], condition: Condition, classes: int
) -> VideoDiT:
    """A DiT with fresh weights from torch's global generator. condition: what ``auto`` was resolved to."""
    kinds: dict[Condition, ConditionKind] = {
        Condition.caption: "caption",
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
    )


def build_flow(cfg: ProbeConfig) -> RectifiedFlow:
    return RectifiedFlow(distribution=cfg.flow.times.value, shift=cfg.flow.shift)
