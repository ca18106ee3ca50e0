"""Numbers that come frame by frame are those of the whole clip."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssvae.metrics.recon import clip_report, psnr, ssim
from ssvae.metrics.recon_stream import ClipQuality


def pair(frames: int = 7, size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(1, 3, frames, size, size + 4, generator=generator) * 2 - 1
    # Frames of very different quality: the mean of decibels and the decibels of the mean are far apart.
    noise = torch.linspace(0.01, 0.8, frames).view(-1, 1, 1)
    return video + noise * torch.randn(video.shape, generator=generator), video


@pytest.mark.parametrize("plan", [[7], [1] * 7, [3, 4], [2, 5]])
def test_pieces_give_the_numbers_of_the_whole_clip(plan: list[int]) -> None:
    recon, video = pair()
    quality = ClipQuality()
    for shown, truth in zip(recon.split(plan, dim=2), video.split(plan, dim=2), strict=True):
        quality.update(shown, truth)
    found = {metric.name: metric for metric in quality.compute()}
    clamped = recon.clamp(-1, 1)
    assert found["psnr_db"].value == pytest.approx(float(psnr(clamped, video)), abs=1e-10)
    assert found["ssim"].value == pytest.approx(float(ssim(clamped, video)), abs=1e-12)
    report = clip_report(recon, video)
    assert found["psnr_frame_db"].value == pytest.approx(float(report["psnr_frame_db"].mean()), abs=1e-10)
    assert found["psnr_frame_db"].value > found["psnr_db"].value + 1
    curves = quality.curves()
    assert curves["psnr_frame_db"] == pytest.approx(report["psnr_frame_db"][0].tolist(), abs=1e-12)
    assert curves["ssim_frame"] == pytest.approx(report["ssim_frame"][0].tolist(), abs=1e-12)
    assert quality.frames == 7
    assert {metric.protocol.split("/")[0] for metric in found.values()} == {"psnr_clip", "psnr_frame", "ssim_frame"}


def test_exact_frames_are_capped_each_and_together() -> None:
    _, video = pair(3)
    quality = ClipQuality()
    quality.update(video, video)
    assert quality.curves()["psnr_frame_db"] == [100.0] * 3
    assert [metric.value for metric in quality.compute()] == pytest.approx([100.0, 100.0, 1.0])
    # An exact frame counts as no error in the clip's one error, not as 100 dB.
    quality.update(video[:, :, :1] + 0.2, (video[:, :, :1]).clamp(-0.8, 0.8))
    worse = torch.cat([video, video[:, :, :1] + 0.2], 2).clamp(-1, 1)
    truth = torch.cat([video, video[:, :, :1].clamp(-0.8, 0.8)], 2)
    assert quality.compute()[0].value == pytest.approx(float(psnr(worse, truth)), abs=1e-10)


def test_frames_below_the_window_have_no_ssim() -> None:
    recon, video = pair(2, size=10)
    quality = ClipQuality()
    quality.update(recon, video)
    assert {metric.name for metric in quality.compute()} == {"psnr_db", "psnr_frame_db"}
    assert set(quality.curves()) == {"psnr_frame_db"}


def test_half_precision_is_measured_against_the_full_video() -> None:
    _, video = pair(2)
    quality = ClipQuality()
    quality.update(video.to(torch.bfloat16), video)
    expected = float(psnr(video.to(torch.bfloat16).double(), video))
    assert quality.compute()[0].value == pytest.approx(expected, abs=1e-10) and expected < 70


def test_nothing_yet_is_an_error_and_shapes_must_agree() -> None:
    quality = ClipQuality()
    with pytest.raises(ValueError, match="no frames yet"):
        quality.compute()
    recon, video = pair(2)
    with pytest.raises(ValueError, match="one shape"):
        quality.update(recon[..., :-1], video)
    with pytest.raises(ValueError):
        quality.update(recon[:, :, :1], video)
