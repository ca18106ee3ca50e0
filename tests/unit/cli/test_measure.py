"""``measure``: its numbers against direct computation on the same windows, and everything it refuses."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ssvae.cli.clip_folder import open_clips
from ssvae.cli.main import main
from ssvae.data.clips import read_clip
from ssvae.data.shards import index_shards
from ssvae.data.synthetic_shards import write_synthetic
from ssvae.metrics.recon import psnr, ssim
from ssvae.models.vae import VideoVAE
from ssvae.models.weights import save_vae
from ssvae.stats.channels import eigenspectrum, explained_variance
from ssvae.stats.spectrum import spatiotemporal_spectrum

CLIPS = 5
SIZES = ["--frames", "5", "--fps", "8", "--size", "16", "24"]


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    torch.manual_seed(0)
    model = VideoVAE(
        channels=6,
        base_channels=4,
        multipliers=[1, 2, 2],
        encoder_blocks=1,
        decoder_blocks=1,
        temporal_levels=[True, False],
    )
    return model.eval()


@pytest.fixture(scope="module")
def vae_folder(vae: VideoVAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae") / "vae"
    save_vae(folder, vae)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "clips"
    return write_synthetic(folder, clips=CLIPS, size=32, frames=12, shard_size=3)


@pytest.fixture(scope="module")
def plain_files(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same clips as loose video files, with a text file that is none."""
    folder = tmp_path_factory.mktemp("files")
    for tar in sorted(data.glob("*.tar")):
        with tarfile.open(tar) as archive:
            for member in archive.getmembers():
                if member.name.endswith(".mp4"):
                    (folder / member.name).write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
    (folder / "readme.txt").write_text("not a clip")
    return folder


def measured(out: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((out / "metrics.json").read_text())}


