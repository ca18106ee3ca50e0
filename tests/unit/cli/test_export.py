"""``export``: both layouts hold the same model, statistics are those of the named data, bad input writes nothing."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ssvae import load_vae
from ssvae.cli.main import main
from ssvae.data.clips import read_clip
from ssvae.data.shards import index_shards
from ssvae.data.synthetic_shards import write_synthetic
from ssvae.models import weights
from ssvae.models.load import open_vae
from ssvae.models.statistics import LatentStatistics
from ssvae.models.vae import VideoVAE
from ssvae.models.weights import folder_statistics, save_vae

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "official_tiny.ckpt"
SIZES = ["--frames", "5", "--fps", "8", "--size", "16", "24"]
FILES = ["official.ckpt", "plain", "plain/config.json", "plain/latent_statistics.json", "plain/model.safetensors"]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


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
    model.set_latent_statistics(torch.randn(6), torch.rand(6) + 0.5)
    return model.eval()


@pytest.fixture
def folder(vae: VideoVAE, tmp_path: Path) -> Path:
    save_vae(tmp_path / "stage" / "vae", vae, LatentStatistics.unrecorded(vae))
    return tmp_path / "stage"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("data") / "clips", clips=3, size=32, frames=12, shard_size=3)


def export(vae: Path | str, out: Path, *more: str) -> int:
    return main(["export", "--vae", str(vae), "--out", str(out), *more])


def test_both_layouts_hold_the_model(vae: VideoVAE, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    assert export(folder, out) == 0
    assert names(out) == FILES
    video = torch.rand(1, 3, 5, 8, 8) * 2 - 1
    with torch.no_grad():
        mean = vae.encode(video).mean
        for place in (out / "official.ckpt", out / "plain"):
            loaded = load_vae(place)
            assert loaded.config == vae.config
            assert torch.equal(loaded.encode(video).mean, mean)
            assert torch.equal(loaded.decode(mean), vae.decode(mean))
        assert torch.equal(load_vae(out / "plain").normalize(mean), vae.normalize(mean))
    assert folder_statistics(out / "plain") == LatentStatistics.unrecorded(vae)


def test_statistics_are_those_of_the_named_data(vae: VideoVAE, folder: Path, data: Path, tmp_path: Path) -> None:
    assert export(folder, tmp_path / "out", "--data", str(data), *SIZES, "--clips", "6", "--batch", "4") == 0
    # Two windows a clip, at its beginning and at its end: 12 frames at 8 fps, windows of 5.
    samples = index_shards(data).samples
    windows = [
        read_clip(sample.read(), frames=5, fps=8.0, size=(16, 24), start=start / 8)
        for sample in samples
        for start in (0, 7)
    ]
    with torch.no_grad():
        positions = vae.encode(torch.stack(windows)).mean.double().movedim(1, 0).flatten(1)
    record = folder_statistics(tmp_path / "out" / "plain")
    assert record is not None
    assert record.mean == pytest.approx(positions.mean(1).tolist(), abs=1e-6)
    assert record.std == pytest.approx(positions.std(1).tolist(), abs=1e-6)
    assert (record.clips, record.positions, record.data) == (6, positions.shape[1], "clips")
    assert record.fingerprint == index_shards(data).fingerprint and record.split == "all clips of the data"
    assert (record.frames, record.height, record.width, record.fps) == (5, 16, 24, 8.0)
    assert load_vae(tmp_path / "out" / "plain").latent_std.tolist() == pytest.approx(record.std, rel=1e-6)
    assert load_vae(folder).latent_std.tolist() == vae.latent_std.tolist(), "the source stays as it was"


def test_official_to_official(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(GOLDEN, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "with mask_token; loss.* left out" in said and "never measured" in said
    source = torch.load(GOLDEN, weights_only=True)["state_dict"]
    written = torch.load(tmp_path / "out" / "official.ckpt", weights_only=True)["state_dict"]
    assert written.keys() == {name for name in source if not name.startswith("loss.")}
    assert all(torch.equal(written[name], source[name]) for name in written)
    assert export(tmp_path / "out" / "plain", tmp_path / "again") == 0
    assert "mask_token left out" in capsys.readouterr().out
    assert open_vae(tmp_path / "again" / "official.ckpt").mask_token is None


def test_an_older_export_is_replaced_and_nothing_else(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert export(folder, out) == 0
    (out / "official.ckpt").write_text("old")
    assert export(folder, out) == 0
    assert load_vae(out / "official.ckpt").channels == 6 and names(out) == FILES
    (out / "plain" / "notes.txt").write_text("mine")
    (out / "official.ckpt").write_text("old")
    assert export(folder, out) == 2
    assert "plain/notes.txt" in capsys.readouterr().err
    assert (out / "official.ckpt").read_text() == "old"
    assert export(folder, folder) == 2
    assert names(folder / "vae") == ["config.json", "latent_statistics.json", "model.safetensors"]
    (tmp_path / "file").write_text("")
    assert export(folder, tmp_path / "file") == 2
    assert "is a file" in capsys.readouterr().err


def test_a_failed_write_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    before = names(tmp_path)
    with pytest.raises(OSError, match="no space"):
        export(folder, tmp_path / "out")
    assert names(tmp_path) == before


class MakesFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def bad_file(kind: str, tmp_path: Path) -> Path:
    path = tmp_path / "bad.ckpt"
    state = torch.load(GOLDEN, weights_only=True)["state_dict"]
    if kind == "missing key":
        del state["decoder.out.2.conv.bias"]
    elif kind == "extra key":
        state["decoder.more"] = torch.zeros(1)
    elif kind == "wrong shape":
        state["decoder.out.2.conv.bias"] = torch.zeros(4)
    elif kind == "code among the tensors":
        state["decoder.out.2.conv.bias"] = MakesFile(tmp_path / "made")
    torch.save({"state_dict": state}, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:100_000])
    elif kind == "text":
        path.write_text("a few words\n")
    elif kind == "bare code":
        path.write_bytes(pickle.dumps(MakesFile(tmp_path / "made")))
    return path


BAD_FILES = {
    "missing key": "1 missing (decoder.out.2.conv.bias)",
    "extra key": "1 unknown (decoder.more)",
    "wrong shape": "decoder.out.2.conv.bias has shape (4,), expected (3,)",
    "code among the tensors": "decoder.out.2.conv.bias in state_dict is no tensor; the file names io.open",
    "truncated": "damaged or cut short",
    "text": "not a file that torch.save wrote",
    "bare code": "a bare pickle",
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_checkpoints_write_and_run_nothing(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = bad_file(kind, tmp_path)
    before = names(tmp_path)
    assert export(path, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert said.startswith("export: ") and said.count("\n") == 1 and BAD_FILES[kind] in said
    assert names(tmp_path) == before


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no data": (["--clips", "3"], "--clips: only says how --data is looked at"),
    "clips": (["--data", "DATA", "--clips", "0"], "--clips 0: must be at least 1"),
    "batch": (["--data", "DATA", "--batch", "0"], "--batch 0: must be at least 1"),
    "fps": (["--data", "DATA", "--fps", "0"], "--fps 0: must be above 0"),
    "frames": (["--data", "DATA", "--frames", "4"], "the nearest that fit are 3 and 5"),
    "size": (["--data", "DATA", "--frames", "5", "--size", "18", "24"], "the nearest that fit are 16 and 20"),
    "nowhere": (["--data", "nowhere"], "no such file or folder"),
    "too long": (["--data", "DATA", "--frames", "65", "--size", "16", "16"], "no clip of clips could be used"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_bad_options_write_nothing(
    name: str, folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, said = MISTAKES[name]
    before = names(tmp_path)
    assert export(folder, tmp_path / "out", *(str(data) if word == "DATA" else word for word in words)) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert names(tmp_path) == before


def test_the_code_in_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block that a trainer would copy, on an exported narrow model with the published compression."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "weights.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "export/plain" in block]
    monkeypatch.chdir(tmp_path)
    opened = open_vae(GOLDEN)
    LatentStatistics(mean=(0.25,) * 48, std=(2.0,) * 48, protocol="p", data="d").apply(opened.vae)
    save_vae(tmp_path / "source", opened.vae)
    assert export(tmp_path / "source", tmp_path / "export") == 0
    found: dict[str, Any] = {}
    exec(compile(block, "docs/weights.md", "exec"), found)
    with torch.no_grad():
        mean = opened.vae.encode(found["video"]).mean
        torch.testing.assert_close(found["latent"], (mean - 0.25) / 2)
        torch.testing.assert_close(found["latent"], found["vae"].normalize(mean))
        torch.testing.assert_close(found["reconstruction"], opened.vae.decode(mean).clamp(-1, 1))


def test_every_option_of_the_documented_commands_exists() -> None:
    from ssvae.cli.main import build_parser

    text = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python -m ssvae (.*)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert build_parser().parse_args(command.split()).verb == "export"
