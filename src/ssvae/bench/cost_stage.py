"""What one stage costs: its updates counted as they come (clips or images, with and without the critic), summed.

Dimension legend
    B samples of one device, T frames, H W pixels; an image has T = 1
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ssvae.bench.cost_grid import PROBES, TO_BE_GIVEN, GridStage, finished_shape, node_of
from ssvae.bench.cost_meter import Count
from ssvae.bench.cost_step import ProbeUpdate, VaeUpdate
from ssvae.config.data import DataConfig
from ssvae.config.reg import TermsConfig, TrainedStage, terms_in
from ssvae.config.resolution import ResolutionConfig
from ssvae.config.train import Precision
from ssvae.config.tree import VaeStageConfig
from ssvae.config.vae import VaeConfig, architecture
from ssvae.core.shapes import latent_grid
from ssvae.stages.plan import plain

SHAPES_VARY = ("predictive", "eq", "se")
"""Regularisers that draw a size each step."""
DRAWS = 4
"""Updates that are averaged over where one of those is present."""
FLOAT, HALF = 4, 2
"""Bytes of a weight, of its gradient and of each of Adam's two averages, which stay float32; of autocast's copy."""


@dataclass(frozen=True)
class Load:
    """What one update works on, over all devices. images: of an update that draws images; share: how often one does.

    ranks: devices that share it.
    """

    ranks: int
    clips: int
    images: int
    share: float


@dataclass(frozen=True)
class StageCost:
    """The numbers of one stage.

    clip: (T,H,W). parameters: by network; trained: how many of them all are. flops: of all updates on all devices;
    flops_step: of the mean update; flops_clips: of the last update if it is one of clips. In bytes, of one device:
    kept, recomputed: peak of an update on clips, or on the probe's latents, without and with gradient checkpointing;
    activations: as configured, of clips or images, whichever takes more; state: weights, their copies in bfloat16,
    gradients, Adam's averages and the moving average of the weights.
    """

    clip: tuple[int, int, int]
    precision: str
    parameters: dict[str, int]
    trained: int
    load: Load
    steps: int
    flops: float
    flops_step: float
    flops_clips: float
    kept: int
    recomputed: int
    checkpointing: bool
    activations: int
    state: int

    @property
    def memory(self) -> int:
        """Bytes of one device: state and the peak of an update."""
        return self.state + self.activations


def load_of(stage: GridStage, ranks: int | None, *, one_clip: bool, fewer: bool = False) -> Load:
    """How a stage's batch is shared by ``ranks`` devices. None: one clip a device with ``one_clip``, or one device.

    The transformer's batch is shared likewise; None: one device. fewer: where ``ranks`` does not divide it, the most
    devices below that do. Raises ValueError for a number that does not divide the batch.
    """
    if stage.name in PROBES:
        batch = node_of(stage.cfg, stage.name).probe.train.batch
        ranks = 1 if ranks is None else ranks
        if batch % ranks and not fewer:
            raise ValueError(_not_shared(ranks, f"probe.train.batch = {batch} of {stage.name}", batch))
        return Load(max(number for number in _divisors(batch) if number <= ranks), batch, 0, 0.0)
    node = _node(stage)
    clips, data = node.train.batch, node.data
    images = data.image_batch if has_images(data) else 0
    most = math.gcd(clips, images)  # the largest number that a run would accept
    ranks = ranks if ranks is not None else most if one_clip else 1
    if most % ranks:
        of = f"train.batch = {clips}" + (f" and data.image_batch = {images}" if images else "")
        raise ValueError(_not_shared(ranks, f"{of} of {stage.name}", most))
    return Load(ranks, clips, images, data.image_weight / (data.image_weight + data.video_weight) if images else 0.0)


def _not_shared(ranks: int, of: str, most: int) -> str:
    fits = ", ".join(map(str, _divisors(most)))
    return f"--ranks {ranks}: does not divide the {of}; these do: {fits}"


def _divisors(number: int) -> list[int]:
    return [value for value in range(1, number + 1) if number % value == 0]


def has_images(data: DataConfig) -> bool:
    """Are images drawn? Where no data is named yet, as the weights say."""
    return data.image_weight > 0 and (data.image_path is not None or data.path == TO_BE_GIVEN)


def cost_key(stage: GridStage, load: Load) -> str:
    """Equal for stages that cost the same: it leaves out data, seeds, parents and names."""
    cfg = stage.cfg
    if stage.name in PROBES:
        node = node_of(cfg, stage.name)
        return repr([plain(cfg.vae), plain(node.resolution), plain(node.probe), load])
    node = _node(stage)
    parts = [cfg.vae, node.resolution, node.objective, _terms(stage), node.train]
    return repr([*map(plain, parts), _kind(stage), load])


def stage_cost(stage: GridStage, load: Load) -> StageCost:
    """Count ``stage`` under ``load``."""
    return _probe_cost(stage, load) if stage.name in PROBES else _vae_cost(stage, load)


def spread(stage: GridStage, alone: StageCost, room: float) -> StageCost:
    """A transformer's cost on the fewest devices of ``room`` bytes that it fits on; alone: its cost on one, which is
    returned where no number of devices will do."""
    if alone.memory <= room:
        return alone
    for ranks in _divisors(alone.load.clips)[1:]:
        # A device's part of the activations is no smaller than its share.
        if alone.state + alone.activations / ranks <= room:
            shared = stage_cost(stage, replace(alone.load, ranks=ranks))
            if shared.memory <= room:
                return shared
    return alone


def _vae_cost(stage: GridStage, load: Load) -> StageCost:
    node = _node(stage)
    train, clip, critic = node.train, node.resolution, node.objective.critic
    update = VaeUpdate(stage.cfg.vae, node, _kind(stage))
    varies = any(getattr(_terms(stage), name) is not None for name in SHAPES_VARY)
    draws = range(1, 1 + (DRAWS if varies else 1))
    own = train.gradient_checkpointing

    def mean(samples: int, frames: int, playing: bool, checkpointing: bool = own) -> Count:
        shape = (samples // load.ranks, frames, clip.height, clip.width)
        counts = [update.count(shape, critic=playing, checkpointing=checkpointing, draw=draw) for draw in draws]
        return Count(math.fsum(one.flops for one in counts) / len(counts), max(one.peak for one in counts))

    alone = train.steps if critic is None else min(train.steps, critic.start_step - 1)
    flops, peak, last = 0.0, 0, Count(0.0, 0)
    for playing, steps in ((False, alone), (True, train.steps - alone)):
        if steps == 0:
            continue
        last = mean(load.clips, clip.frames, playing)
        image = mean(load.images, 1, playing) if load.images else Count(0.0, 0)
        flops += steps * load.ranks * ((1 - load.share) * last.flops + load.share * image.flops)
        peak = max(peak, last.peak, image.peak)
    other = mean(load.clips, clip.frames, alone < train.steps, not own).peak
    kept, recomputed = (other, last.peak) if own else (last.peak, other)
    averaged = update.parameters["encoder"] + update.parameters["decoder"] if train.ema_decay is not None else 0
    return StageCost(
        clip=(clip.frames, clip.height, clip.width),
        precision=train.precision.value,
        parameters=update.parameters,
        trained=update.trained,
        load=load,
        steps=train.steps,
        flops=flops,
        flops_step=flops / train.steps,
        flops_clips=last.flops * load.ranks,
        kept=kept,
        recomputed=recomputed,
        checkpointing=own,
        activations=peak,
        state=_state(update, averaged, train.precision),
    )


def _latents(vae: VaeConfig, clip: ResolutionConfig) -> tuple[int, tuple[int, int, int]]:
    """(channels, grid) of a clip's latents. Raises ValueError where a finished VAE cannot be had."""
    if vae.weights is not None:
        channels, grid_of = finished_shape(vae.weights)
        return channels, grid_of(clip.frames, clip.height, clip.width)
    return vae.channels, latent_grid(clip.frames, clip.height, clip.width, *architecture(vae).ratios)


