"""The fast VAE against its plainly written reference: equal values, equal gradients, on every path."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from ssvae.bench.naive_vae import naive_decode, naive_encode_moments
from ssvae.models.vae import VideoVAE

CASES = [
    ((2, 4, 4), (True, True), (2, 3, 9, 16, 16)),  # the default topology
    ((2, 4, 8), (False, True), (2, 3, 5, 16, 8)),  # space before time, not square
    ((1, 4, 4), (True, True), (1, 3, 9, 16, 16)),  # one clip: the stacked 2-D convolution; groups of two
    ((1, 8, 1), (True, False), (2, 3, 3, 8, 8)),  # groups of one, then wider than a cell
    ((2, 4, 4), (True, True), (2, 3, 1, 16, 16)),  # images: the summed kernel
    ((2, 4), (False,), (2, 3, 1, 8, 8)),
]


@pytest.mark.parametrize(("multipliers", "temporal", "shape"), CASES)
def test_values_and_gradients_equal(multipliers: Sequence[int], temporal: Sequence[bool], shape: Sequence[int]) -> None:
    torch.manual_seed(0)
    vae = VideoVAE(
        channels=5,
        base_channels=4,
        multipliers=multipliers,
        encoder_blocks=1,
        decoder_blocks=1,
        temporal_levels=temporal,
    ).double()
    for parameter in vae.parameters():  # also gamma, biases and the zero-initialised projections
        torch.nn.init.normal_(parameter, std=0.3)
    video = torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    results = []
    for encode, decode in (
        (vae.encode_moments, vae.decode),
        (_bind(naive_encode_moments, vae), _bind(naive_decode, vae)),
    ):
        moments = encode(video)
        reconstruction = decode(moments.chunk(2, dim=1)[0])
        probe = torch.linspace(-1, 1, reconstruction.numel(), dtype=torch.float64).view_as(reconstruction)
        loss = (reconstruction * probe).sum() + moments.square().sum()
        gradients = torch.autograd.grad(loss, [video, *vae.parameters()])
        results.append((moments, reconstruction, *gradients))
    for fast, naive in zip(*results, strict=True):
        torch.testing.assert_close(fast, naive, atol=1e-9, rtol=1e-7)


def _bind(function, vae):  # type: ignore[no-untyped-def]
    return lambda x: function(vae, x)
