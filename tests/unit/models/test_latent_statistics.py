"""Latent statistics: streamed numbers against direct ones, a record that is checked wherever it meets the weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ssvae.models.statistics import (
    FORMAT,
    PROTOCOL,
    RELEASED_48,
    LatentStatistics,
    measure_statistics,
    read_statistics,
    write_statistics,
)
from ssvae.models.vae import VideoVAE

SAID: dict[str, Any] = {"fps": 8.0, "data": "clips", "fingerprint": "f" * 8, "split": "all clips of the data"}


@pytest.fixture
def vae() -> VideoVAE:
    torch.manual_seed(0)
    return VideoVAE(
        channels=3,
        base_channels=4,
        multipliers=(1, 2),
        encoder_blocks=1,
        decoder_blocks=1,
        temporal_levels=(True,),
    ).eval()


def test_streamed_statistics_equal_direct_ones(vae: VideoVAE) -> None:
    video = torch.rand(7, 3, 5, 8, 12) * 2 - 1
    told: list[int] = []
    found = measure_statistics(vae, video.split([4, 2, 1]), advance=told.append, **SAID)
    with torch.no_grad():
        latents = torch.cat([vae.encode(part).mean for part in video.split([4, 2, 1])]).double()
    positions = latents.movedim(1, 0).flatten(1)
    assert found.mean == pytest.approx(positions.mean(1).tolist(), rel=1e-12)
    assert found.std == pytest.approx(positions.std(1, unbiased=True).tolist(), rel=1e-12)
    assert (found.clips, found.positions) == (7, 7 * 3 * 4 * 6)
    assert (found.frames, found.height, found.width, found.fps) == (5, 8, 12, 8.0)
    assert (found.data, found.fingerprint, found.protocol) == ("clips", "f" * 8, PROTOCOL)
    assert told == [4, 6, 7]


def test_normalised_latents_have_mean_0_and_std_1(vae: VideoVAE) -> None:
    video = torch.rand(4, 3, 3, 8, 8) * 2 - 1
    measure_statistics(vae, [video], **SAID).apply(vae)
    with torch.no_grad():
        z = vae.normalize(vae.encode(video).mean).double().movedim(1, 0).flatten(1)
    torch.testing.assert_close(z.mean(1), torch.zeros(3, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(1), torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)


def test_what_no_statistics_exist_of(vae: VideoVAE) -> None:
    with pytest.raises(ValueError, match="no clip of clips"):
        measure_statistics(vae, [], **SAID)
    with torch.no_grad():
        vae.encoder.conv_out.weight[1].zero_()
    with pytest.raises(ValueError, match=r"channels \[1\] are constant on clips"):
        measure_statistics(vae, [torch.rand(2, 3, 3, 8, 8)], **SAID)


def test_published_constants() -> None:
    """Against what is known of them: range of the stds and the sum of their squares."""
    preset = read_statistics(RELEASED_48)
    assert len(preset.mean) == len(preset.std) == 48
    assert min(preset.std) == pytest.approx(0.644, abs=1e-3) and max(preset.std) == pytest.approx(2.016, abs=1e-3)
    assert math.fsum(std**2 for std in preset.std) == pytest.approx(69.36, abs=5e-3)
    assert preset.mean[:3] == (-0.1962890625, 0.52734375, -1.3984375)
    assert "zai-org/SSVAE" in preset.data and preset.clips is None


def test_file_round_trip(tmp_path: Path, vae: VideoVAE) -> None:
    measured = measure_statistics(vae, [torch.rand(2, 3, 3, 8, 8)], **SAID)
    for number, record in enumerate((measured, LatentStatistics.unrecorded(vae))):
        write_statistics(tmp_path / f"{number}.json", record)
        assert read_statistics(tmp_path / f"{number}.json") == record
    assert LatentStatistics.unrecorded(vae).is_identity and not measured.is_identity


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format": "other/1"}, FORMAT),
        ({"extra": 1}, "extra"),
        ({"mean": 3}, "mean must be a list"),
        ({"mean": []}, "mean must be finite numbers"),
        ({"mean": [0.0]}, "1 means need as many stds"),
        ({"mean": [0.0, "1"]}, "mean must be finite numbers"),
        ({"std": [1.0, 0.0]}, "each above 0"),
        ({"std": [1.0, float("nan")]}, "std must be finite numbers"),
        ({"clips": 0}, "clips must be a count"),
        ({"positions": 2.5}, "positions must be a count"),
        ({"fps": -1.0}, "fps must be above 0"),
        ({"data": None}, "data must be text"),
        ({"split": 3}, "split must be text"),
    ],
)
def test_files_that_are_no_record(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    good = LatentStatistics(mean=(0.0, 1.0), std=(1.0, 2.0), protocol="p", data="d").to_json()
    path = tmp_path / "latent_statistics.json"
    path.write_text(json.dumps({**good, **change}))
    with pytest.raises(ValueError, match=word) as error:
        read_statistics(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
def test_files_that_are_no_json_object(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json"):
        read_statistics(tmp_path / "x.json")


def test_record_and_weights_must_agree(vae: VideoVAE) -> None:
    record = LatentStatistics(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), protocol="p", data="d")
    with pytest.raises(ValueError, match="recorded latent mean is not what the weights hold"):
        record.check(vae)
    record.apply(vae)
    record.check(vae)
    vae.latent_std[2] = 3.001
    with pytest.raises(ValueError, match="recorded latent std"):
        record.check(vae)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        LatentStatistics(mean=(0.1,), std=(1.0,), protocol="p", data="d").apply(vae)
