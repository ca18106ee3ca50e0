"""The root of the typed tree and the sub-tree of each stage."""

from __future__ import annotations

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from ssvae.config.data import DataConfig
from ssvae.config.launch import LaunchConfig
from ssvae.config.objective import ObjectiveConfig
from ssvae.config.probe import ProbeConfig
from ssvae.config.reg import RegConfig, StrengthConfig
from ssvae.config.resolution import ResolutionConfig
from ssvae.config.reward import RewardConfig
from ssvae.config.run import RuntimeConfig, StageName, SweepConfig, TrackConfig
from ssvae.config.score import LatentsConfig, MeasureConfig, NetworksConfig
from ssvae.config.search import SearchConfig
from ssvae.config.train import VaeTrainConfig
from ssvae.config.vae import VaeConfig


@dataclass
class VaeStageConfig:
    """One training stage of a VAE, complete in itself.

    init: weights to go on from, a folder or file that ``load_vae`` reads, or a published name; null: fresh weights
    (``pretrain`` then continues ``base``, where there is one; ``decoder_finetune`` always continues ``pretrain``).
    """

    init: str | None = MISSING
    resolution: ResolutionConfig = MISSING
    data: DataConfig = MISSING
    objective: ObjectiveConfig = MISSING
    reg: RegConfig = MISSING
    train: VaeTrainConfig = MISSING


@dataclass
class MeasureStageConfig:
    resolution: ResolutionConfig = MISSING
    data: DataConfig = MISSING
    score: MeasureConfig = MISSING
    networks: NetworksConfig = MISSING


@dataclass
class ProbeStageConfig:
    """A diffusion transformer on cached latents. networks, reward: what scores its samples; null reward: no server."""

    resolution: ResolutionConfig = MISSING
    data: DataConfig = MISSING
    latents: LatentsConfig = MISSING
    probe: ProbeConfig = MISSING
    networks: NetworksConfig = MISSING
    reward: RewardConfig | None = MISSING


@dataclass
class StagesConfig:
    """``base``: an optional common start of all cells with the same VAE and seed, trained once without regulariser
    (the protocol of "Improving the Diffusability of Autoencoders", which fine-tunes a published autoencoder).
    ``decoder_finetune``: optional second stage on the frozen encoder of ``pretrain`` (stage 2 of the paper).
    ``probe_base``: optional start of the probe at another clip size, which ``probe`` goes on from (the paper trains its
    diffusion models at 256 pixels before 512); only its training counts, nothing is sampled from it."""

    base: VaeStageConfig | None = MISSING
    pretrain: VaeStageConfig = MISSING
    decoder_finetune: VaeStageConfig | None = MISSING
    measure: MeasureStageConfig = MISSING
    probe_base: ProbeStageConfig | None = MISSING
    probe: ProbeStageConfig = MISSING


@dataclass
class Config:
    seed: int = MISSING
    stage: StageName = MISSING
    exp: str = MISSING  # name of the experiment file that was composed
    vae: VaeConfig = MISSING
    resolution: ResolutionConfig = MISSING
    reg: RegConfig = MISSING
    strength: StrengthConfig = MISSING
    data: DataConfig = MISSING
    objective: ObjectiveConfig = MISSING
    train: VaeTrainConfig = MISSING
    probe: ProbeConfig = MISSING
    score: MeasureConfig = MISSING
    networks: NetworksConfig = MISSING
    latents: LatentsConfig = MISSING
    reward: RewardConfig | None = MISSING
    stages: StagesConfig = MISSING
    runtime: RuntimeConfig = MISSING
    launch: LaunchConfig = MISSING
    track: TrackConfig = MISSING
    sweep: SweepConfig = MISSING
    search: SearchConfig | None = MISSING


def register() -> None:
    """Make the tree known to Hydra as ``schema``."""
    ConfigStore.instance().store(name="schema", node=Config)
