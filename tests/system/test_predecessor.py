"""What was wrong in the code that this project starts from (docs/predecessor.md) does not happen here."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from filled_config import TERMS, put
from named_tests import absent
from ssvae.build import build_regularizers, build_vae
from ssvae.config.compose import CONF
from ssvae.config.reg import Policy, TermsConfig, TrainedStage
from ssvae.config.tree import Config
from ssvae.core.paths import PROJECT
from ssvae.core.types import StepContext
from ssvae.models.vae import VideoVAE
from ssvae.objective.adversary import Adversary
from ssvae.objective.nll import NegativeLogLikelihood
from ssvae.regularizers.base import Regularizer
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
    """A cell of a few updates with the regularisers ``names`` alone; neither critic nor LPIPS unless put there."""
    cfg = copy.deepcopy(shop.full)
    cfg.stages.base = cfg.stages.decoder_finetune = None
    one = cfg.stages.pretrain
    one.reg.terms = TermsConfig(**{name: getattr(one.reg.terms, name) for name in names})
    one.objective.critic = None
    one.objective.lpips.vgg = one.objective.lpips.heads = None
    for key, value in {"noise.stages": [TrainedStage.pretrain], "vf.size": 28, "se.factors": [2]}.items():
        if key.partition(".")[0] in names:
            put(one.reg.terms, key, value)
    for key, value in changes.items():
        put(one, key.replace("__", "."), value)
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


ZEROS: Mapping[str, tuple[tuple[str, ...], dict[str, Any], dict[str, Any], str]] = {
    # What is there, its other values, what 0 is, and the name in the log.
    "kl": (("kl",), {}, {"reg.terms.kl.weight.value": 0.0}, "kl"),
    **{
        f"{name}, {policy.value}": (
            (name,),
            {f"reg.terms.{name}.weight.policy": policy},
            {f"reg.terms.{name}.weight.value": 0.0},
            name,
        )
        for name in ("lcr", "cov", "vf", "se")
        for policy in Policy
    },
    "motion": (("predictive",), {"reg.terms.predictive.max_drop": 0.0}, {"reg.terms.predictive.motion.value": 0.0}, "motion"),
}
