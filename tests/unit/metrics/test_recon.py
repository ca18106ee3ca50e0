from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ssvae.metrics.recon import (
    ReconstructionStatistics,
    clip_report,
    down_and_up,
    mean_colour,
    psnr,
    psnr_frames,
    ssim,
    ssim_frames,
)


def pair(batch: int = 3, frames: int = 4, height: int = 20, width: int = 26) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(batch, 3, frames, height, width, generator=generator) * 2 - 1
    noise = torch.randn(video.shape, generator=generator) * torch.linspace(0.1, 0.4, batch).view(-1, 1, 1, 1, 1)
    return (video + noise).clamp(-1, 1), video


def test_psnr_agrees_with_torchmetrics() -> None:
    recon, video = pair()
    values, frames = psnr(recon, video), psnr_frames(recon, video)
    for clip in range(3):
        expected = peak_signal_noise_ratio(recon[clip].double(), video[clip].double(), data_range=2.0)
        assert values[clip].item() == pytest.approx(expected.item(), abs=1e-5)
        for frame in range(4):
            a, b = recon[clip, :, frame].double(), video[clip, :, frame].double()
            expected = peak_signal_noise_ratio(a, b, data_range=2.0)
            assert frames[clip, frame].item() == pytest.approx(expected.item(), abs=1e-5)


def test_psnr_of_a_known_error() -> None:
    video = torch.zeros(1, 3, 2, 4, 4)
    assert psnr(video + 0.2, video).item() == pytest.approx(20.0, abs=1e-5)  # 0.1 on the [0,1] scale
    recon = video.clone()
    recon[:, :, 0] += 0.2
    # one error over the clip: half the squared error is 3.01 dB, not the mean of 20 dB and infinity
    assert psnr(recon, video).item() == pytest.approx(20 + 10 * math.log10(2), abs=1e-5)
    assert psnr_frames(recon, video)[0, 1].item() == math.inf


def test_ssim_agrees_with_torchmetrics() -> None:
    recon, video = pair()
    values, frames = ssim(recon, video), ssim_frames(recon, video)
    for clip in range(3):
        a = (recon[clip].double().transpose(0, 1) + 1) / 2
        b = (video[clip].double().transpose(0, 1) + 1) / 2
        # torchmetrics pads by reflection and averages the padded map too; the places where the window fits are ours
        _, image = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none", return_full_image=True)
        expected = image[..., 5:-5, 5:-5].mean((1, 2, 3))
        torch.testing.assert_close(frames[clip], expected, rtol=0, atol=1e-9)
        assert values[clip].item() == pytest.approx(expected.mean().item(), abs=1e-9)


def test_ssim_is_one_for_equal_clips_and_falls_with_noise() -> None:
    recon, video = pair()
    torch.testing.assert_close(ssim(video, video), torch.ones(3, dtype=torch.float64))
    values = ssim(recon, video)
    assert values[0] > values[1] > values[2]


def test_frames_smaller_than_the_window_are_refused() -> None:
    small = torch.zeros(1, 3, 1, 10, 32)
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(small, small)


def test_shapes_must_agree() -> None:
    recon, video = pair()
    for function in (psnr, psnr_frames, ssim):
        with pytest.raises(ValueError, match="one shape"):
            function(recon[:1], video)
    with pytest.raises(ValueError, match="B,3,T,H,W"):
        psnr(recon[0], video[0])


def test_mean_colour_minimises_the_error_over_constant_clips() -> None:
    _, video = pair()
    flat = mean_colour(video)
    variance = video.double().var((2, 3, 4), unbiased=False).mean(1) / 4
    torch.testing.assert_close(psnr(flat, video), -10 * torch.log10(variance), rtol=1e-6, atol=0)
    assert (psnr(flat + 0.02, video) < psnr(flat, video)).all()


def test_down_and_up_keeps_low_frequencies_and_loses_high_ones() -> None:
    x = torch.arange(64.0)
    smooth = torch.sin(2 * torch.pi * x / 64).expand(1, 3, 2, 32, 64)
    rough = torch.sin(torch.pi * x + 0.5).expand(1, 3, 2, 32, 64)
    assert psnr(down_and_up(smooth, 4), smooth).item() > 30
    assert down_and_up(rough, 4)[..., 8:-8].abs().max() < 0.05
    torch.testing.assert_close(down_and_up(smooth, 1), smooth)
    video = torch.rand(2, 3, 3, 8, 8)
    expected = torch.stack([down_and_up(video[:, :, t : t + 1], 2)[:, :, 0] for t in range(3)], dim=2)
    torch.testing.assert_close(down_and_up(video, 2), expected)
    with pytest.raises(ValueError, match="factor 3"):
        down_and_up(smooth, 3)


def test_report_clamps_what_a_display_clamps() -> None:
    video = torch.ones(1, 3, 1, 16, 16)
    video[..., 8:] = -1
    report = clip_report(video * 1.5, video)
    assert report["psnr_db"].item() == 100.0  # equal after clamping; capped, not infinite
    assert report["ssim"].item() == pytest.approx(1.0)
    assert report["psnr_frame_db"].shape == (1, 1)


def test_statistics_in_pieces_equal_the_whole() -> None:
    recon, video = pair(4, 3, 16, 16)
    whole, left, right = ReconstructionStatistics(), ReconstructionStatistics(), ReconstructionStatistics()
    whole.update(recon, video)
    left.update(recon[:1], video[:1])
    right.update(recon[1:], video[1:])
    left.merge(right)
    assert [metric.to_json() for metric in left.compute()] == [metric.to_json() for metric in whole.compute()]
    values = {metric.name: metric for metric in whole.compute()}
    assert values["psnr_db"].value == pytest.approx(psnr(recon, video).mean().item())
    assert values["psnr_frame_db"].value == pytest.approx(psnr_frames(recon, video).mean().item())
    assert values["ssim"].value == pytest.approx(ssim(recon, video).mean().item())
    assert values["psnr_db"].n == 4 and values["psnr_db"].ci95 is not None
    assert values["psnr_down4_db"].value == pytest.approx(psnr(down_and_up(video.double(), 4), video).mean().item())
    assert left.curves()["psnr_frame_db"].tolist() == pytest.approx(psnr_frames(recon, video).mean(0).tolist())
    with pytest.raises(ValueError, match="factor"):
        left.merge(ReconstructionStatistics(2))
    with pytest.raises(ValueError, match="no clips"):
        ReconstructionStatistics().compute()
