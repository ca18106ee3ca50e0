"""The adversary's losses by hand, who gets which gradient, its schedule, and a state that goes on bit by bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ssvae.objective.adversary import Adversary
from ssvae.objective.weighting import Weight

CLIP = (2, 3, 5, 8, 8)


class TwoCritics(nn.Module):
    """Logits of two shapes, so that a mean over critics differs from one over logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = spectral_norm(nn.Conv3d(3, 1, 2, stride=2)).double()
        self.other = nn.Conv3d(3, 2, 1).double()

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(video) * 3, self.other(video)


def make(**changes: object) -> Adversary:
    values: dict[str, object] = {"start_step": 3, "lr": 0.01, "betas": (0.5, 0.9), "weight": Weight("grad_ratio", 0.5)}
    return Adversary(TwoCritics(), **{**values, **changes})  # type: ignore[arg-type]


def clip(seed: int) -> Tensor:
    return torch.randn(CLIP, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_plays_from_its_step_on() -> None:
    assert [make(start_step=25_001).active(step) for step in (1, 25_000, 25_001, 25_002)] == [False, False, True, True]
    assert make(start_step=1).active(1)
    with pytest.raises(ValueError, match="start_step must be at least 1"):
        make(start_step=0)


def test_the_generators_loss_is_minus_the_mean_logit_of_both_critics() -> None:
    adversary = make().eval()
    fake = clip(1).requires_grad_()
    one, other = adversary.critic(fake)
    loss = adversary.generator_loss(fake)
    assert float(loss.detach()) == pytest.approx(-0.5 * float((one.mean() + other.mean()).detach()), rel=1e-12)
    (wanted,) = torch.autograd.grad(-0.5 * (one.mean() + other.mean()), fake)
    loss.backward()
    assert fake.grad is not None and torch.allclose(fake.grad, wanted, rtol=1e-12)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in adversary.parameters())


def test_the_critic_is_free_again_when_the_generators_pass_fails() -> None:
    adversary = make()
    with pytest.raises(RuntimeError):
        adversary.generator_loss(torch.zeros(1, 7, 5, 8, 8, dtype=torch.float64))
    assert all(parameter.requires_grad for parameter in adversary.parameters())


def test_the_hinge_and_its_gradients() -> None:
    adversary, reference = make().eval(), make().eval()
    real, fake = clip(2), clip(3).requires_grad_()
    parts = []
    for of_real, of_fake in zip(reference.critic(real), reference.critic(fake.detach()), strict=True):
        parts.append(0.5 * ((1 - of_real).clamp(min=0).mean() + (1 + of_fake).clamp(min=0).mean()))
    wanted = (parts[0] + parts[1]) / 2
    wanted.backward()
    found = adversary.backward(real, fake)
    assert float(found["critic"]) == pytest.approx(float(wanted.detach()), rel=1e-12)
    assert fake.grad is None, "the generator learns nothing from the critic's loss"
    for a, b in zip(adversary.parameters(), reference.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None and torch.allclose(a.grad, b.grad, rtol=1e-12)
    means = [sum(float(logits.detach().mean()) for logits in reference.critic(x)) / 2 for x in (real, fake)]
    assert [float(found["critic/real"]), float(found["critic/fake"])] == pytest.approx(means, rel=1e-12)


def test_the_gradients_norm() -> None:
    adversary = make().eval()
    adversary.backward(clip(2), clip(3))
    norm = adversary.gradient_norm()
    flat = torch.cat([parameter.grad.flatten() for parameter in adversary.parameters() if parameter.grad is not None])
    assert float(norm) == pytest.approx(float(flat.norm()), rel=1e-12)
    assert not norm.requires_grad


def test_gradients_that_are_not_finite_show_although_the_loss_is() -> None:
    class RootCritic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, video: Tensor) -> tuple[Tensor]:
            return (video + self.scale.sqrt(),)  # at 0 the root has no finite slope

    adversary = Adversary(RootCritic(), start_step=1, lr=0.1, betas=(0.5, 0.9), weight=Weight("fixed", 1.0))
    found = adversary.backward(clip(2), clip(3) * 2)
    assert bool(torch.isfinite(found["critic"]))
    assert not bool(torch.isfinite(adversary.gradient_norm()))


def test_logits_beyond_the_margin_pull_no_more() -> None:
    adversary = make().eval()
    with torch.no_grad():
        for name, parameter in adversary.critic.named_parameters():
            parameter.zero_() if name == "other.weight" else None
        adversary.critic.other.bias.fill_(2.0)  # type: ignore[union-attr,operator]
    real = clip(2)
    loss = adversary.backward(real, real)
    assert float(loss["critic"]) > 0
    bias = adversary.critic.other.bias.grad  # type: ignore[union-attr]
    # Real at 2 is past its margin; fake at 2 pulls down with 0.5 (hinge) x 0.5 (critics) / 2 (channels).
    assert torch.allclose(bias, torch.full((2,), 0.125, dtype=torch.float64))  # type: ignore[arg-type]


@pytest.mark.parametrize(("reference", "generator", "ratio"), [(3.0, 6.0, 0.5), (1e9, 1.0, 1e4), (2.0, 0.0, 1e4)])
def test_the_adaptive_weight_and_its_clamp(reference: float, generator: float, ratio: float) -> None:
    weight = make().adaptive_weight(torch.tensor([reference, 0.0]), torch.tensor([0.0, generator]))
    assert float(weight) == pytest.approx(0.5 * ratio, rel=1e-4)
    assert not weight.requires_grad
    assert float(make(weight=Weight("fixed", 0.3)).adaptive_weight(torch.ones(1), torch.ones(1))) == pytest.approx(0.3)


def test_a_few_steps_tell_real_from_fake() -> None:
    adversary = make().train()
    real, fake = clip(4) + 1, clip(5) - 1
    losses = []
    for _ in range(40):
        losses.append(float(adversary.backward(real, fake)["critic"]))
        adversary.step()
        adversary.zero_grad()
    assert losses[-1] < 0.5 * losses[0]


def test_a_saved_state_goes_on_bit_by_bit() -> None:
    def play(adversary: Adversary, steps: range) -> None:
        for step in steps:
            adversary.generator_loss(clip(100 + step))  # moves the spectral norms too
            adversary.backward(clip(step), clip(50 + step))
            adversary.step()
            adversary.zero_grad()

    whole, first, second = make().train(), make().train(), make(lr=0.01).train()
    play(whole, range(6))
    play(first, range(3))
    second.load_state_dict(first.state_dict())
    play(second, range(3, 6))
    for (name, a), (_, b) in zip(whole.critic.state_dict().items(), second.critic.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
