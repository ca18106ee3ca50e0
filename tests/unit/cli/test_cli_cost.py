"""``python -m ssvae cost``: what it prints and writes, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssvae.bench import cost as cost_module
from ssvae.cli import cost
from ssvae.cli.main import main

SMALL = ("stages.base=null", "stage=pretrain", "vae.base_channels=4")
PAPER = ("exp=paper_256p", "vae=tiny", "resolution=32", "score.block=[2,4,4]", "objective.critic.levels=2",
         "objective.critic.width=8")  # fmt: skip


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path / "root"))
    return tmp_path / "root"


def test_devices_are_those_that_are_known() -> None:
    assert set(cost.DEVICES) == cost_module.DEVICES.keys()


def test_paper_at_reduced_width_without_paths(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "cost.json"
    assert main(["cost", "--json", str(out), *PAPER]) == 0
    said, report = capsys.readouterr(), json.loads(out.read_text())
    assert said.err == ""
    pretrain, probe = report["stages"]
    assert (pretrain["stage"], probe["stage"]) == ("pretrain", "dit")
    assert pretrain["steps"] == 150_000 and pretrain["load"] == {
        "ranks": 32,
        "clips": 32,
        "images": 192,
        "share": 0.125,
    }
    shown = ("32 x 1", "150,000", "h100-hours", "pretrain", "dit", "encoder", "critic", "LPIPS 14,716,160", "DiT",
             "estimate", "data.path", "objective.lpips.vgg", "0.35", "989")  # fmt: skip
    assert [text for text in shown if text not in said.out] == []
    assert f"{pretrain['parameters']['encoder']:,}" in said.out
    assert not root.exists(), "nothing but the JSON file is written"


def test_grid_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cost.json"
    options = ["--device", "a100", "--ranks", "4", "--utilization", "0.5", "--tflops", "100", "--json", str(out)]
    assert main(["cost", *SMALL, "reg=none,lcr", "seed=0,1", "train.gradient_checkpointing=true", *options]) == 0
    said, report = capsys.readouterr().out, json.loads(out.read_text())
    assert report["cells"] == 4 and len(report["stages"]) == 4
    assert report["total"]["device_hours"] == pytest.approx(report["total"]["flops"] / (100e12 * 0.5 * 3600))
    assert "seed 1" in said and "4 x 2" in said and "a100-hours" in said and "100, given" in said
    star = [line for line in said.splitlines() if "*" in line]
    assert len(star) == 4 and all(line.index("*") > line.index("4 x 2") for line in star)


def test_transformer_with_texts_and_recomputing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cost.json"
    options = ["--device", "h100", "--ranks", "32", "--json", str(out)]
    overrides = ("stages.base=null", "vae.base_channels=4", "train.batch=32", "probe.condition=text",
                 "probe.dit.gradient_checkpointing=true")  # fmt: skip
    assert main(["cost", *options, *overrides]) == 0
    said, report = capsys.readouterr().out, json.loads(out.read_text())
    assert [(stage["stage"], stage["load"]["ranks"]) for stage in report["stages"]] == [("pretrain", 32), ("dit", 16)]
    dit = report["stages"][1]
    assert dit["checkpointing"] is True and dit["activations"] == dit["recomputed"] <= dit["kept"]
    shown = ("16 x 1", "counted on 16 devices", "width 4096", "probe.text.model")
    assert [text for text in shown if text not in said] == []


def test_published_vae(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "vae=ssvae48,wan22", "stage=evaluate"]) == 0
    said = capsys.readouterr().out
    assert "ssvae48" in said and "wan22" in said and "DiT 1,509,616" in said


def test_a_cpu_has_no_hours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", *SMALL]) == 0
    said = capsys.readouterr().out
    assert "cpu-hours" in said and "without hours" in said and "--tflops" in said and "1 x 8" in said


def test_problems_as_run_names_them(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cost.json"
    assert main(["cost", "exp=paper_256p", "train.stepss=3", "train.lr=-1", "--json", str(out)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "2 problems; nothing was run or written" in said.err
    assert "train.stepss" in said.err and "train.lr" in said.err and "data.path" not in said.err
    assert not out.exists() and not root.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ranks", "3"], "--ranks 3: does not divide"),
        (["--ranks", "0"], "--ranks 0"),
        (["--utilization", "2"], "--utilization 2"),
        (["--tflops", "-1"], "--tflops -1"),
    ],
)
def test_senseless_options(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", *SMALL, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cost: ") and said in error and error.count("\n") == 1


def test_a_folder_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--json", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
