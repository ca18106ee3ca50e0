"""What was wrong in the code that this project starts from (docs/predecessor.md) does not happen here."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import fields
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from filled_config import TERMS, put
from named_tests import absent
from ssvae.build import build_regularizers, build_vae
from ssvae.config.compose import CONF
from ssvae.config.data import DataKind
from ssvae.config.reg import Policy, TermsConfig, TrainedStage
from ssvae.config.train import CurveName
from ssvae.config.tree import Config
from ssvae.core.paths import PROJECT
from ssvae.core.types import StepContext
from ssvae.data.reader import WindowReader
from ssvae.models.vae import VideoVAE
from ssvae.objective.adversary import Adversary
from ssvae.objective.nll import NegativeLogLikelihood
from ssvae.regularizers.base import Regularizer
from ssvae.regularizers.predictive import Predictive
from ssvae.stages.versions import REGULARIZERS
from tiny_stages import Outcome, Workshop

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("predecessor")]
EVERY_TERM = ("kl", *TERMS)
TABLE = PROJECT / "docs" / "predecessor.md"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    shop = Workshop(tmp_path_factory.mktemp("shop"))
    shop.parents = shop.plans(with_terms(shop))
    return shop


def with_terms(shop: Workshop, *names: str, **changes: Any) -> Config:
    """A cell of four updates with the regularisers ``names`` alone. changes: of the stage, by key; a part of the
    objective that they name is there."""
    cfg = copy.deepcopy(shop.full)
    cfg.stages.base = cfg.stages.decoder_finetune = None
    one = cfg.stages.pretrain
    one.reg.terms = TermsConfig(**{name: getattr(one.reg.terms, name) for name in names})
    if "objective.critic" not in changes:
        one.objective.critic = None
    if "objective.lpips.vgg" not in changes:
        one.objective.lpips.vgg = one.objective.lpips.heads = None
    for key, value in {"noise.stages": [TrainedStage.pretrain], "vf.size": 28, "se.factors": [2]}.items():
        if key.partition(".")[0] in names:
            put(one.reg.terms, key, value)
    for key, value in changes.items():
        if value is not None:
            put(one, key, value)
    return cfg


def vae_weights(outcome: Outcome) -> Outcome:
    found = {name: value for name, value in outcome.items() if name.startswith("vae/")}
    assert found
    return found


def log(outcome: Outcome) -> list[dict[str, float]]:
    lines: list[dict[str, float]] = outcome["steps.jsonl"]
    return lines


def test_the_table_has_every_defect_and_every_test_that_it_names() -> None:
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", TABLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 24))
    for number, text in rows:
        named = re.findall(r"`(tests/[\w/]+\.py::\w+)`", text)
        assert named, f"row {number} names no test"
        assert absent(named) == []


# -------- 1: one idea, one place


@pytest.mark.parametrize("name", EVERY_TERM)
def test_a_regulariser_is_one_file_one_node_and_one_choice(name: str, shop: Workshop) -> None:
    node = getattr(shop.full.reg.terms, name)
    values = yaml.safe_load((CONF / "reg" / "term" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert set(values) == {field.name for field in fields(node)}
    found, weights = build_regularizers(TermsConfig(**{name: node}), vae_of(shop), shop.full.resolution)
    (regularizer,) = found.values()
    assert (regularizer.name, type(regularizer).__module__) == (name, f"ssvae.regularizers.{name}")
    assert name in REGULARIZERS
    assert set(weights) <= {name, "motion"}


def vae_of(shop: Workshop) -> VideoVAE:
    torch.manual_seed(0)
    return build_vae(shop.full.vae)


# -------- 6: validation with every regulariser


def measured(regularizer: Regularizer, vae: VideoVAE, video: Tensor) -> dict[str, Tensor]:
    """Terms and statistics of one clip as a validation would take them."""
    nll = NegativeLogLikelihood(initial_logscale=0.0, perceptual=None, perceptual_weight=1.0).eval()
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        encoded = regularizer.prepare(video, draws)
        posterior = vae.encode(encoded)
        latent = posterior.sample(torch.Generator().manual_seed(2))
        decoded, target = regularizer.transform(latent, video, draws)
        assert encoded is video and decoded is latent and target is video, "evaluation changes no clip and no latent"
        context = StepContext(
            video=video, posterior=posterior, latent=latent, decoded_latent=decoded, reconstruction=vae.decode(decoded),
            target=target, decode=vae.decode, generator=draws, distance=nll.distance, unit=nll.unit(target),
        )  # fmt: skip
        return {**regularizer.terms(context), **regularizer.stats(context)}


@pytest.mark.parametrize("frames", [9, 1], ids=["video", "image"])
@pytest.mark.parametrize("name", EVERY_TERM)
def test_every_regulariser_is_measured_without_gradients(name: str, frames: int, shop: Workshop) -> None:
    vae = vae_of(shop).eval()
    terms = with_terms(shop, name).stages.pretrain.reg.terms
    found, weights = build_regularizers(terms, vae, shop.full.resolution)
    video = torch.rand((2, 3, frames, 16, 16), generator=torch.Generator().manual_seed(0)) * 2 - 1
    values = measured(found[name].eval(), vae, video)
    assert set(weights) <= set(values)
    assert values, "something is measured of each"
    assert all(math.isfinite(float(value)) and not value.requires_grad for value in values.values())


# -------- 7: every term at zero


def at_zero(*names: str) -> dict[str, float]:
    return {f"reg.terms.{name}.weight.value": 0.0 for name in names}


CRITIC: dict[str, Any] = {
    "objective.critic": None,
    "objective.critic.start_step": 2,
    "objective.critic.weight.value": 0.0,
}
LPIPS: dict[str, Any] = {"objective.lpips.vgg": None, "objective.lpips.heads": None, "objective.lpips.weight": 0.0}
BALANCED = ("lcr", "cov", "vf", "se")
ZEROS: dict[str, tuple[tuple[str, ...], dict[str, Any], tuple[str, ...]]] = {
    # Which terms are there, what 0 is, and what the log has to say all the same.
    "kl": (("kl",), at_zero("kl"), ("kl",)),
    **{
        f"{name} {policy.value}": ((name,), {f"reg.terms.{name}.weight.policy": policy, **at_zero(name)}, (name,))
        for name in BALANCED
        for policy in Policy
    },
    "predictive": (
        ("predictive",),
        {"reg.terms.predictive.max_drop": 0.0, "reg.terms.predictive.motion.value": 0.0},
        ("motion", "predictive/dropped_fraction"),
    ),
    "noise": (("noise",), {"reg.terms.noise.variance": 0.0}, ("noise/noise_std",)),
    "eq": (("eq",), {"reg.terms.eq.probability": 0.0, "reg.terms.eq.downscaled": 0.0}, ("eq/scale",)),
    "lmr": (("lmr",), {"reg.terms.lmr.ratios": [0.0], "reg.terms.lmr.probabilities": [1.0]}, ("lmr/masked_fraction",)),
    "LPIPS": ((), LPIPS, ("lpips",)),
    **{
        f"critic {policy.value}": ((), {**CRITIC, "objective.critic.weight.policy": policy}, ("generator", "critic"))
        for policy in Policy
    },
    "all": (
        ("kl", *BALANCED),
        {**LPIPS, **CRITIC, **at_zero("kl", *BALANCED)},
        ("kl", *BALANCED, "lpips", "generator", "critic"),
    ),
}


@pytest.fixture(scope="module")
def without(shop: Workshop) -> Outcome:
    """What training makes without any term."""
    return shop.run("pretrain", with_terms(shop))


@pytest.mark.parametrize("case", ZEROS)
def test_a_term_at_zero_trains_as_if_absent_and_is_reported(case: str, shop: Workshop, without: Outcome) -> None:
    names, changes, reported = ZEROS[case]
    found = shop.run("pretrain", with_terms(shop, *names, **changes))
    assert vae_weights(found) == vae_weights(without)
    last = log(found)[-1]
    assert {"loss", "l1"} <= set(last)
    for name in reported:
        assert math.isfinite(last[name]), name
        assert last.get(f"{name}/weight", 0.0) == 0.0
    assert last["loss"] == pytest.approx(log(without)[-1]["loss"], rel=1e-6)


def test_motion_at_zero_leaves_the_dropping_alone(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = with_terms(shop, "predictive", **{"reg.terms.predictive.motion.value": 0.0})
    found = shop.run("pretrain", cfg)
    assert any(line["predictive/dropped_fraction"] > 0 for line in log(found))
    assert all(line["motion"] > 0 and line["motion/weight"] == 0 for line in log(found))
    monkeypatch.setattr(Predictive, "terms", lambda self, ctx: {})
    assert vae_weights(shop.run("pretrain", cfg)) == vae_weights(found)


# -------- 8: names and units in the log


def test_the_logged_parts_add_up_to_the_loss(shop: Workshop) -> None:
    """Each term under one name, unweighted, in the unit in which it is trained, and no weight that the log hides."""
    changes = {**LPIPS, **CRITIC, "objective.initial_logscale": 0.3}
    changes |= {"objective.lpips.weight": 0.5, "objective.critic.weight.value": 0.2}
    found = shop.run("pretrain", with_terms(shop, "kl", "lcr", "cov", "lmr", **changes))
    values = 3 * 9 * 16 * 16
    for line in log(found):
        # l1 is of pixels alone: LPIPS stands beside it, with its own weight.
        distance = (line["l1"] + 0.5 * line["lpips"]) / math.exp(line["logscale"])
        assert line["nll"] == pytest.approx(values * (distance + line["logscale"]), rel=1e-5)
        weighted = sum(line[name] * line[f"{name}/weight"] for name in line if f"{name}/weight" in line)
        assert line["loss"] == pytest.approx(line["nll"] + weighted, rel=1e-5)
        # KL as it is trained, a sum over the clip's dimensions, and its mean under a name that says so.
        assert line["kl"] == pytest.approx(16 * 3 * 4 * 4 * line["kl/kl_per_dim"], rel=1e-5)
        assert line["kl/weight"] == pytest.approx(5e-4)
    assert all(line["generator/weight"] > 0 for line in log(found)[1:])


# -------- 10: two players, one update


def test_a_bad_loss_of_one_player_stops_both(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The critic's loss of the last update is no number: neither generator nor critic moves in it."""
    changes = {**CRITIC, "objective.critic.start_step": 1, "objective.critic.weight.value": 0.2}
    changes |= {"train.curve": CurveName.constant}
    before = shop.run("pretrain", with_terms(shop, **changes, **{"train.steps": 3}))
    real, calls = Adversary.backward, []

    def backward(self: Adversary, clip: Tensor, made: Tensor) -> dict[str, Tensor]:
        calls.append(1)
        found = real(self, clip, made)
        return {**found, "critic": found["critic"] * float("nan")} if len(calls) == 4 else found

    monkeypatch.setattr(Adversary, "backward", backward)
    after = shop.run("pretrain", with_terms(shop, **changes))
    assert [line["skipped"] for line in log(after)] == [0, 0, 0, 1]
    # Beside the vectors of the spectral norms, which every forward pass in training moves.
    tensors = {name for name in before if ".safetensors/" in name and not name.endswith(("._u", "._v"))}
    assert any("critic" in name for name in tensors)
    assert {name for name in tensors if before[name] != after[name]} == set()


