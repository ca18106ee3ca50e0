"""The three forms against the float64 eigenspectrum of stats/channels.py, and what must not change them."""

from __future__ import annotations

import threading
from typing import get_args

import pytest
import scipy.stats
import torch
from torch import Tensor

from ssvae.core.types import Posterior, StepContext
from ssvae.regularizers.cov import Covariance, Form
from ssvae.stats.channels import eigenspectrum, explained_variance, participation_ratio
from step_context import step_context

FORMS: tuple[Form, ...] = get_args(Form)


def context(mean: Tensor) -> StepContext:
    elsewhere = torch.full_like(mean, float("nan"))  # the penalty reads the mean, never the sample
    return step_context(Posterior(mean, torch.zeros_like(mean)), latent=elsewhere)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def latents(seed: int = 0, frames: int = 3, batch: int = 2) -> Tensor:
    """(batch,6,frames,4,4) with uneven modes, scales and means."""
    mixed = torch.einsum("cd,bdfhw->bcfhw", random(6, 6, seed=99), random(batch, 6, frames, 4, 4, seed=seed))
    return mixed * torch.logspace(-2, 2, 6, dtype=torch.float64).view(1, 6, 1, 1, 1) + 3


def term(mean: Tensor, form: Form, modes: int = 2) -> Tensor:
    return Covariance(mean.shape[1], form, modes).terms(context(mean))["cov"]


def expected(mean: Tensor, form: Form, modes: int = 2) -> float:
    values = eigenspectrum(mean, normalize=True)
    if form == "participation":
        return participation_ratio(values) / mean.shape[1]
    if form == "top_share":
        return 1 - float(explained_variance(values)[modes - 1])
    return float(scipy.stats.entropy(values.numpy(), base=mean.shape[1]))


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_eigenspectrum_of_the_correlation_matrix(form: Form, frames: int) -> None:
    mean = latents(frames=frames)
    assert 0.05 < expected(mean, form) < 0.95
    assert term(mean, form).item() == pytest.approx(expected(mean, form), abs=1e-12)


def test_statistics_are_those_of_the_eigenspectrum_whatever_the_form() -> None:
    mean = latents()
    for form in FORMS:
        stats = Covariance(6, form, 2).stats(context(mean.requires_grad_()))
        assert stats["effective_modes"].item() == pytest.approx(6 * expected(mean.detach(), "participation"))
        assert stats["top_share"].item() == pytest.approx(1 - expected(mean.detach(), "top_share"))
        assert stats["mode_entropy"].item() == pytest.approx(expected(mean.detach(), "entropy"))
        assert not any(value.requires_grad for value in stats.values())


