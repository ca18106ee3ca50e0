from __future__ import annotations

import torch

from ssvae.core.types import Posterior
from ssvae.regularizers.base import Regularizer
from step_context import step_context


def test_every_default_does_nothing() -> None:
    video, latent, generator = torch.rand(1, 3, 5, 8, 8), torch.rand(1, 4, 3, 2, 2), torch.Generator().manual_seed(0)
    context = step_context(Posterior(latent, latent), video, generator=generator)
    state = generator.get_state()
    regularizer = Regularizer()
    regularizer.check_grid((3, 2, 2))
    assert regularizer.prepare(video, generator) is video
    assert regularizer.transform(latent, video, generator) == (latent, video)
    assert regularizer.terms(context) == {} and regularizer.stats(context) == {}
    assert not list(regularizer.parameters())
    assert torch.equal(generator.get_state(), state)
