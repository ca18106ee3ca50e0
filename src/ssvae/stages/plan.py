"""Which stages a cell consists of, and the identity of each.

A stage's identity is the hash of the values it declares as scientific, the fingerprint of the content it reads, the
versions of the components that make its numbers, its parents' identities and the seed. Names, paths,
workers, launch and tracking do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from ssvae.build_metrics import build_reward_settings
from ssvae.config.data import DataConfig
from ssvae.config.reg import TrainedStage, lmr_shape, terms_in
from ssvae.config.resolution import ResolutionConfig
from ssvae.config.reward import RewardConfig
from ssvae.config.run import StageName
from ssvae.config.score import MeasureConfig, NetworksConfig, Weights
from ssvae.config.train import RankStatistics
from ssvae.config.tree import Config, ProbeStageConfig, VaeStageConfig
from ssvae.config.vae import VaeConfig
from ssvae.core.identity import file_sha256, fingerprint
from ssvae.metrics.reward import REWARD_PROTOCOL
from ssvae.models.lpips import shipped_heads
from ssvae.models.text_encoder import load_text_encoder
from ssvae.stages.init import weights_fingerprint
from ssvae.stages.versions import NETWORK_PROTOCOLS, REGULARIZERS, VERSIONS

NAMES = ("base", "pretrain", "decoder_finetune", "measure", "latents_base", "dit_base", "latents", "dit", "probe")
"""All stages, in the order in which they run."""
TRAINING = ("base", "pretrain", "decoder_finetune")
"""Those that train a VAE."""
ENCODING = ("latents_base", "latents")
"""Those that the first rank does alone."""
_PROBE = ("latents_base", "dit_base", "latents", "dit", "probe")
COMPUTED: dict[StageName, tuple[str, ...]] = {
    StageName.pretrain: ("base", "pretrain"),
    StageName.decoder_finetune: ("decoder_finetune",),
    StageName.measure: ("measure",),
    StageName.probe: _PROBE,
    StageName.evaluate: ("measure", *_PROBE),
    StageName.all: NAMES,
}
"""What ``stage=...`` computes; the other stages that it needs must be there."""

Fingerprints = Callable[[DataConfig], str]
_COSMETIC = ("name",)
_CARRIED_OUT_REWARD = ("concurrency", "timeout_s", "retries", "backoff_s", "longest_wait_s", "api_key_env")
_CARRIED_OUT = ("gradient_checkpointing",)
"""Settings of a training that change no number."""


@dataclass(frozen=True)
class StagePlan:
    """One stage of one cell. science: what was hashed. parents: name -> id. folder: where it lives."""

    name: str
    id: str
    folder: Path
    parents: Mapping[str, str]
    science: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        return (self.folder / "done.json").exists()

    @property
    def started(self) -> bool:
        """Is there a state to go on from?"""
        return (self.folder / "checkpoint.pt").exists()

    @property
    def lock(self) -> Path:
        return self.folder.parent / f".{self.folder.name}.lock"


def plan_cell(
    cfg: Config,
    root: Path,
    fingerprints: Fingerprints,
    conditions: Fingerprints | None = None,
    worlds: Callable[[str], int] = lambda stage: 1,
) -> dict[str, StagePlan]:
    """The stages that ``cfg.stage`` computes or needs, in order.

    fingerprints: of a data set's content; conditions: of the captions and labels in its meta lines, which only the
    probe reads. worlds: how many ranks train a stage together.
    """
    stages = cfg.stages
    plans: dict[str, StagePlan] = {}

    def add(name: str, science: dict[str, Any], parents: tuple[str, ...]) -> None:
        ids = {parent: plans[parent].id for parent in parents if parent in plans}
        kind = name.removesuffix("_base") if name in _PROBE else name
        science = {**science, "versions": VERSIONS[kind], "parents": ids, "stage": kind}
        identity = fingerprint(science)
        folder = (
            root / "runs" / "latents" / identity
            if kind == "latents"
            else root / "runs" / "stages" / f"{name}-{identity}"
        )
        plans[name] = StagePlan(name, identity, folder, ids, science)

    def train(name: str, stage: VaeStageConfig, kind: TrainedStage, parents: tuple[str, ...]) -> None:
        science = _vae_science(cfg.vae, stage, kind, fingerprints)
        # With shared statistics any number of ranks makes the same numbers, up to rounding.
        apart = stage.train.rank_statistics is RankStatistics.per_rank
        add(name, {**science, "seed": cfg.seed, "ranks": worlds(name) if apart else 1}, parents)

    score, measured = stages.measure.score, COMPUTED[cfg.stage]
    trained, weights = score.trained.value, score.weights.value
    origin: dict[str, Any] = {}
    if cfg.vae.weights is not None:
        origin = {"vae": weights_fingerprint("vae.weights", cfg.vae.weights)}
        weights = "finished"
    else:
        if stages.base is not None:
            train("base", stages.base, TrainedStage.pretrain, ())
        train("pretrain", stages.pretrain, TrainedStage.pretrain, ("base",))
        tuned = trained == "decoder_finetune" and cfg.stage is not StageName.pretrain
        if stages.decoder_finetune is not None and (tuned or "decoder_finetune" in measured):
            train("decoder_finetune", stages.decoder_finetune, TrainedStage.decoder_finetune, ("pretrain",))
    if "measure" in measured:
        measure = stages.measure
        clips = {"resolution": _clip(measure.resolution), "data": data_science(measure.data, fingerprints)}
        networks = networks_science(measure.networks)
        score_science = _without_batch(plain(measure.score))
        add("measure", {**clips, **origin, "score": score_science, "networks": networks}, (trained,))
    if "probe" in measured:
        for ending, probe in (("_base", stages.probe_base), ("", stages.probe)):
            if probe is None:
                continue
            clips = {"resolution": _clip(probe.resolution), "data": data_science(probe.data, fingerprints)}
            # The cache also holds the held-out windows that the samples are scored against.
            cached = {**_without_batch(plain(probe.latents)), "heldout": probe.probe.sample.clips}
            told = conditions(probe.data) if conditions is not None else None
            encoded = "finished" if origin else latent_weights(score).value
            science = {**clips, **origin, "latents": cached, "weights": encoded, "conditions": told}
            add(f"latents{ending}", science, ("pretrain",))
            trains, scores = _probe_science(probe)
            add(f"dit{ending}", {"dit": trains, "seed": cfg.seed}, (f"latents{ending}", "dit_base"))
        networks = networks_science(stages.probe.networks)
        add("probe", {**origin, "probe": scores, "weights": weights, "networks": networks}, (trained, "latents", "dit"))
    return plans


def latent_weights(score: MeasureConfig) -> Weights:
    """Which weights of ``pretrain`` encode. A decoder fine-tune keeps the encoder it started with: the raw one."""
    return Weights.raw if score.trained is TrainedStage.decoder_finetune else score.weights


def _probe_science(stage: ProbeStageConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the training of the transformer depends on, and what its scores do beside that: another guidance, reward
    model or prompt file does not train it again. Text encoder and prompts count by content."""
    science = plain(stage.probe)
    text, prompts = stage.probe.text, stage.probe.sample.prompts
    if text.model is not None:
        science["text"]["model"] = load_text_encoder(text.model, max_length=text.max_length).key
    if prompts is not None:
        science["sample"]["prompts"] = file_sha256(Path(prompts).expanduser())
    for name in _CARRIED_OUT:
        science["dit"].pop(name, None)
    science["checkpoints"] = [step for step in stage.probe.checkpoints if step < stage.probe.train.steps]
    scores = {name: science.pop(name) for name in ("sample", "validation_draws")}
    scores["sample"] = _without_batch(scores["sample"])
    return science, {**scores, "reward": reward_science(stage.reward)}


