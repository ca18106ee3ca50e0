"""The networks of one training stage on the device ``meta``, and what one of its updates costs.

An update is the training loop's own: ``vae_step`` with everything that acts on it, and the critic's share. Where it
trains in bfloat16, everything it computes on is bfloat16.

Dimension legend
    B batch of one device, 3 colours, T frames, H W pixels       video (B,3,T,H,W); an image has T = 1
    C latent channels, F latent frames, h w latent pixels         latent (B,C,F,h,w)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ssvae.bench.cost_dinov2 import unloaded_dinov2
from ssvae.bench.cost_meter import Count, count, drop_gradients
from ssvae.build import build_adversary, build_dit, build_flow, build_regularizers, build_vae
from ssvae.config.objective import ObjectiveConfig
from ssvae.config.probe import Condition, ProbeConfig
from ssvae.config.reg import TermsConfig, TrainedStage, terms_in
from ssvae.config.train import Precision, TrainConfig
from ssvae.config.tree import VaeStageConfig
from ssvae.config.vae import VaeConfig
from ssvae.models.condition import BlankTexts
from ssvae.models.dinov2 import DinoV2Features
from ssvae.models.lpips import LPIPS
from ssvae.models.vae import VideoVAE
from ssvae.objective.nll import NegativeLogLikelihood
from ssvae.objective.vae_step import StepInputs, reconstruct, vae_step
from ssvae.objective.weighting import Weight
from ssvae.regularizers.base import Regularizer
from ssvae.regularizers.vf import VisionFoundation

META = torch.device("meta")
TEXT_WIDTH = 4096
"""Of a text encoder that is not here: UMT5-XXL's."""


class VaeUpdate:
    """One update of a stage that trains a VAE.

    Everything is built as for training, without memory behind it; frozen networks are built, not loaded. parameters:
    of each network, by name; trained: how many of them all. Raises ValueError where ``vf`` needs a package that is not
    installed.
    """

    def __init__(self, vae: VaeConfig, stage: VaeStageConfig, kind: TrainedStage) -> None:
        self._dtype = _dtype(stage.train)
        self._train_encoder = kind is not TrainedStage.decoder_finetune
        with META:
            self._vae = build_vae(vae)
            terms = terms_in(stage.reg.terms, kind)
            features = None if terms.vf is None else unloaded_dinov2(str(terms.vf.model), terms.vf.size)
            self._regularizers, self._weights = _regularizers(terms, self._vae, stage, features)
            lpips = LPIPS() if has_lpips(stage.objective) else None
            self._nll = NegativeLogLikelihood(
                initial_logscale=stage.objective.initial_logscale,
                perceptual=lpips,
                perceptual_weight=stage.objective.lpips.weight,
            )
            self._adversary = build_adversary(stage.objective)
        if not self._train_encoder:
            self._vae.encoder.requires_grad_(False).eval()
        networks: dict[str, nn.Module | None] = {
            "encoder": self._vae.encoder,
            "decoder": self._vae.decoder,
            "regularizers": nn.ModuleList(self._regularizers.values()),
            "likelihood": self._nll,
            "critic": None if self._adversary is None else self._adversary.critic,
            "LPIPS": lpips,
            "DINOv2": features,
        }
        self._networks = {name: network for name, network in networks.items() if network is not None}
        self.parameters = {name: _size(network.parameters()) for name, network in self._networks.items()}
        every = [parameter for network in self._networks.values() for parameter in network.parameters()]
        self.trained = _size(parameter for parameter in every if parameter.requires_grad)
        drop_gradients(every)
        for name, network in self._networks.items():
            if name != "DINOv2":  # frozen and without gradient: it leaves nothing behind
                network.to(self._dtype)

    def count(self, shape: tuple[int, int, int, int], *, critic: bool, checkpointing: bool, draw: int = 1) -> Count:
        """An update on clips of ``shape`` (B,T,H,W). draw: number of the random choices, see bench/cost_meter.py."""
        batch, frames, height, width = shape
        self._vae.set_gradient_checkpointing(checkpointing)
        existing = [tensor for network in self._networks.values() for tensor in _tensors(network)]
        work = partial(self._update, (batch, 3, frames, height, width), critic)
        return count(work, existing=[*existing, *_tensors(self._vae)], draw=draw)

    def _update(self, size: tuple[int, ...], critic: bool) -> None:
        adversary = self._adversary if critic else None
        vae = Cast(self._vae, self._dtype)
        out = vae_step(
            self._inputs(size),
            vae=vae,
            regularizers=self._regularizers,
            weights=self._weights,
            nll=self._nll,
            adversary=adversary,
            train_encoder=self._train_encoder,
        )
        if adversary is not None:
            real, fake = out.context.target, out.context.reconstruction
            if adversary.alternate:
                real, fake = reconstruct(self._inputs(size), vae=vae, regularizers=self._regularizers)
            adversary.backward(real, fake)

    def _inputs(self, size: tuple[int, ...]) -> StepInputs:
        generator = torch.Generator()
        video = torch.empty(size, dtype=self._dtype, device=META)
        return StepInputs(video, generator, dict.fromkeys(self._regularizers, generator))


