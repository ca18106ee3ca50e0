"""The moving average against its closed form; the module's own weights survive a visit of the averaged ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssvae.models.ema import EMA


def test_update_follows_the_closed_form() -> None:
    module = nn.Linear(2, 1, bias=False)
    values = [1.0, 5.0, -2.0, 4.0]
    nn.init.constant_(module.weight, values[0])
    ema = EMA(module, 0.9)
    for value in values[1:]:
        nn.init.constant_(module.weight, value)
        ema.update(module)
    expected = 0.9**3 * 1.0 + 0.1 * (0.9**2 * 5.0 + 0.9 * -2.0 + 4.0)
    torch.testing.assert_close(ema.shadow["weight"], torch.full((1, 2), expected))


def test_shadow_of_a_half_precision_module_does_not_stall() -> None:
    module = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.constant_(module.weight, 1.0)
    ema = EMA(module, 0.999)
    nn.init.constant_(module.weight, 2.0)
    ema.update(module)
    assert ema.shadow["weight"].item() == pytest.approx(1.001)


def test_applied_restores_even_after_an_error() -> None:
    module = nn.Linear(2, 2)
    ema = EMA(module, 0.5)
    averaged = module.weight.detach().clone()
    nn.init.constant_(module.weight, 3.0)
    with pytest.raises(RuntimeError), ema.applied(module):
        assert torch.equal(module.weight, averaged)
        raise RuntimeError
    assert torch.equal(module.weight, torch.full((2, 2), 3.0))


def test_state_round_trip_continues_exactly() -> None:
    module = nn.Linear(2, 2)
    first, second = EMA(module, 0.5), EMA(module, 0.5)
    nn.init.constant_(module.weight, 3.0)
    first.update(module)
    second.load_state_dict(first.state_dict())
    first.update(module)
    second.update(module)
    assert all(torch.equal(first.shadow[name], second.shadow[name]) for name in first.shadow)


def test_mistakes_are_named() -> None:
    module = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="decay"):
        EMA(module, 1.0)
    ema = EMA(module, 0.5)
    with pytest.raises(ValueError, match="bias"):
        ema.load_state_dict({"weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="shape"):
        ema.load_state_dict({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)})
    with pytest.raises(ValueError, match="bias"):
        ema.update(nn.Linear(2, 2, bias=False))