def _without_batch(values: dict[str, Any]) -> dict[str, Any]:
    """How many clips pass at once, where no gradient is taken, changes no number beyond rounding."""
    return {key: value for key, value in values.items() if key != "batch"}


def reward_science(reward: RewardConfig | None) -> dict[str, Any] | None:
    """What the answers depend on: not where the server is, nor how it is asked again."""
    if reward is None:
        return None
    values = plain(reward)
    for name in ("endpoint", "template", *_CARRIED_OUT_REWARD):
        del values[name]
    return {**values, "question": build_reward_settings(reward).question().digest, "protocol": REWARD_PROTOCOL}


def networks_science(networks: NetworksConfig) -> dict[str, Any]:
    """Networks from outside by content, with the protocols of what they measure; absent ones do not count."""
    found: dict[str, Any] = {}
    for field in fields(networks):
        value = getattr(networks, field.name)
        if isinstance(value, str):
            found[field.name] = weights_fingerprint(f"networks.{field.name}", value)
    found.update({f"{name}_protocol": NETWORK_PROTOCOLS[name] for name in list(found)})
    for name, frames in (("dinov2", "fdd_frames"), ("i3d", "fvd_frames")):
        if name in found:
            found[frames] = getattr(networks, frames)
    return found


def _vae_science(
    vae: VaeConfig, stage: VaeStageConfig, kind: TrainedStage, fingerprints: Fingerprints
) -> dict[str, Any]:
    objective = plain(stage.objective)
    for name in ("vgg", "heads"):
        path = getattr(stage.objective.lpips, name)
        objective["lpips"][name] = None if path is None else file_sha256(Path(path))
    if stage.objective.lpips.vgg is not None and stage.objective.lpips.heads is None:
        objective["lpips"]["heads"] = file_sha256(shipped_heads())
    train = plain(stage.train)
    architecture = plain(vae)
    del architecture["weights"]
    for name in _CARRIED_OUT:
        del train[name]
    return {
        "vae": architecture,
        "init": None if stage.init is None else weights_fingerprint("init", stage.init),
        "resolution": _clip(stage.resolution),
        "data": data_science(stage.data, fingerprints),
        "objective": objective,
        "reg": _reg_science(stage, kind),
        "train": train,
    }


