"""Publishing: what is refused, what is replaced, and what the manifest says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from ssvae.cli import publish
from ssvae.cli.main import main

FILES = {"table.csv", "table.md", "dct_spectrum.png", "explained_variance.png"}
PROVENANCE = {"commit": "abc", "dirty": False, "versions": {"torch": "2"}, "machine": {"system": "Linux"}}


def make_stage(root: Path, name: str, value: float, *, done: bool = True, **changes: Any) -> str:
    folder = root / "runs" / "stages" / name
    folder.mkdir(parents=True, exist_ok=True)
    stage, _, identity = name.partition("-")
    record = {
        "stage": stage,
        "id": identity,
        "seed": 3,
        "created_ms": 86_400_000,
        "parents": {"base": "b"},
        **PROVENANCE,
    }
    row = {"name": "psnr_db", "value": value, "unit": "dB", "direction": "up", "n": 4, "ci95": None, "protocol": "p/1"}
    (folder / "run.json").write_text(json.dumps({**record, **changes}))
    (folder / "metrics.json").write_text(json.dumps([row]))
    if done:
        (folder / "done.json").write_text('{"seconds": 2.5}')
    return f"runs/stages/{name}"


def make_cell(
    root: Path, cell_id: str, stages: dict[str, str], status: str = "finished", reason: str | None = None
) -> None:
    cells = root / "runs" / "sweeps" / "grid" / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    fields = {"reg": cell_id, "channels": 48, "resolution": "32", "seed": 0}
    record = {"cell_id": cell_id, "fields": fields, "overrides": [f"reg={cell_id}"], "stages": stages}
    more: dict[str, Any] = {"label": cell_id, "status": status, "reason": reason, "seconds": 1.0, "reused": []}
    (cells / f"{cell_id}.json").write_text(json.dumps({**record, **more}))
    (cells.parent / "sweep.json").write_text(json.dumps({"command": "python run.py -m reg=none,lcr", "notes": []}))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two finished cells; the second was made from a changed checkout and continues a base that is gone."""
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path))
    make_cell(tmp_path, "none", {"measure": make_stage(tmp_path, "measure-1", 20.0)})
    gone = "runs/stages/base-0"
    make_cell(tmp_path, "lcr", {"base": gone, "measure": make_stage(tmp_path, "measure-2", 21.0, dirty=True)})
    return tmp_path


def published(root: Path) -> Path:
    return root / "results" / "published" / "grid"


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_copies_the_report_with_a_manifest(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "grid"]) == 0
    target = published(root)
    assert {path.name for path in target.iterdir()} == {*FILES, "manifest.json"}
    for name in FILES:
        assert (target / name).read_bytes() == (root / "results" / "grid" / name).read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["grid"], "no left-over folders"
    assert "uncommitted changes" in capsys.readouterr().out


def test_manifest(root: Path) -> None:
    main(["publish", "grid"])
    manifest = json.loads((published(root) / "manifest.json").read_text())
    assert manifest["sweep"] == "grid" and manifest["partial"] is False
    assert manifest["command"] == "python run.py -m reg=none,lcr"
    assert manifest["date"][:2] == "20" and manifest["date"].endswith("+00:00")
    assert manifest["cells"]["lcr"]["stages"]["measure"] == "runs/stages/measure-2"
    assert manifest["stages"].keys() == {"runs/stages/measure-1", "runs/stages/measure-2"}
    first, second = manifest["stages"]["runs/stages/measure-1"], manifest["stages"]["runs/stages/measure-2"]
    assert first == {
        "stage": "measure",
        "id": "1",
        "seed": 3,
        "parents": {"base": "b"},
        "created": "1970-01-02T00:00:00+00:00",
        "seconds": 2.5,
        "made_by": 0,
    }
    assert manifest["made_by"][first["made_by"]] == PROVENANCE
    assert manifest["made_by"][second["made_by"]] == {**PROVENANCE, "dirty": True}
    by = manifest["published_by"]
    assert by["machine"]["cpu"] and by["versions"]["torch"] and {"commit", "dirty"} <= by.keys()
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((published(root) / name).read_bytes()).hexdigest() == digest
    assert manifest["files"].keys() == FILES


def test_stale_results_are_rebuilt_first(root: Path) -> None:
    stale = root / "results" / "grid"
    stale.mkdir(parents=True)
    (stale / "table.csv").write_text("old")
    assert main(["publish", "grid"]) == 0
    assert "21.0" in (published(root) / "table.csv").read_text()


def test_publishing_again_changes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["publish", "grid"])
    before = snapshot(published(root))
    assert main(["publish", "grid"]) == 0
    assert snapshot(published(root)) == before
    assert "nothing has changed" in capsys.readouterr().out


def test_other_content_needs_force(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["publish", "grid"])
    before = snapshot(published(root))
    make_stage(root, "measure-2", 25.0)
    assert main(["publish", "grid"]) == 2
    said = capsys.readouterr().err
    assert "--force" in said and "table.csv" in said and "table.md" in said
    assert snapshot(published(root)) == before
    (published(root) / "extra.txt").write_text("of somebody else")
    assert main(["publish", "grid", "--force"]) == 0
    assert "25.0" in (published(root) / "table.csv").read_text()
    assert {path.name for path in published(root).iterdir()} == {*FILES, "manifest.json"}
    assert [path.name for path in published(root).parent.iterdir()] == ["grid"]


@pytest.mark.parametrize("missing", [True, False])
def test_a_file_more_or_less_is_other_content(root: Path, missing: bool, capsys: pytest.CaptureFixture[str]) -> None:
    main(["publish", "grid"])
    path = published(root) / ("table.md" if missing else "note.txt")
    path.unlink() if missing else path.write_text("more")
    assert main(["publish", "grid"]) == 2
    assert path.name in capsys.readouterr().err


@pytest.mark.parametrize("status", ["failed", "killed", "running", "waiting"])
def test_unfinished_cells_need_partial(root: Path, status: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_cell(root, "lmr", {"measure": make_stage(root, "measure-3", 1.0, done=False)}, status, "it broke")
    assert main(["publish", "grid"]) == 2
    said = capsys.readouterr().err
    assert f"lmr {status}" in said and "1 of 3 cells" in said and "--partial" in said
    assert not published(root).exists() and not (root / "results").exists()
    assert main(["publish", "grid", "--partial"]) == 0
    manifest = json.loads((published(root) / "manifest.json").read_text())
    assert manifest["partial"] is True
    assert manifest["cells"]["lmr"]["status"] == status and "runs/stages/measure-3" not in manifest["stages"]


def test_a_finished_cell_without_its_stage_is_unfinished(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "runs" / "stages" / "measure-1" / "done.json").unlink()
    assert main(["publish", "grid"]) == 2
    assert "none lacks measure" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../grid", "published", "paper", "a/b", "."])
def test_only_plain_names(root: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", name]) == 2
    assert "no name of a sweep" in capsys.readouterr().err


def test_a_crash_leaves_what_was_published(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["publish", "grid"])
    before = snapshot(published(root))
    make_stage(root, "measure-2", 25.0)

    def full(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(publish.shutil, "copyfile", full)
    with pytest.raises(OSError, match="disk full"):
        main(["publish", "grid", "--force"])
    assert snapshot(published(root)) == before
    assert [path.name for path in published(root).parent.iterdir()] == ["grid"]