@pytest.mark.parametrize(
    "form, one_mode, even", [("participation", 1 / 4, 1), ("top_share", 0, 1 / 2), ("entropy", 0, 1)]
)
def test_ends_of_the_range(form: Form, one_mode: float, even: float) -> None:
    same = random(1, 1, 2, 4, 4) * torch.tensor([1.0, -2.0, 3.0, 0.1]).double().view(1, 4, 1, 1, 1)
    assert term(same, form).item() == pytest.approx(one_mode, abs=1e-9)
    # rows of a Hadamard matrix: zero mean, mutually orthogonal
    signs = torch.tensor([[1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]).double()
    signs = torch.cat([signs.repeat(1, 2), torch.tensor([[1.0] * 4 + [-1.0] * 4]).double()])
    mean = signs.view(1, 4, 2, 2, 2).requires_grad_()
    value = term(mean, form)
    value.backward()
    assert value.item() == pytest.approx(even, abs=1e-12)
    assert mean.grad is not None and bool(torch.isfinite(mean.grad).all())  # all eigenvalues are equal here


@pytest.mark.parametrize("form", FORMS)
def test_scaling_and_shifting_channels_changes_nothing(form: Form) -> None:
    mean = latents()
    factors = torch.tensor([1e-3, -1.0, 5.0, 1e3, 0.2, 7.0]).double().view(1, 6, 1, 1, 1)
    assert term(mean * factors + 11, form).item() == pytest.approx(term(mean, form).item(), abs=1e-10)
    leaf = mean.clone().requires_grad_()
    term(leaf, form).backward()
    assert leaf.grad is not None
    # hence the gradient neither scales nor shifts a channel
    centred = mean - mean.mean((0, 2, 3, 4), keepdim=True)
    size = leaf.grad.norm() * centred.norm()
    assert float((leaf.grad * centred).sum((0, 2, 3, 4)).abs().max() / size) < 1e-12
    assert float(leaf.grad.sum((0, 2, 3, 4)).abs().max() / leaf.grad.abs().sum()) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_gradient(form: Form) -> None:
    mean = random(2, 4, 2, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: term(z, form), (mean,), eps=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_descending_the_term_moves_variance_into_the_first_modes(form: Form) -> None:
    mean = random(2, 8, 2, 4, 4, seed=2).float().requires_grad_()
    before = explained_variance(eigenspectrum(mean.detach(), normalize=True))
    optimizer = torch.optim.Adam([mean], lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        term(mean, form).backward()
        optimizer.step()
    after = explained_variance(eigenspectrum(mean.detach(), normalize=True))
    assert float(after[1]) > float(before[1]) + 0.2


@pytest.mark.parametrize("form", FORMS)
def test_two_ranks_equal_one_with_the_whole_batch(form: Form) -> None:
    whole = latents(seed=3, batch=6)
    single = whole.clone().requires_grad_()
    value = term(single, form)
    value.backward()
    assert single.grad is not None

    barrier, slots = threading.Barrier(2), [torch.empty(0), torch.empty(0)]
    values, gradients = [0.0, 0.0], [torch.empty(0), torch.empty(0)]

    def rank(index: int, part: Tensor) -> None:
        def all_sum(tensor: Tensor) -> Tensor:
            assert not tensor.requires_grad
            slots[index] = tensor
            barrier.wait(timeout=20)
            total = slots[0] + slots[1]
            barrier.wait(timeout=20)
            return total

        cov = Covariance(6, form, 2)
        cov.all_sum = all_sum
        mean = part.clone().requires_grad_()
        local = cov.terms(context(mean))["cov"]
        local.backward()
        assert mean.grad is not None
        values[index], gradients[index] = local.item(), mean.grad

    threads = [threading.Thread(target=rank, args=(i, part)) for i, part in enumerate(whole.split([4, 2]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    # each rank holds its own share of the global gradient, times the number of ranks that average
    combined = torch.cat(gradients) / 2
    assert combined.shape == single.grad.shape
    torch.testing.assert_close(combined, single.grad, rtol=1e-10, atol=1e-10 * float(single.grad.abs().max()))
    assert values == pytest.approx([value.item()] * 2, abs=1e-10)
    # the test can tell: a rank's own batch alone gives another value
    assert abs(term(whole[:4], form).item() - value.item()) > 1e-4


@pytest.mark.parametrize("form", FORMS)
def test_constant_channels_are_eigenvalues_of_zero_without_gradient(form: Form) -> None:
    mean = latents().float()
    mean[:, 2] = 1.1
    leaf = mean.clone().requires_grad_()
    value = term(leaf, form)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected(mean, form), abs=1e-6)
    assert leaf.grad is not None and bool(torch.isfinite(leaf.grad).all())
    assert not leaf.grad[:, 2].any() and bool(leaf.grad[:, 3].any())


@pytest.mark.parametrize("form", FORMS)
def test_wholly_constant_latents_give_a_finite_value_and_no_gradient(form: Form) -> None:
    mean = torch.full((2, 4, 1, 2, 2), 0.3, requires_grad=True)
    value = term(mean, form)
    value.backward()
    assert 0 <= value.item() <= 1 and mean.grad is not None and not mean.grad.any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_latents_give_nan_and_raise_nothing(form: Form, bad: float) -> None:
    mean = latents()
    mean[0, 0, 0, 0, 0] = bad
    assert term(mean, form).isnan()
    assert Covariance(6, form, 2).stats(context(mean))["mode_entropy"].isnan()


def test_half_precision_latents_are_judged_in_double() -> None:
    mean = latents().bfloat16()
    value = term(mean, "entropy")
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected(mean.double(), "entropy"), rel=1e-6)


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Covariance(1)
    with pytest.raises(ValueError, match="participation, top_share, entropy"):
        Covariance(8, "trace")  # type: ignore[arg-type]
    for modes in (0, 8):
        with pytest.raises(ValueError, match=r"\[1, 7\] for 8 channels"):
            Covariance(8, "top_share", modes)