def _probe_cost(stage: GridStage, load: Load) -> StageCost:
    node = node_of(stage.cfg, stage.name)
    clip, train = node.resolution, node.probe.train
    channels, grid = _latents(stage.cfg.vae, clip)
    update = ProbeUpdate(node.probe, channels=channels, grid=grid)
    share, own = load.clips // load.ranks, node.probe.dit.gradient_checkpointing
    kept, recomputed = (update.count(share, checkpointing=on) for on in (False, True))
    counted = recomputed if own else kept
    flops = counted.flops * load.ranks
    averaged = update.trained if train.ema_decay is not None else 0
    return StageCost(
        clip=(clip.frames, clip.height, clip.width),
        precision=train.precision.value,
        parameters=update.parameters,
        trained=update.trained,
        load=load,
        steps=train.steps,
        flops=flops * train.steps,
        flops_step=flops,
        flops_clips=flops,
        kept=kept.peak,
        recomputed=recomputed.peak,
        checkpointing=own,
        activations=counted.peak,
        state=_state(update, averaged, train.precision),
    )


def _state(update: VaeUpdate | ProbeUpdate, averaged: int, precision: Precision) -> int:
    """averaged: weights with a moving average. Copies: of what gradients pass through, as autocast keeps them."""
    copied = update.trained + update.parameters.get("LPIPS", 0) if precision is Precision.bf16 else 0
    return FLOAT * (sum(update.parameters.values()) + 3 * update.trained + averaged) + HALF * copied


def _node(stage: GridStage) -> VaeStageConfig:
    node = getattr(stage.cfg.stages, stage.name)
    assert isinstance(node, VaeStageConfig)
    return node


def _kind(stage: GridStage) -> TrainedStage:
    return TrainedStage.decoder_finetune if stage.name == "decoder_finetune" else TrainedStage.pretrain


def _terms(stage: GridStage) -> TermsConfig:
    return terms_in(_node(stage).reg.terms, _kind(stage))
