"""Non-finite losses: refused, counted, and above the limit an error that says what to do."""

from __future__ import annotations

import pytest
import torch

from ssvae.train.guard import Guard, NonFiniteLoss

GOOD, NAN, INF = torch.tensor(1.0), torch.tensor(float("nan")), torch.tensor(float("inf"))


@pytest.mark.parametrize(("loss", "norm"), [(NAN, GOOD), (GOOD, NAN), (INF, GOOD), (GOOD, INF), (-INF, GOOD)])
def test_neither_a_bad_loss_nor_a_bad_gradient_is_applied(loss: torch.Tensor, norm: torch.Tensor) -> None:
    guard = Guard(limit=1)
    assert guard.allows(1, loss=GOOD, gradient_norm=GOOD)
    assert not guard.allows(2, loss=loss, gradient_norm=norm)
    assert guard.skipped == 1
    assert guard.allows(3, loss=GOOD, gradient_norm=GOOD)
    assert guard.skipped == 1


def test_the_update_past_the_limit_stops_and_names_step_limit_and_remedy() -> None:
    guard = Guard(limit=2)
    assert [guard.allows(step, loss=NAN, gradient_norm=GOOD) for step in (1, 2)] == [False, False]
    with pytest.raises(NonFiniteLoss, match=r"step 7.*nonfinite_limit is 2.*lower train\.lr"):
        guard.allows(7, loss=NAN, gradient_norm=GOOD)


def test_a_resumed_run_goes_on_counting() -> None:
    with pytest.raises(NonFiniteLoss):
        Guard(limit=2, skipped=2).allows(9, loss=NAN, gradient_norm=GOOD)
