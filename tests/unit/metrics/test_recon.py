from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ssvae.metrics.interval import mean_interval
from ssvae.metrics.recon import (
    ReconstructionStatistics,
    clip_report,
    down_and_up,
    lpips_frames,
    mean_colour,
    psnr,
    psnr_frames,
    ssim,
    ssim_frames,
)
from ssvae.models.lpips import LPIPS


@pytest.fixture(scope="module")
def networks() -> dict[str, LPIPS]:
    torch.manual_seed(0)
    return {"vgg": LPIPS("vgg"), "alex": LPIPS("alex")}


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


def test_both_lpips_are_means_over_frames_and_then_clips(networks: dict[str, LPIPS]) -> None:
    recon, video = pair(3, 2, 32, 32)
    statistics = ReconstructionStatistics(4, lpips=networks)
    statistics.update(3 * recon, video)  # shown clamped
    values = {metric.name: metric for metric in statistics.compute()}
    for name, network in networks.items():
        frames = network((3 * recon).clamp(-1, 1), video).flatten(1).double()
        metric = values[f"lpips_{name}"]
        assert metric.value == pytest.approx(frames.mean().item(), rel=1e-5) and metric.value > 0
        assert (metric.n, metric.unit, metric.direction) == (3, "1", "down") and metric.ci95 is not None
        assert metric.protocol.startswith(f"lpips_{name}/1;") and metric.protocol.endswith("weights=random")
        torch.testing.assert_close(statistics.curves()[f"lpips_{name}_frame"], frames.mean(0), rtol=1e-5, atol=0)
    plain = ReconstructionStatistics(4)
    plain.update(3 * recon, video)
    # LPIPS changes nothing beside it
    assert plain.compute() == [values[metric.name] for metric in plain.compute()]
    with pytest.raises(ValueError, match="cannot merge LPIPS"):
        plain.merge(statistics)
    with pytest.raises(ValueError, match="of the variant 'vgg'"):
        ReconstructionStatistics(4, lpips={"alex": networks["vgg"]})


def test_lpips_does_not_depend_on_the_batch_or_the_pieces_of_a_clip(networks: dict[str, LPIPS]) -> None:
    recon, video = pair(2, 10, 32, 32)
    together = lpips_frames(networks["alex"], recon, video)
    alone = torch.cat([lpips_frames(networks["alex"], recon[i : i + 1], video[i : i + 1]) for i in range(2)])
    assert together.dtype == torch.float64 and torch.equal(together, alone)
    whole = networks["alex"](recon, video).flatten(1).double()
    torch.testing.assert_close(together, whole, rtol=1e-4, atol=0)


def test_frame_curves_have_the_interval_of_each_frame() -> None:
    recon, video = pair(4, 3, 16, 16)
    statistics = ReconstructionStatistics()
    statistics.update(recon, video)
    keys = ["a", "a", "b", "c"]
    frames = psnr_frames(recon, video)
    for frame in range(3):
        column = frames[:, frame]
        mean, interval = mean_interval(torch.stack([column[:2].mean(), column[2], column[3]]))
        found = statistics.frame_curves(keys)["psnr_frame_db"]
        assert found.low is not None and found.high is not None
        assert (found.mean[frame], (found.low[frame], found.high[frame])) == (mean, interval)
    plain = statistics.frame_curves()
    assert set(plain) == {"psnr_frame_db", "ssim_frame"}
    torch.testing.assert_close(plain["ssim_frame"].mean, statistics.curves()["ssim_frame"])
    single = ReconstructionStatistics()
    single.update(recon[:1], video[:1])
    assert single.frame_curves()["ssim_frame"].low is None


def test_rows_name_each_window_and_a_state_goes_on_elsewhere(networks: dict[str, LPIPS]) -> None:
    recon, video = pair(3, 1, 32, 32)
    chosen = {"alex": networks["alex"]}
    whole, first, second, collected = (ReconstructionStatistics(lpips=chosen) for _ in range(4))
    whole.update(recon, video)
    first.update(recon[:2], video[:2])
    second.update(recon[2:], video[2:])
    for part in (first, second, ReconstructionStatistics(lpips=chosen)):
        received = ReconstructionStatistics(lpips=chosen)
        received.load_state_dict(part.state_dict())
        collected.merge(received)
    assert collected.compute() == whole.compute()
    rows = whole.rows(["a", "a", "b"])
    assert [row["key"] for row in rows] == ["a", "a", "b"]
    assert set(rows[0]) == {"key", "psnr_db", "ssim", "lpips_alex"}
    assert [row["psnr_db"] for row in rows] == psnr(recon, video).tolist()
    with pytest.raises(ValueError, match="3 clips but 1 keys"):
        whole.rows(["a"])
