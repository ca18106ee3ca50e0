"""What is trained beside the VAE goes on in a later stage: what fits, and a critic whole or not at all."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ssvae.models.critic import PatchCritic
from ssvae.objective.adversary import Adversary
from ssvae.objective.nll import NegativeLogLikelihood
from ssvae.objective.weighting import Weight
from ssvae.regularizers.kl import KL
from ssvae.regularizers.lmr import LMR
from ssvae.stages.parts import Parts, parts_of


def parts(seed: int, *, channels: int = 4, lmr: bool = True, width: int | None = 2) -> tuple[Parts, nn.ModuleDict]:
    torch.manual_seed(seed)
    regularizers = {"kl": KL(), **({"lmr": LMR(channels)} if lmr else {})}
    nll = NegativeLogLikelihood(initial_logscale=float(seed), perceptual=None, perceptual_weight=0.0)
    adversary = None
    if width is not None:
        critic = PatchCritic(width=width, levels=2, temporal_levels=1)
        adversary = Adversary(critic, start_step=1, lr=1e-3, betas=(0.5, 0.9), weight=Weight("fixed", 1.0))
    modules = {"regularizers": nn.ModuleDict(regularizers), "nll": nll}
    return parts_of(regularizers, nll, adversary), nn.ModuleDict(
        {**modules, **({"critic": adversary.critic} if adversary is not None else {})}
    )


def test_everything_of_the_same_shape_goes_on(tmp_path: Path) -> None:
    first, before = parts(1)
    first.save(tmp_path)
    second, after = parts(2)
    continued = second.continue_from(tmp_path)
    assert set(continued) == set(before.state_dict())
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())


def test_what_the_first_stage_lacked_starts_fresh(tmp_path: Path) -> None:
    parts(1, lmr=False, width=None)[0].save(tmp_path)
    second, after = parts(2)
    fresh = {name: value.clone() for name, value in after.state_dict().items()}
    assert second.continue_from(tmp_path) == ["nll.logscale"]
    assert float(after.state_dict()["nll.logscale"]) == 1.0
    assert all(torch.equal(value, fresh[name]) for name, value in after.state_dict().items() if name != "nll.logscale")


def test_a_critic_of_another_width_starts_fresh_as_a_whole(tmp_path: Path) -> None:
    parts(1, width=4)[0].save(tmp_path)
    second, after = parts(2, width=2)
    fresh = {name: value.clone() for name, value in after.state_dict().items()}
    continued = second.continue_from(tmp_path)
    assert continued == ["nll.logscale", "regularizers.lmr.mask_token"]
    assert all(torch.equal(value, fresh[name]) for name, value in after.state_dict().items() if "critic" in name)


def test_another_number_of_channels_gets_a_token_of_its_own(tmp_path: Path) -> None:
    parts(1, channels=8, width=None)[0].save(tmp_path)
    assert parts(2, channels=4, width=None)[0].continue_from(tmp_path) == ["nll.logscale"]