class Cast:
    """A VAE whose decoder takes latents of any dtype, as under autocast: a step keeps latents in float32."""

    def __init__(self, vae: VideoVAE, dtype: torch.dtype) -> None:
        self._vae = vae
        self._dtype = dtype
        self.encoder_theta, self.decoder_theta = vae.encoder_theta, vae.decoder_theta

    def encode_moments(self, video: Tensor) -> Tensor:
        return self._vae.encode_moments(video)

    def decode(self, latent: Tensor) -> Tensor:
        return self._vae.decode(latent.to(self._dtype))


class ProbeUpdate:
    """One update of the diffusion transformer, as :class:`VaeUpdate`. grid: (F,h,w); ``auto`` counts as captions, or
    as texts where there is a text encoder, which is not run itself: its embeddings are made once and kept."""

    def __init__(self, probe: ProbeConfig, *, channels: int, grid: tuple[int, int, int]) -> None:
        self._probe = probe
        self._size = (channels, *grid)
        condition = probe.condition
        if condition is Condition.auto:
            condition = Condition.caption if probe.text.model is None else Condition.text
        texts = None
        if condition is Condition.text:
            assert probe.text.model is not None, "config/probe_checks.py refuses it"
            width = known_text_width(probe.text.model)
            texts = BlankTexts(TEXT_WIDTH if width is None else width, probe.text.max_length)
        with META:
            self._dit = build_dit(probe, channels=channels, grid=grid, condition=condition, classes=1, texts=texts)
        self.parameters = {"DiT": _size(self._dit.parameters())}
        self.trained = self.parameters["DiT"]
        drop_gradients(self._dit.parameters())
        self._dit.to(_dtype(probe.train))

    def count(self, batch: int, *, checkpointing: bool) -> Count:
        """An update on ``batch`` latents."""
        self._dit.gradient_checkpointing = checkpointing
        return count(partial(self._update, batch), existing=_tensors(self._dit))

    def _update(self, batch: int) -> None:
        latent = torch.empty((batch, *self._size), dtype=_dtype(self._probe.train), device=META)
        velocity = partial(self._dit, condition=self._dit.null_conditions(batch))
        loss = build_flow(self._probe).loss(velocity, latent, torch.Generator())
        loss.mean().backward()


def known_text_width(model: str) -> int | None:
    """Width of a text encoder's embeddings, from the config in its folder; None where there is no such folder.

    Raises ValueError for a folder without a config that can be read, and when the package transformers is missing.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return None
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise ValueError("probe.text.model: its config is that of transformers: pip install -e '.[dino]'") from error
    inner = folder / "text_encoder"
    folder = inner if inner.is_dir() else folder
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"probe.text.model: {folder} holds no config.json of transformers: {first}") from error
    return int(getattr(config, "text_config", config).hidden_size)


def has_lpips(objective: ObjectiveConfig) -> bool:
    """Is LPIPS part of the likelihood?"""
    return objective.lpips.vgg is not None and objective.lpips.weight > 0


def _regularizers(
    terms: TermsConfig, vae: VideoVAE, stage: VaeStageConfig, features: DinoV2Features | None
) -> tuple[dict[str, Regularizer], dict[str, Weight]]:
    """As build.py makes them, but ``vf`` without reading its network's weights."""
    found, weights = build_regularizers(replace(terms, vf=None), vae, stage.resolution)
    if (vf := terms.vf) is not None:
        assert features is not None
        found["vf"] = VisionFoundation(vae.channels, features, vae.temporal_ratio, vf.cos_margin, vf.distance_margin)
        weights["vf"] = Weight(vf.weight.policy.value, vf.weight.value)
    return found, weights


def _dtype(train: TrainConfig) -> torch.dtype:
    """Of all tensors of an update. Under autocast nearly all are bfloat16, and a device without it needs one dtype."""
    return torch.bfloat16 if train.precision is Precision.bf16 else torch.float32


def _tensors(network: nn.Module) -> Iterable[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _size(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)
