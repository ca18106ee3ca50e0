"""The posterior's maths and the row format of a metric."""

from __future__ import annotations

import json
import math

import pytest
import torch

from ssvae.core.types import LOGVAR_RANGE, MetricValue, Posterior


def test_moments_split_and_clamp() -> None:
    moments = torch.cat([torch.full((1, 2, 1, 1, 1), 3.0), torch.tensor([-50.0, 40.0]).view(1, 2, 1, 1, 1)], dim=1)
    posterior = Posterior.from_moments(moments)
    assert torch.equal(posterior.mode(), torch.full((1, 2, 1, 1, 1), 3.0))
    assert posterior.logvar.flatten().tolist() == list(LOGVAR_RANGE)


def test_samples_have_the_posteriors_mean_and_spread() -> None:
    posterior = Posterior(torch.full((1, 1, 1, 200, 200), 2.0), torch.full((1, 1, 1, 200, 200), math.log(0.25)))
    draw = posterior.sample(torch.Generator().manual_seed(0))
    # 40,000 draws: five standard errors.
    assert float(draw.mean()) == pytest.approx(2.0, abs=5 * 0.5 / 200)
    assert float(draw.std()) == pytest.approx(0.5, abs=5 * 0.5 / 280)


def test_a_generator_decides_the_draw_and_gradients_reach_both_moments() -> None:
    mean, logvar = torch.zeros(1, 2, 1, 2, 2, requires_grad=True), torch.zeros(1, 2, 1, 2, 2, requires_grad=True)
    posterior = Posterior(mean, logvar)
    first, again = (posterior.sample(torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, again)
    first.sum().backward()
    assert torch.equal(mean.grad, torch.ones_like(mean))
    # d/dlogvar of exp(logvar/2)·noise at logvar 0 is noise/2, and the draw is the noise itself.
    assert torch.allclose(logvar.grad, first.detach() / 2)


def test_a_metric_becomes_plain_json() -> None:
    row = MetricValue("psnr_db", 30.5, "dB", "up", 8, (30.0, 31.0), "psnr/1").to_json()
    assert json.loads(json.dumps(row)) == {
        "name": "psnr_db",
        "value": 30.5,
        "unit": "dB",
        "direction": "up",
        "n": 8,
        "ci95": [30.0, 31.0],
        "protocol": "psnr/1",
    }
    assert MetricValue("x", 1.0, "1", "none", 1, None, "x/1").to_json()["ci95"] is None
