"""Run it again: only what is missing runs, and the call says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ssvae.cli.run import main
from ssvae.core.files import read_json
from tiny_runs import artefacts, records, run_here

pytestmark = pytest.mark.system
STAGES = ("base", "pretrain", "measure", "latents", "dit", "probe")


def announced(text: str) -> list[dict[str, str]]:
    """The plan that a call printed: stage -> word, a dictionary a cell."""
    names = next(line for line in text.splitlines() if line.startswith("┃ cell"))
    stages = [word.strip() for word in names.strip("┃").split("┃")][1:]
    rows = [line for line in text.splitlines() if line.startswith("│")]
    return [dict(zip(stages, (w.strip() for w in row.strip("│").split("│")[1:]), strict=True)) for row in rows]


def run_and_read(capfd: pytest.CaptureFixture[str], *overrides: str) -> list[dict[str, str]]:
    assert run_here(*overrides) == 0
    return announced(capfd.readouterr().out)


def test_what_is_announced_is_what_happens(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One cell from nothing, again, after a DiT value, after a VAE value, after a tracking and a runtime value."""
    assert run_and_read(capfd) == [dict.fromkeys(STAGES, "compute")]
    first = artefacts(root)

    assert run_and_read(capfd) == [dict.fromkeys(STAGES, "reuse")]
    assert artefacts(root) == first
    assert {read_json(path)["attempts"] for path in root.glob("runs/*/*/run.json")} == {1}
    (record,) = records(root)
    assert record["reused"] == list(STAGES)

    assert run_and_read(capfd, "track.samples=2", "runtime.log_every=2", "runtime.workers=1") == [
        dict.fromkeys(STAGES, "reuse")
    ]
    assert artefacts(root) == first

    (plan,) = run_and_read(capfd, "probe.dit.depth=3")
    assert plan == {**dict.fromkeys(STAGES, "reuse"), "dit": "compute", "probe": "compute"}
    assert len(list(root.glob("runs/stages/probe-*"))) == 2
    assert len(list(root.glob("runs/latents/[!.]*"))) == 1

    (plan,) = run_and_read(capfd, "vae.initial_logvar=-5.3")
    assert plan == dict.fromkeys(STAGES, "compute")
    assert {name: artefacts(root)[name] for name in first} == first, "earlier results stay as they are"
    for stage in ("base", "pretrain", "measure"):
        assert len(list(root.glob(f"runs/stages/{stage}-*"))) == 2, stage


def test_a_grid_announces_what_cells_share(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    none, lcr = run_and_read(capfd, "-m", "reg=none,lcr", "stage=pretrain")
    assert none == {"base": "compute", "pretrain": "compute"}
    assert lcr == {"base": "share", "pretrain": "compute"}


def test_a_stage_alone_needs_what_comes_before_and_names_the_command(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_here("stage=measure") == 2
    shown = capfd.readouterr().err
    assert "Traceback" not in shown
    found = re.search(r"make it with: python run.py (.*)", shown)
    assert found is not None, shown
    assert not list(root.glob("runs/stages/*"))
    remedy = found.group(1).replace("'", "").split()
    assert "stage=pretrain" in remedy
    # Doing what it says helps. (The tiny settings come first and are part of the command it names.)
    assert main(remedy) == 0
    capfd.readouterr()
    assert run_and_read(capfd, "stage=measure") == [{"base": "reuse", "pretrain": "reuse", "measure": "compute"}]
    assert run_and_read(capfd, "stage=evaluate") == [
        {
            "base": "reuse",
            "pretrain": "reuse",
            "measure": "reuse",
            "latents": "compute",
            "dit": "compute",
            "probe": "compute",
        }
    ]
    assert run_and_read(capfd) == [dict.fromkeys(STAGES, "reuse")]


def test_without_data_the_missing_stage_is_said_without_rendering_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path))
    assert run_here("stage=probe") == 2
    assert "stage=pretrain" in capfd.readouterr().err
    assert not (tmp_path / "runs" / "data").exists()
