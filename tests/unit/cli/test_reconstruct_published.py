"""``reconstruct`` and ``export`` with VAEs of others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reconstruct_calls import FRAMES, HEIGHT, WIDTH, call, make_vae, record, write_clip
from torch import Tensor

from published_vaes import save
from ssvae import load_vae
from ssvae.cli.main import main
from ssvae.data.video_stream import open_clip
from ssvae.metrics.recon import psnr, psnr_frames
from ssvae.models.weights import save_vae
from ssvae.models.zoo_source import describe


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@torch.no_grad()
def directly(folder: Path, video: Tensor, frames: int, side: tuple[int, int]) -> Tensor:
    """Fill up to ``frames`` and ``side`` by hand, encode and decode at once, cut back, clamp."""
    vae = load_vae(folder)
    time = torch.arange(frames).clamp_max(video.shape[2] - 1)
    rows, columns = torch.arange(side[0]).clamp_max(HEIGHT - 1), torch.arange(side[1]).clamp_max(WIDTH - 1)
    decoded = vae.decode(vae.encode(video[:, :, time][..., rows, :][..., columns]).mean)
    return decoded[:, :, : video.shape[2], :HEIGHT, :WIDTH].clamp(-1, 1)


def whole(path: Path) -> Tensor:
    found = open_clip(path)
    return torch.cat(list(found.pieces(found.frames)), 2)


@pytest.mark.parametrize(
    ("name", "filled", "size", "missing"),
    [
        ("wan22", 13, (48, 48), {"frames": 2, "below": 14, "right": 2}),
        ("cogvideox", 17, (40, 48), {"frames": 6, "below": 6, "right": 2}),
        ("ltx", 17, (64, 64), {"frames": 6, "below": 30, "right": 18}),
    ],
)
def test_a_whole_clip(
    name: str, filled: int, size: tuple[int, int], missing: dict[str, int], clip: Path, tmp_path: Path
) -> None:
    folder, out = save(name, tmp_path / "theirs"), tmp_path / "out"
    assert call(clip, folder, out, "--chunk", "3") == 0
    found, video = record(out), whole(clip)
    recon = directly(folder, video, filled, size)
    assert found["psnr_db"] == pytest.approx(float(psnr(recon, video)), abs=1e-4)
    assert found["per_frame"]["psnr_frame_db"] == pytest.approx(psnr_frames(recon, video)[0].tolist(), abs=1e-4)
    assert found["padding"] == {**missing, "mode": "repeat the last"}
    assert found["windows"] == {"frames": filled, "count": 1, "independent": True}
    assert (found["chunks"], found["frames"]) == (None, FRAMES)
    assert found["vae_config"] == describe(folder).to_json()
    assert not any("windows" in note for note in found["notes"])
    assert sorted(path.name for path in out.iterdir()) == ["reconstruct.json", "reconstruction.mp4"]


def test_windows(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = save("wan22", tmp_path / "theirs"), tmp_path / "out"
    assert call(clip, folder, out, "--window", "5", "--side-by-side") == 0
    found, video = record(out), whole(clip)
    # 5 + 5 + 1: a first frame stands alone, so nothing is filled up in time.
    recon = torch.cat([directly(folder, part, part.shape[2], (48, 48)) for part in video.split(5, dim=2)], 2)
    assert found["psnr_db"] == pytest.approx(float(psnr(recon, video)), abs=1e-4)
    assert found["windows"] == {"frames": 5, "count": 3, "independent": True} and found["padding"]["frames"] == 0
    assert "computed in 3 windows of 5 frames, each without knowledge of the others" in capsys.readouterr().out
    assert call(clip, folder, tmp_path / "short", "--window", "5", "--frames", "7") == 0
    assert record(tmp_path / "short")["padding"]["frames"] == 3


def test_an_image_vae(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = save("flux", tmp_path / "theirs"), tmp_path / "out"
    assert call(clip, folder, out) == 0
    found, video = record(out), whole(clip)
    assert found["psnr_db"] == pytest.approx(float(psnr(directly(folder, video, FRAMES, (40, 48)), video)), abs=1e-4)
    assert found["windows"] == {"frames": 1, "count": FRAMES, "independent": True}
    assert found["padding"]["frames"] == 0
    assert "computed frame by frame" in capsys.readouterr().out


def test_half_precision_runs(clip: Path, tmp_path: Path) -> None:
    folder = save("wan22", tmp_path / "theirs")
    assert call(clip, folder, tmp_path / "out", "--frames", "5", "--dtype", "bfloat16") == 0
    assert record(tmp_path / "out")["dtype"] == "bfloat16"


MISTAKES = {
    "window": ("wan22", ["--window", "6"], "--window 6: AutoencoderKLWan takes 1 + 4k frames"),
    "no window": ("wan22", ["--window", "0"], "--window 0: must be at least 1"),
    "tiles": ("wan22", ["--tile", "32", "32"], "--tile: a published VAE takes whole frames"),
    "window of images": ("flux", ["--window", "5"], "--window 5: an image VAE takes each frame alone"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_options_without_use(case: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, words, said = MISTAKES[case]
    assert call(clip, save(name, tmp_path / "theirs"), tmp_path / "out", *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ours_stream_and_have_no_windows(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_vae(tmp_path / "ours", make_vae())
    assert call(clip, tmp_path / "ours", tmp_path / "out", "--window", "5") == 2
    assert "--window 5: this VAE streams" in capsys.readouterr().err
    assert call(clip, tmp_path / "ours", tmp_path / "out", "--frames", "2") == 0
    assert record(tmp_path / "out")["windows"] is None


def test_export_refuses_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("wan21", str(save("flux", tmp_path / "theirs"))):
        assert main(["export", "--vae", source, "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(f"export: {source}: a published VAE") and "neither trained nor exported" in said
    assert not (tmp_path / "out").exists()
