from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from ssvae.core.types import Posterior, StepContext
from ssvae.regularizers.lcr import LCR
from ssvae.stats.local_corr import local_correlation
from step_context import step_context

GOLDEN = Path(__file__).parents[2] / "golden" / "local_correlation.npz"


def context(mean: torch.Tensor) -> StepContext:
    video = torch.zeros(mean.shape[0], 3, 5, 4, 4)
    posterior = Posterior(mean, torch.zeros_like(mean))
    elsewhere = torch.full_like(mean, float("nan"))  # LCR reads the mean, never the sample
    return step_context(posterior, video, latent=elsewhere)


@pytest.mark.parametrize("case", range(5))
def test_hinge_and_gradient_agree_with_the_official_code(case: int) -> None:
    with np.load(GOLDEN) as golden:
        mean = torch.from_numpy(golden[f"mean_{case}"]).requires_grad_()
        window = tuple(int(side) for side in golden[f"window_{case}"])
        hinge, gradient = float(golden[f"hinge_{case}"]), golden[f"grad_{case}"]
    term = LCR(0.75, window).terms(context(mean))["lcr"]
    assert term.item() == pytest.approx(hinge, abs=2e-6)
    term.backward()
    assert mean.grad is not None
    np.testing.assert_allclose(mean.grad.numpy(), gradient, rtol=0, atol=2e-5 * np.abs(gradient).max())


def test_reached_threshold_gives_zero_loss_and_zero_gradient_but_statistics_go_on() -> None:
    mean = torch.randn(1, 8, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    lcr = LCR(threshold=-0.9)
    term = lcr.terms(context(mean))["lcr"]
    term.backward()
    assert term.item() == 0.0 and mean.grad is not None and not mean.grad.any()
    stats = lcr.stats(context(mean))
    value = local_correlation(mean).mean.item()
    assert stats["local_correlation"].item() == pytest.approx(value)
    assert stats["lcr_gap"].item() == pytest.approx(-0.9 - value)
    assert not stats["local_correlation"].requires_grad


def test_descending_the_term_raises_the_correlation() -> None:
    mean = torch.randn(2, 8, 3, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    lcr = LCR()
    optimizer = torch.optim.SGD([mean], lr=50.0)
    before = lcr.stats(context(mean))["local_correlation"].item()
    for _ in range(20):
        optimizer.zero_grad()
        lcr.terms(context(mean))["lcr"].backward()
        optimizer.step()
    assert lcr.stats(context(mean))["local_correlation"].item() > before + 0.1


def test_averages_weigh_first_and_later_frames_as_they_say() -> None:
    mean = torch.randn(2, 8, 5, 4, 4, generator=torch.Generator().manual_seed(2))
    parts = local_correlation(mean)
    assert parts.video is not None
    first, video = parts.first.item(), parts.video.item()
    for average, expected in (
        ("mean", (first + video) / 2),
        ("frames", (first + 4 * video) / 5),
        ("windows", (4 * first + 8 * video) / 12),  # 2x2 windows in frame 0, 2x2x2 after it
    ):
        value = LCR(average=average).stats(context(mean))["local_correlation"].item()
        assert value == pytest.approx(expected, abs=1e-6), average


def test_image_uses_its_only_frame() -> None:
    mean = torch.randn(2, 8, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    stats = LCR(average="frames").stats(context(mean))
    assert stats["local_correlation"].item() == pytest.approx(local_correlation(mean).first.item())
    assert "local_correlation_video" not in stats


def test_two_ranks_equal_one_with_the_whole_batch() -> None:
    whole = torch.randn(6, 4, 3, 4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 2 + 1
    single = whole.clone().requires_grad_()
    expected = LCR().terms(context(single))["lcr"]
    expected.backward()
    assert single.grad is not None

    barrier, slots = threading.Barrier(2), [torch.empty(0), torch.empty(0)]
    values, gradients = [0.0, 0.0], [torch.empty(0), torch.empty(0)]

    def rank(index: int, part: torch.Tensor) -> None:
        def all_sum(tensor: torch.Tensor) -> torch.Tensor:
            slots[index] = tensor
            barrier.wait()
            total = slots[0] + slots[1]
            barrier.wait()
            return total

        lcr = LCR()
        lcr.all_sum = all_sum
        mean = part.clone().requires_grad_()
        term = lcr.terms(context(mean))["lcr"]
        term.backward()
        assert mean.grad is not None
        values[index], gradients[index] = term.item(), mean.grad

    threads = [threading.Thread(target=rank, args=(i, part)) for i, part in enumerate(whole.split([4, 2]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    # each rank holds its own share of the global gradient, times the number of ranks that average
    combined = torch.cat(gradients) / 2
    assert combined.shape == single.grad.shape
    torch.testing.assert_close(combined, single.grad, rtol=1e-9, atol=1e-12)
    assert values == pytest.approx([expected.item()] * 2, abs=1e-12)


def test_grids_and_arguments_are_checked_before_training() -> None:
    lcr = LCR(window=(2, 2, 2))
    lcr.check_grid((5, 8, 8))
    with pytest.raises(ValueError, match="later frames"):
        lcr.check_grid((4, 8, 8))
    with pytest.raises(ValueError, match="threshold"):
        LCR(threshold=1.5)
    with pytest.raises(ValueError, match="average"):
        LCR(average="pairs")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="spatial"):
        LCR(window=(2, 1, 1))
