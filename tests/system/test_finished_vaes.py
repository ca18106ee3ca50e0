"""VAEs that others trained, and files of ours, go through measuring and probing in one grid."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from published_vaes import save
from ssvae.cli.run import main
from tiny_runs import TINY_DATA, TINY_WORK, records

pytestmark = pytest.mark.system
OWN = ("vae.", "channels", "resolution", "stages.base")
WORK = [text for text in TINY_WORK if not text.startswith(OWN)]
SIZES = ("resolution=32", "score.block=[1,2,2]", "score.window=[1,2,2]", "probe.dit.patch=[1,1,1]")
GOLDEN = Path(__file__).parents[1] / "golden" / "official_tiny.ckpt"


def run(*overrides: str) -> int:
    return main([*TINY_DATA, *WORK, *SIZES, *overrides])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def table(root: Path) -> dict[str, dict[str, str]]:
    (path,) = (root / "results").glob("*/table.csv")
    return {row["vae"]: row for row in csv.DictReader(path.read_text().splitlines())}


def test_video_and_image_vaes_share_a_table(root: Path, tmp_path: Path) -> None:
    for name in ("wan21", "flux"):
        save(name, tmp_path / name)
    assert run("-m", f"vae={tmp_path / 'wan21'},{tmp_path / 'flux'}", "stage=evaluate") == 0
    rows = table(root)
    assert rows.keys() == {"wan21", "flux"}
    for row in rows.values():
        assert (row["reg"], row["channels"], row["status"]) == ("-", "4", "finished")
        assert float(row["psnr_db"]) > 0 and float(row["diffusion_loss"]) > 0 and float(row["probe_fd"]) > 0
    stages = {path.name.split("-")[0] for path in (root / "runs" / "stages").iterdir() if path.name[0] != "."}
    assert stages == {"measure", "dit", "probe"}, "nothing of a VAE is trained"
    # Frame by frame: as many latent frames as frames; the video VAE has (9 - 1)/4 + 1.
    shapes = set()
    for manifest in (root / "runs" / "latents").glob("*/heldout/latents.npy"):
        header = manifest.open("rb").read(128)
        shapes.add(header.split(b"'shape': (")[1].split(b")")[0].decode())
    assert {shape.split(", ")[2] for shape in shapes} == {"3", "9"}
    # Again: everything is found.
    assert run("-m", f"vae={tmp_path / 'wan21'},{tmp_path / 'flux'}", "stage=evaluate") == 0
    assert all(set(record["reused"]) == {"measure", "latents", "dit", "probe"} for record in records(root))


def test_an_official_file_and_its_mask_token(root: Path) -> None:
    sizes = ("resolution.height=64", "resolution.width=64", "data.synthetic.size=64")
    assert run(f"vae={GOLDEN}", "stage=measure", *sizes) == 0
    (folder,) = (root / "runs" / "stages").glob("measure-*")
    found = {row["name"]: row["value"] for row in json.loads((folder / "metrics.json").read_text())}
    assert "psnr_token_masked_0.5_db" in found
    rows = table(root)
    assert rows["official_tiny"]["channels"] == "48"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("vae=wan22", "stage=evaluate"), "wan22"),
        (("vae=nowhere/at/all", "stage=measure"), "no such file or folder"),
        (("vae=wan21", "stage=measure", "resolution.frames=8"), "1 + 4k frames"),
    ],
)
def test_what_cannot_be_had_or_does_not_fit_is_said_before_anything_runs(
    overrides: tuple[str, ...], said: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*overrides) == 2
    assert said in capsys.readouterr().err
    assert not list(root.iterdir()), "no data were rendered either"
