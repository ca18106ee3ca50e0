"""Both sides of every pair give the same result (small sizes), and a wrong fast side would be noticed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ssvae.bench import decode, frechet, local_corr, spectrum, vae_step
from ssvae.bench.pair import NotEqualError, Pair
from ssvae.data.synthetic_shards import encode_mp4

SMALL = ("reg=lcr", "resolution.height=16", "resolution.width=16", "vae.base_channels=4")


@pytest.fixture(scope="module")
def case() -> vae_step.StepCase:
    return vae_step.build_case(SMALL, batch=2)


@pytest.fixture(scope="module")
def clip() -> bytes:
    return decode.encode_plainly(decode.panned(40, 48, 64), 30)


def test_step_is_equal_with_an_active_hinge(case: vae_step.StepCase) -> None:
    """The hinge must pull, or the two gradients at the last layer would not be part of the figure."""
    pair = vae_step.step_pair("step", "", "", case, vae_step.plain(case))
    assert pair.check() < 1e-5
    with_lcr = vae_step.gradients(case, lambda: vae_step.chained(case))
    weights = dict(case.weights)
    case.weights["lcr"] = type(weights["lcr"])("fixed", 0.0)
    without = vae_step.gradients(case, lambda: vae_step.chained(case))
    case.weights.update(weights)
    assert float((with_lcr - without).abs().max()) > 1e-3


def test_single_graph_on_the_fast_networks_is_equal(case: vae_step.StepCase) -> None:
    assert vae_step.step_pair("step", "", "", case, vae_step.fast(case)).check() < 1e-5


def test_updates_change_no_weight_and_leave_no_gradient(case: vae_step.StepCase) -> None:
    pair = vae_step.step_pair("step", "", "", case, vae_step.plain(case))
    before = [parameter.detach().clone() for parameter in case.trained]
    for side in (pair.fast, pair.naive, pair.fast):
        side()
        assert all(parameter.grad is None for parameter in case.trained)
    assert all(torch.equal(old, new) for old, new in zip(before, case.trained, strict=True))


def test_wrong_networks_are_noticed(case: vae_step.StepCase) -> None:
    plain = vae_step.plain(case)
    wrong = vae_step.Forward(plain.encode, lambda latent: plain.decode(latent) * 1.01, plain.correlation)
    with pytest.raises(NotEqualError):
        vae_step.step_pair("step", "", "", case, wrong).check()


def test_decoding_is_bit_identical(clip: bytes) -> None:
    rng = np.random.default_rng(0)
    noise = encode_mp4(rng.integers(0, 256, (16, 16, 16, 3), dtype=np.uint8), 8.0)
    assert decode.decode_pair("d", "", [clip], decode.Window(5, 8.0, 16)).check() == 0.0
    assert decode.decode_pair("d", "", [noise, noise], decode.Window(5, 8.0, 8)).check() == 0.0


def test_another_window_is_noticed(clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    real = decode.read_needed
    monkeypatch.setattr(decode, "read_needed", lambda data, window, position: real(data, window, position * 0.5))
    with pytest.raises(NotEqualError):
        decode.decode_pair("d", "", [clip], decode.Window(5, 8.0, 16)).check()


def test_decoding_counts_every_window(clip: bytes) -> None:
    pair = decode.decode_pair("d", "", [clip, clip], decode.Window(5, 8.0, 16))
    assert pair.clips == 6
    windows = pair.fast()
    assert isinstance(windows, list) and len(windows) == 6 and windows[0].shape == (5, 3, 16, 16)


def test_plain_encoding_has_few_keyframes(clip: bytes) -> None:
    """Or seeking would look better than it is on real files."""
    import io

    import av

    with av.open(io.BytesIO(clip), "r") as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert len(packets) == 40 and sum(packet.is_keyframe for packet in packets) == 1


SIMPLE: dict[str, Callable[[], Pair]] = {
    "local_corr": lambda: local_corr.correlation_pair("x", (2, 6, 3, 4, 4)),
    "frechet": lambda: frechet.frechet_pair("x", 200, 24, 0.5),
    "frechet_ill": lambda: frechet.frechet_pair("x", 200, 24, 2.0),
    "frechet_few": lambda: frechet.frechet_pair("x", 10, 24, 0.5),
    "dct": lambda: spectrum.dct_pair("x", (3, 2, 4, 4)),
    "dct_large": lambda: spectrum.dct_pair("x", (2, 5, 8, 16)),
    "eigen": lambda: spectrum.eigen_pair("x", (3, 6, 2, 4, 4)),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_simple_pairs_are_equal(name: str) -> None:
    SIMPLE[name]().check()


def test_local_correlation_pair_is_not_trivial() -> None:
    """A value near 0 or at the end of its range would prove little."""
    result = SIMPLE["local_corr"]().naive()
    assert isinstance(result, tuple)
    value, gradient = result
    assert 0.2 < float(value.detach()) < 0.99 and float(gradient.abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("module", "name", "wrong"),
    [
        (spectrum, "dct3", lambda x: x),
        (spectrum, "eigenspectrum", lambda x: torch.ones(x.shape[1], dtype=torch.float64)),
        (frechet, "frechet_from_features", lambda a, b: 1.0),
    ],
)
def test_simple_wrong_ways_are_noticed(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, wrong: Callable[..., object]
) -> None:
    monkeypatch.setattr(module, name, wrong)
    key = {"dct3": "dct", "eigenspectrum": "eigen", "frechet_from_features": "frechet"}[name]
    with pytest.raises(NotEqualError):
        SIMPLE[key]().check()
