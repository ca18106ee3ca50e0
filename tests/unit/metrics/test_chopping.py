"""Chopping curves with a decoder whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from ssvae.metrics.chopping import SERIES, ChoppingCurve
from ssvae.metrics.latent_values import CURVE_LABELS
from ssvae.stats.chop import chop_high_frequencies

BLOCK = (2, 4, 4)
FRACTIONS = (0.0, 0.25, 0.5, 1.0)


def clips(count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(count, 3, 5, 8, 8, generator=generator) * 2 - 1
    video[..., 1:] += video[..., :-1].clone()
    return video / 4


def identity(latent: torch.Tensor) -> torch.Tensor:
    return latent


def curve(decode: object = identity, fractions: tuple[float, ...] = FRACTIONS) -> ChoppingCurve:
    assert callable(decode)
    return ChoppingCurve(decode, BLOCK, BLOCK, fractions)


def test_with_an_exact_codec_latent_and_clip_lose_alike() -> None:
    video, made = clips(), curve()
    made.update(video.double(), video.double())
    values = {metric.name: metric for metric in made.compute()}
    assert list(values) == [f"psnr_chop_{of}_{percent}_db" for of in ("latent", "rgb") for percent in (25, 50, 100)]
    for fraction, percent in ((0.25, 25), (0.5, 50), (1.0, 100)):
        chopped = chop_high_frequencies(video.double(), BLOCK, fraction)
        error = ((chopped - video.double()) / 2).square().mean((1, 2, 3, 4))
        expected = float((-10 * error.log10()).mean())
        for of in ("latent", "rgb"):
            assert values[f"psnr_chop_{of}_{percent}_db"].value == pytest.approx(expected, abs=1e-9)
    assert values["psnr_chop_rgb_25_db"].protocol.endswith("of=rgb;block=2x4x4;fraction=0.25;removed=8")
    assert values["psnr_chop_latent_100_db"].value < values["psnr_chop_latent_25_db"].value
    assert values["psnr_chop_rgb_25_db"].n == 4 and values["psnr_chop_rgb_25_db"].ci95 is not None


def test_nothing_removed_is_exact_and_costs_no_decoding() -> None:
    calls: list[int] = []

    def half(latent: torch.Tensor) -> torch.Tensor:
        calls.append(len(latent))
        return latent / 2

    video, made = clips(), curve(half)
    made.update(video, video, video / 2)
    assert calls == [4, 4, 4]
    curves = made.curves()
    assert set(curves) == set(SERIES) <= set(CURVE_LABELS)
    for name, (x, y) in curves.items():
        assert x.tolist() == [0.0, 0.25, 0.5, 31 / 32], name
        assert y.tolist() == sorted(y.tolist(), reverse=True), name
    assert float(curves["psnr_chop_rgb"][1][0]) == float(curves["psnr_chop_latent_reconstruction"][1][0]) == 100.0
    lost = float((-10 * (video.double() / 4).square().mean((1, 2, 3, 4)).log10()).mean())
    assert float(curves["psnr_chop_latent"][1][0]) == pytest.approx(lost)


def test_against_the_reconstruction_the_codecs_own_error_is_gone() -> None:
    video, made = clips(), curve(lambda latent: latent + 0.3)
    made.update(video.double(), video.double())
    curves = made.curves()
    # The offset is a constant coefficient: chopping never touches it, so only the chopped part is left.
    torch.testing.assert_close(curves["psnr_chop_latent_reconstruction"][1][1:], curves["psnr_chop_rgb"][1][1:])
    assert (curves["psnr_chop_latent"][1] < curves["psnr_chop_rgb"][1] - 1).all()


def test_pictures_show_the_first_clips_middle_frame() -> None:
    video, made = clips(), curve(lambda latent: latent * 10)
    made.update(video[:2], video[:2])
    made.update(video[2:], video[2:])
    shown = made.pictures()
    assert shown.shape == (3, 16, 4 * 8) and shown.dtype == torch.float32
    assert torch.equal(shown[:, :8, :8], video[0, :, 2])
    assert torch.equal(shown[:, 8:, :8], (video[0, :, 2] * 10).clamp(-1, 1))
    half = chop_high_frequencies(video[:1], BLOCK, 0.5)[0, :, 2]
    torch.testing.assert_close(shown[:, :8, 16:24], half)
    torch.testing.assert_close(shown[:, 8:, 16:24], (half * 10).clamp(-1, 1), rtol=0, atol=1e-5)


def test_batches_merge_to_the_whole() -> None:
    video, whole = clips(), curve()
    whole.update(video, video)
    parts = [curve(), curve()]
    parts[0].update(video[:1], video[:1])
    parts[1].update(video[1:], video[1:])
    joined = curve()
    joined.join([part.state_dict() for part in parts])
    parts[0].merge(parts[1])
    keys = ["a", "a", "b", "c"]
    for made in (parts[0], joined):
        assert made.compute(keys) == whole.compute(keys)
        assert torch.equal(made.pictures(), whole.pictures())
    by_clip, by_window = whole.curves(keys), whole.curves()
    metric = whole.compute(keys)[0]
    assert metric.n == 3
    assert float(by_clip["psnr_chop_latent"][1][1]) == pytest.approx(metric.value, rel=1e-14)
    assert float(by_window["psnr_chop_latent"][1][1]) != pytest.approx(metric.value, rel=1e-9)


def test_bad_fractions_and_blocks_are_refused() -> None:
    for bad in ((), (0.5, 0.5), (0.5, 1.5), (math.nan,)):
        with pytest.raises(ValueError, match="fraction"):
            curve(fractions=bad)
    with pytest.raises(ValueError, match="h=4"):
        curve().update(clips()[..., :6, :], clips()[..., :6, :])
    with pytest.raises(ValueError, match="cannot merge"):
        curve().merge(curve(fractions=(0.5,)))
    with pytest.raises(ValueError, match="cannot merge"):
        curve().merge(ChoppingCurve(identity, BLOCK, (1, 4, 4), FRACTIONS))
    for method in (curve().compute, curve().curves, curve().pictures):
        with pytest.raises(ValueError, match="no clips"):
            method()
