"""``reconstruct``: its pictures and numbers against direct computation, whatever the chunks."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from reconstruct_calls import FRAMES, HEIGHT, RATE, WIDTH, call, make_vae, record, write_clip
from torch import Tensor

from ssvae.data.panels import error_frames, to_frames
from ssvae.data.synthetic import render
from ssvae.data.video_stream import open_clip
from ssvae.metrics.recon import psnr, psnr_frames, ssim, ssim_frames
from ssvae.models.roundtrip import Padding
from ssvae.models.vae import VideoVAE
from ssvae.models.weights import save_vae


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    return make_vae()


@pytest.fixture(scope="module")
def vae_folder(vae: VideoVAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae") / "vae"
    save_vae(folder, vae)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def whole(path: Path) -> Tensor:
    """(1,3,T,H,W) of a file."""
    found = open_clip(path)
    return torch.cat(list(found.pieces(found.frames)), 2)


@torch.no_grad()
def directly(vae: VideoVAE, video: Tensor) -> Tensor:
    """Fill up by hand, encode and decode at once, cut back, clamp."""
    frames, height, width = video.shape[2:]
    padding = Padding.of(vae, frames, height, width)
    time = torch.arange(frames + padding.frames).clamp_max(frames - 1)
    rows = torch.arange(height + padding.below).clamp_max(height - 1)
    columns = torch.arange(width + padding.right).clamp_max(width - 1)
    filled = video[:, :, time][..., rows, :][..., columns]
    decoded = vae.decode(vae.encode(filled).mean)
    return decoded[:, :, :frames, :height, :width].clamp(-1, 1)


def test_numbers_and_pictures_equal_direct_computation(
    vae: VideoVAE, vae_folder: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert call(clip, vae_folder, out, "--chunk", "3", "--side-by-side", "--error-map") == 0
    video = whole(clip)
    recon = directly(vae, video)
    found = record(out)
    assert found["psnr_db"] == pytest.approx(float(psnr(recon, video)), abs=1e-4)
    assert found["ssim"] == pytest.approx(float(ssim(recon, video)), abs=1e-5)
    assert found["per_frame"]["psnr_frame_db"] == pytest.approx(psnr_frames(recon, video)[0].tolist(), abs=1e-4)
    assert found["per_frame"]["ssim_frame"] == pytest.approx(ssim_frames(recon, video)[0].tolist(), abs=1e-5)
    assert found["psnr_frame_db"] == pytest.approx(float(psnr_frames(recon, video).mean()), abs=1e-4)
    expected = {
        "reconstruction.mp4": to_frames(recon),
        "error_map.mp4": error_frames(recon, video),
        "side_by_side.mp4": torch.cat([to_frames(video), to_frames(recon), error_frames(recon, video)], 3),
    }
    assert sorted(path.name for path in out.iterdir()) == sorted([*expected, "reconstruct.json"])
    for name, frames in expected.items():
        written = open_clip(out / name)
        assert (written.fps, written.frames, written.constant) == (RATE, FRAMES, True)
        shown = to_frames(whole(out / name)).float()
        # H.264 has a quarter of the colours' pixels: brightness (BT.709) is compared.
        off = torch.einsum("tchw,c->thw", shown - frames, torch.tensor([0.2126, 0.7152, 0.0722]))
        assert off.abs().mean() < 0.08 * frames.float().std(), name
    said = capsys.readouterr().out
    assert "filled up to 13 frames of 36 x 48 by repeating the last frame, row, column;" in said
    assert f"PSNR {found['psnr_db']:.2f} dB" in said and "before H.264" in said


def test_the_record_says_what_was_done(vae: VideoVAE, vae_folder: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call(clip, vae_folder, out, "--chunk", "4") == 0
    found = record(out)
    expected = {
        "verb": "reconstruct",
        "kind": "video",
        "frames": FRAMES,
        "fps": "30000/1001",
        "constant_frame_rate": True,
        "size": [HEIGHT, WIDTH],
        "source_size": [HEIGHT, WIDTH],
        "rotation": 0,
        "padding": {"frames": 2, "below": 2, "right": 2, "mode": "repeat the last"},
        "chunks": {"frames": 4, "whole": 2, "last": 3},
        "tiles": None,
        "files": ["reconstruction.mp4"],
        "vae": str(vae_folder),
        "vae_config": vae.config.to_json(),
        "device": "cuda:0" if torch.cuda.is_available() else "cpu",
        "dtype": "float32",
    }
    assert {key: found[key] for key in expected} == expected
    assert "before H.264" in found["measured_on"]
    assert len(found["notes"]) == 1 and "13 frames of 36 x 48" in found["notes"][0]
    protocols = {metric["name"]: metric["protocol"] for metric in found["metrics"]}
    assert [protocols[name].split("/")[0] for name in ("psnr_db", "psnr_frame_db", "ssim")] == [
        "psnr_clip",
        "psnr_frame",
        "ssim_frame",
    ]
    assert found["encoding"]["size"] == [HEIGHT, WIDTH] and found["versions"]["torch"] and found["machine"]["cpu"]
    assert len(found["clip_sha256"]) == 64


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_chunks_change_nothing(vae_folder: Path, clip: Path, tmp_path: Path, dtype: str) -> None:
    curves = []
    for chunk in ("1", "5", "100"):
        out = tmp_path / chunk
        assert call(clip, vae_folder, out, "--chunk", chunk, "--dtype", dtype) == 0
        curves.append(record(out)["per_frame"])
    for other in curves[1:]:
        for name in ("psnr_frame_db", "ssim_frame"):
            assert other[name] == pytest.approx(curves[0][name], abs=1e-10 if dtype == "float64" else 1e-4)


def test_a_quarter_turned_clip_comes_out_upright(
    vae: VideoVAE, vae_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "phone.mp4", tmp_path / "out"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.set_display_rotation(-90)
        for picture in render(2, frames=3, size=64).frames[:, :32, :48]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    assert call(path, vae_folder, out) == 0
    found, video = record(out), whole(path)
    assert (found["size"], found["rotation"], found["fps"]) == ([48, 32], 270, "25/1")
    assert found["psnr_db"] == pytest.approx(float(psnr(directly(vae, video), video)), abs=1e-4)
    written = open_clip(out / "reconstruction.mp4")
    assert (written.height, written.width, written.rotation) == (48, 32, 0)
    assert "turned by 270 degrees" in capsys.readouterr().out


def test_size_frames_and_odd_sides(
    vae: VideoVAE, vae_folder: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call(clip, vae_folder, out, "--size", "17", "23", "--frames", "5") == 0
    found = record(out)
    video = torch.cat(list(open_clip(clip, limit=5).pieces(5, (17, 23))), 2)
    assert found["psnr_db"] == pytest.approx(float(psnr(directly(vae, video), video)), abs=1e-4)
    assert (found["size"], found["source_size"], found["frames"]) == ([17, 23], [HEIGHT, WIDTH], 5)
    assert found["padding"]["frames"] == 0 and found["encoding"]["size"] == [18, 24]
    said = capsys.readouterr().out
    assert "resized from 34 x 46 to cover 17 x 23" in said and "the mp4 is 18 x 24" in said


def test_an_image_becomes_a_png(vae: VideoVAE, vae_folder: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "image.jpg", tmp_path / "out"
    Image.fromarray(render(0, frames=1, size=64).frames[0][:31, :45]).save(path, quality=95)
    assert call(path, vae_folder, out, "--side-by-side") == 0
    video = whole(path)
    recon = directly(vae, video)
    found = record(out)
    assert (found["kind"], found["fps"], found["frames"], found["encoding"]) == ("image", None, 1, None)
    assert found["psnr_db"] == pytest.approx(float(psnr(recon, video)), abs=1e-4)
    assert sorted(path.name for path in out.iterdir()) == ["reconstruct.json", "reconstruction.png", "side_by_side.png"]
    shown = np.array(Image.open(out / "reconstruction.png")).astype(int)
    assert np.abs(shown - to_frames(recon)[0].permute(1, 2, 0).numpy()).max() <= 1
    assert Image.open(out / "side_by_side.png").size == (3 * 45, 31)


def test_pictures_below_the_window_have_no_ssim(vae_folder: Path, clip: Path, tmp_path: Path) -> None:
    assert call(clip, vae_folder, tmp_path / "out", "--size", "8", "8", "--frames", "2") == 0
    found = record(tmp_path / "out")
    assert found["ssim"] is None and "ssim_frame" not in found["per_frame"]
    assert any("no SSIM" in note for note in found["notes"])


def test_tiles(vae_folder: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"none": [], "one": ["--tile", "64", "64"], "some": ["--tile", "20", "24", "--overlap", "8"]}
    found = {}
    for name, words in places.items():
        assert call(clip, vae_folder, tmp_path / name, "--frames", "5", *words) == 0
        found[name] = record(tmp_path / name)
    assert found["one"]["per_frame"] == found["none"]["per_frame"]
    assert found["one"]["tiles"]["count"] == 1
    assert found["some"]["tiles"] == {
        "count": 9,
        "rows": [[0, 20], [8, 28], [16, 36]],
        "columns": [[0, 24], [12, 36], [24, 48]],
        "blend": "linear",
    }
    assert found["some"]["psnr_db"] != found["none"]["psnr_db"]
    assert found["some"]["psnr_db"] == pytest.approx(found["none"]["psnr_db"], abs=1.5)
    assert "tiles: an approximation" in capsys.readouterr().out


def test_half_precision_runs(vae_folder: Path, clip: Path, tmp_path: Path) -> None:
    assert call(clip, vae_folder, tmp_path / "a", "--frames", "3", "--dtype", "bfloat16") == 0
    assert call(clip, vae_folder, tmp_path / "b", "--frames", "3") == 0
    half, full = record(tmp_path / "a"), record(tmp_path / "b")
    assert (half["dtype"], half["psnr_db"]) == ("bfloat16", pytest.approx(full["psnr_db"], abs=0.3))


def test_an_older_result_is_replaced_as_a_whole(vae_folder: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call(clip, vae_folder, out, "--frames", "3", "--side-by-side") == 0
    assert call(clip, vae_folder, out, "--frames", "2") == 0
    assert sorted(path.name for path in out.iterdir()) == ["reconstruct.json", "reconstruction.mp4"]
    assert record(out)["frames"] == 2