def test_equals_direct_computation(vae: VideoVAE, vae_folder: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert (
        main(["measure", "--vae", str(vae_folder), "--data", str(data), "--out", str(out), *SIZES, "--batch", "2"]) == 0
    )
    # 128 windows over 5 clips: 26 or 25 a clip, 8 different ones each (12 frames, windows of 5).
    samples = index_shards(data).samples
    windows = [
        read_clip(sample.read(), frames=5, fps=8.0, size=(16, 24), start=start / 8)
        for sample in samples
        for start in range(8)
    ]
    video = torch.stack(windows)
    with torch.no_grad():
        mean = vae.encode(video).mean
        decoded = vae.decode(mean).clamp(-1, 1)
    found = measured(out)
    assert found["psnr_db"]["n"] == CLIPS  # windows of one clip are averaged first
    assert found["psnr_db"]["value"] == pytest.approx(float(psnr(decoded, video).mean()), abs=1e-4)
    assert found["ssim"]["value"] == pytest.approx(float(ssim(decoded, video).mean()), abs=1e-5)
    spectrum = spatiotemporal_spectrum(mean.double())
    assert found["dct_dc_share"]["value"] == pytest.approx(spectrum.dc_share, abs=1e-6)
    assert found["dct_high_share"]["value"] == pytest.approx(spectrum.high_share, abs=1e-6)
    shares = explained_variance(eigenspectrum(mean))
    assert found["explained_variance_2"]["value"] == pytest.approx(float(shares[1]), abs=1e-6)
    curves = json.loads((out / "curves.json").read_text())
    assert curves["dct_spectrum"]["y"] == pytest.approx(spectrum.curve.tolist(), abs=1e-6)
    assert curves["explained_variance"]["y"] == pytest.approx(shares.tolist(), abs=1e-6)
    assert curves["eigenspectrum"]["y"] == pytest.approx(eigenspectrum(mean).tolist(), rel=1e-4)
    assert len(curves["psnr_frame_db"]["x"]) == 5
    assert all(len(curve["x"]) == len(curve["y"]) and curve["x_label"] for curve in curves.values())


def test_rows_are_complete_and_the_record_says_what_was_measured(vae_folder: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["measure", "--vae", str(vae_folder.parent), "--data", str(data), "--out", str(out), *SIZES, "--clips", "3"]
    assert main(words) == 0
    keys = {"name", "value", "unit", "direction", "n", "ci95", "protocol"}
    rows = measured(out)
    assert all(row.keys() == keys and row["n"] == 3 for row in rows.values())
    record = json.loads((out / "run.json").read_text())
    expected = {"frames": 5, "fps": 8.0, "size": [16, 24], "clips": 3, "rejected": {}, "split": "all clips of the data"}
    assert {key: record[key] for key in expected} == expected
    assert record["data_fingerprint"] == index_shards(data).fingerprint
    assert record["machine"]["cpu"] and record["versions"]["torch"]


def test_clips_that_were_enlarged_are_said_to_be(
    vae_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, size, enlarged in (("native", ["16", "24"], False), ("large", ["64", "64"], True)):
        out = tmp_path / name
        words = ["--vae", str(vae_folder), "--data", str(data), "--out", str(out), *SIZES[:-3], "--size", *size]
        assert main(["measure", *words, "--clips", "2"]) == 0
        assert json.loads((out / "run.json").read_text())["enlarged"] is enlarged
        assert ("were enlarged" in capsys.readouterr().out) is enlarged


def test_loose_files_measure_as_shards_do(vae_folder: Path, data: Path, plain_files: Path, tmp_path: Path) -> None:
    for name, place in (("a", data), ("b", plain_files)):
        words = ["--vae", str(vae_folder), "--data", str(place), "--out", str(tmp_path / name), *SIZES, "--clips", "5"]
        assert main(["measure", *words]) == 0
    assert (tmp_path / "a" / "metrics.json").read_text() == (tmp_path / "b" / "metrics.json").read_text()
    single = open_clips(str(next(plain_files.glob("*.mp4"))))
    assert len(single) == 1 and single.samples[0].read()[4:8] == b"ftyp"


def test_defaults_are_what_the_vae_was_trained_on(vae: VideoVAE, data: Path, tmp_path: Path) -> None:
    stage = tmp_path / "pretrain-1"
    save_vae(stage / "vae", vae)
    trained = {"height": 16, "width": 20, "frames": 3, "fps": 4.0}
    (stage / "config.yaml").write_text(yaml.safe_dump({"resolution": trained}))
    for place in (stage, stage / "vae"):
        out = tmp_path / "out"
        words = ["--vae", str(place), "--data", str(data), "--out", str(out), "--clips", "2", "--fps", "8"]
        assert main(["measure", *words]) == 0
        record = json.loads((out / "run.json").read_text())
        assert (record["frames"], record["fps"], record["size"]) == (3, 8.0, [16, 20])


def test_unusable_clips_are_left_out_counted_and_named(
    vae_folder: Path, plain_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mixed").mkdir()
    for path in list(plain_files.glob("*.mp4"))[:2]:
        (tmp_path / "mixed" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "mixed" / "broken.mp4").write_bytes(b"no video at all")
    words = ["--vae", str(vae_folder), "--data", str(tmp_path / "mixed"), "--out", str(tmp_path / "out"), *SIZES]
    assert main(["measure", *words, "--clips", "3"]) == 0
    assert measured(tmp_path / "out")["psnr_db"]["n"] == 2
    assert json.loads((tmp_path / "out" / "run.json").read_text())["rejected"] == {"not_video": 1}
    assert "broken.mp4" in capsys.readouterr().out


MISTAKES: dict[str, tuple[list[str], str]] = {
    "frames": (["--frames", "4"], "the nearest that fit are 3 and 5"),
    "size": (["--size", "18", "24"], "the nearest that fit are 16 and 20"),
    "ssim": (["--size", "8", "24"], "SSIM needs at least 11 pixels"),
    "no frames": (["--frames", "0"], "--frames 0: must be at least 1"),
    "fps": (["--fps", "0"], "--fps 0: must be above 0"),
    "clips": (["--clips", "0"], "--clips 0: must be at least 1"),
    "batch": (["--batch", "0"], "--batch 0: must be at least 1"),
    "vae": (["--vae", "nowhere"], "nowhere is no VAE folder"),
    "data": (["--data", "nowhere"], "no such file or folder"),
    "too long": (["--frames", "33"], "too_short 5"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_bad_input_writes_nothing(
    name: str, vae_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, word = MISTAKES[name]
    out = tmp_path / "out"
    assert main(["measure", "--vae", str(vae_folder), "--data", str(data), "--out", str(out), *SIZES, *more]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("measure: ") and word in said
    assert not out.exists()


def test_empty_and_image_folders_are_refused(
    vae_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_synthetic(tmp_path / "data", clips=1, images=2, size=16, frames=5) / "images"
    (tmp_path / "empty").mkdir()
    for place, word in ((images, "holds images but no clip"), (tmp_path / "empty", "holds no .tar shard")):
        words = ["--vae", str(vae_folder), "--data", str(place), "--out", str(tmp_path / "out"), *SIZES]
        assert main(["measure", *words]) == 2
        assert word in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_out_may_not_be_a_file_or_a_stage(
    vae_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, file = tmp_path / "measure-1", tmp_path / "file"
    stage.mkdir()
    (stage / "done.json").write_text("{}")
    file.write_text("")
    for out, word in ((stage, "run folder of a stage"), (file, "is a file")):
        words = ["--vae", str(vae_folder), "--data", str(data), "--out", str(out), *SIZES]
        assert main(["measure", *words]) == 2
        assert word in capsys.readouterr().err
    assert [path.name for path in stage.iterdir()] == ["done.json"]
