from __future__ import annotations

import pytest
import torch

from ssvae.core.types import Posterior
from ssvae.regularizers.noise import Noise
from step_context import step_context


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noise_is_normal_with_the_stated_variance_and_independent_of_the_latent() -> None:
    latent = torch.randn(8, 16, 3, 8, 8, generator=generator(1), dtype=torch.float64)
    target = torch.zeros(1)
    out, same = Noise(0.005).transform(latent, target, generator(2))
    assert same is target and out.dtype == latent.dtype
    noise = (out - latent).flatten()
    assert noise.numel() == 24576
    assert noise.mean().item() == pytest.approx(0, abs=4 * (0.005 / 24576) ** 0.5)
    assert noise.var().item() == pytest.approx(0.005, rel=4 * (2 / 24576) ** 0.5)
    assert (noise**4).mean().item() == pytest.approx(3 * 0.005**2, rel=0.1)  # a uniform one would give 1.8
    assert (noise * latent.flatten()).mean().item() == pytest.approx(0, abs=4 * (0.005 / 24576) ** 0.5)
    later = (out - latent)[1:].flatten(1)
    assert not torch.equal(later[0], later[1])


def test_gradient_passes_as_if_there_were_no_noise() -> None:
    latent = torch.randn(2, 3, 2, 2, 2, generator=generator(1)).requires_grad_()
    noise = Noise(0.5)
    out, _ = noise.transform(latent, torch.zeros(1), generator(2))
    pull = torch.randn(out.shape, generator=generator(3))
    (out * pull).sum().backward()
    torch.testing.assert_close(latent.grad, pull)
    assert not list(noise.parameters()) and noise.terms(step_context(Posterior(latent, latent))) == {}


def test_one_seed_one_draw() -> None:
    latent, noise = torch.zeros(2, 3, 3, 2, 2), Noise()
    first, again, other = (noise.transform(latent, latent, generator(seed))[0] for seed in (2, 2, 3))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_ranks_share_one_draw_for_the_global_batch() -> None:
    latent = torch.randn(6, 3, 3, 2, 2, generator=generator(1))
    whole, _ = Noise().transform(latent, latent, generator(2))
    parts = []
    for rank in range(3):
        noise = Noise()
        noise.part = (rank, 3)
        parts.append(noise.transform(latent[2 * rank : 2 * rank + 2], latent, generator(2))[0])
    assert torch.equal(torch.cat(parts), whole)


def test_evaluation_and_variance_zero_return_the_latent_itself_and_draw_nothing() -> None:
    latent = torch.randn(1, 3, 1, 2, 2, generator=generator(1))
    evaluated = Noise(0.005).eval()
    for noise in (evaluated, Noise(0.0)):
        drawn = generator()
        state = drawn.get_state()
        assert noise.transform(latent, latent, drawn)[0] is latent
        assert torch.equal(drawn.get_state(), state)
        assert noise.stats(step_context(Posterior(latent, latent)))["noise_std"].item() == 0


def test_statistics_set_the_noise_beside_the_latent() -> None:
    latent = torch.full((2, 3, 1, 2, 2), -2.0)
    noise = Noise(0.25)
    noise.transform(latent, latent, generator())
    stats = noise.stats(step_context(Posterior(latent, latent)))
    assert stats["noise_std"].item() == 0.5 and stats["latent_std"].item() == 2.0


@pytest.mark.parametrize("variance", [-0.1, float("nan"), float("inf")])
def test_bad_variances_are_refused(variance: float) -> None:
    with pytest.raises(ValueError, match="variance"):
        Noise(variance)
