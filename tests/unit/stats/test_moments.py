from __future__ import annotations

import numpy as np
import pytest
import torch

from ssvae.stats import moments as module
from ssvae.stats.moments import StreamingMoments, channel_moments


def data(n: int = 57, dim: int = 5, offset: float = 0.0) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + offset


@pytest.mark.parametrize("sizes", [[57], [1] * 57, [3, 50, 4], [0, 57]])
def test_any_split_equals_numpy(sizes: list[int]) -> None:
    x = data()
    moments = StreamingMoments(5)
    for part in x.split(sizes):
        moments.update(part)
    np.testing.assert_allclose(moments.mean.numpy(), x.numpy().mean(0), rtol=0, atol=1e-14)
    np.testing.assert_allclose(moments.cov.numpy(), np.cov(x.numpy(), rowvar=False), rtol=0, atol=1e-13)
    np.testing.assert_allclose(moments.std.numpy(), x.numpy().std(0, ddof=1), rtol=1e-12)
    assert moments.count == 57


def test_a_large_offset_costs_no_digits() -> None:
    moments = StreamingMoments(5)
    for part in data(offset=2.0**26).split(10):  # E[x²] - E[x]² would be left with no digit at all
        moments.update(part)
    np.testing.assert_allclose(moments.cov.numpy(), np.cov(data().numpy(), rowvar=False), rtol=0, atol=1e-6)


def test_merge_equals_one_stream_and_merging_nothing_changes_nothing() -> None:
    whole, left, right = StreamingMoments(5), StreamingMoments(5), StreamingMoments(5)
    whole.update(data())
    left.update(data()[:20])
    right.update(data()[20:])
    left.merge(right)
    left.merge(StreamingMoments(5))
    empty = StreamingMoments(5)
    empty.merge(left)
    for result in (left, empty):
        torch.testing.assert_close(result.cov, whole.cov, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(result.mean, whole.mean, rtol=1e-12, atol=1e-14)
        assert result.count == whole.count


def test_state_survives_a_round_trip() -> None:
    moments, copy = StreamingMoments(5), StreamingMoments(5)
    moments.update(data()[:20])
    copy.load_state_dict(moments.state_dict())
    moments.update(data()[20:])
    copy.update(data()[20:])
    assert torch.equal(copy.cov, moments.cov) and copy.count == 57
    with pytest.raises(ValueError, match="5 dimensions"):
        StreamingMoments(4).load_state_dict(moments.state_dict())


def test_float32_input_is_accumulated_in_float64() -> None:
    moments = StreamingMoments(5)
    moments.update(data().float())
    expected = np.cov(data().float().double().numpy(), rowvar=False)
    np.testing.assert_allclose(moments.cov.numpy(), expected, rtol=0, atol=1e-14)


def test_channel_moments_flatten_every_other_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    latent = torch.randn(3, 4, 2, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = np.cov(latent.transpose(0, 1).flatten(1).numpy())
    np.testing.assert_allclose(channel_moments(latent).cov.numpy(), expected, atol=1e-13)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 10)  # forces chunks inside one sample
    np.testing.assert_allclose(channel_moments(latent).cov.numpy(), expected, atol=1e-13)


def test_mistakes_are_refused() -> None:
    moments = StreamingMoments(3)
    with pytest.raises(ValueError, match="no observations"):
        _ = moments.mean
    moments.update(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="at least 2"):
        _ = moments.cov
    with pytest.raises(ValueError, match="4 dimensions"):
        moments.update(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="n,D"):
        moments.update(torch.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        moments.update(torch.tensor([[0.0, float("inf"), 1.0]]))
    with pytest.raises(ValueError, match="merge"):
        moments.merge(StreamingMoments(2))
    assert moments.count == 1