def _reg_science(stage: VaeStageConfig, kind: TrainedStage) -> dict[str, Any]:
    """The terms that are present, as they act: in which other stages they are does not count, so that cells which
    differ in a later stage only share this one."""
    terms = terms_in(stage.reg.terms, kind)
    science = {name: term for name, term in plain(terms).items() if term is not None}
    if terms.lmr is not None:
        science["lmr"].update(plain(lmr_shape(terms.lmr, stage.resolution)))
    if terms.vf is not None and terms.vf.model is not None:
        science["vf"]["model"] = weights_fingerprint("reg.terms.vf.model", terms.vf.model)
    for name, term in science.items():
        del term["stages"]
        term["version"] = REGULARIZERS[name]
    return science


def _clip(resolution: ResolutionConfig) -> dict[str, Any]:
    """A clip's shape. What LMR does at this resolution counts where LMR is used: in ``reg``."""
    clip = plain(resolution)
    del clip["lmr"]
    return clip


def data_science(data: DataConfig, fingerprints: Fingerprints) -> dict[str, Any]:
    """What of a data set counts: its content and how it is sampled and split, not where it lies."""
    values = plain(data)
    for key in ("path", "image_path", "synthetic", "kind"):
        del values[key]
    return {**values, "content": fingerprints(data)}


def plain(value: Any) -> Any:
    """A config node as plain values, without names."""
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in _COSMETIC}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def cell_id(plans: Mapping[str, StagePlan]) -> str:
    """Identity of a cell: of its last stages, and so of everything before them."""
    return fingerprint([plan.id for plan in plans.values()], 10)