# -------- 21: what is drawn is what is read


def test_a_batch_reads_only_the_kind_that_it_draws(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def note(name: str, kind: str) -> None:
        real = getattr(WindowReader, name)

        def call(*given: Any) -> Tensor:
            read.append(kind)
            found: Tensor = real(*given)
            return found

        monkeypatch.setattr(WindowReader, name, call)

    note("picture", "image")
    note("window", "video")
    stage = with_terms(shop).stages.pretrain
    stage.data.kind, stage.data.path = DataKind.webdataset, str(shop.files.clips)
    stage.data.image_path, stage.data.image_weight, stage.data.image_batch = str(shop.files.images), 1.0, 3
    source = shop.sources(stage.data)
    drawn = []
    for batch in source.batches(stage.data, stage.resolution, batch=2, seed=0, workers=0)(range(12)):
        assert read == [batch.modality] * len(batch.keys)
        drawn.append(batch.modality)
        read.clear()
    assert set(drawn) == {"image", "video"}


def test_a_term_at_weight_zero_moves_nobodys_initial_parameters(shop: Workshop) -> None:
    """LMR's token is the same whether or not another term, which draws parameters of its own, stands before it."""
    masks = {"reg.terms.lmr.ratios": [0.5], "reg.terms.lmr.probabilities": [1.0]}
    alone = vae_weights(shop.run("pretrain", with_terms(shop, "lmr", **masks)))
    beside = vae_weights(shop.run("pretrain", with_terms(shop, "vf", "lmr", **masks, **at_zero("vf"))))
    assert alone == beside
