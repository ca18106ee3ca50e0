"""Copy results/SWEEP into results/published/SWEEP, which is committed, with a manifest of what made it.

The report is rebuilt from the run folders first, so table, figures and manifest speak of the same stages. A sweep with
cells that are not finished needs --partial; published files that would change need --force.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HELP = "copy table and figures of a sweep into the committed results/published"
MANIFEST = "manifest.json"
FORMAT = "ssvae-published/1"
_RESERVED = ("published", "paper")
_PROVENANCE = ("commit", "dirty", "versions", "machine")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="name of a folder under runs/sweeps")
    parser.add_argument("--partial", action="store_true", help="publish although cells are failed or unfinished")
    parser.add_argument("--force", action="store_true", help="replace what was published under this name")


def run(args: argparse.Namespace) -> int:
    """Raises ValueError for an unknown or unfinished sweep, and for published files that would change."""
    from ssvae.core.paths import project_root

    root = project_root()
    cells = _cells(root, args.sweep)
    unfinished = _unfinished(root, cells)
    if unfinished and not args.partial:
        raise ValueError(
            f"sweep '{args.sweep}': {len(unfinished)} of {len(cells)} cells are not finished "
            f"({'; '.join(unfinished[:3])}{'; ...' if len(unfinished) > 3 else ''}): run its command again, or publish "
            "what is there with --partial"
        )
    from ssvae.sweep import publish
    from ssvae.sweep.console import make_console

    console = make_console()
    folder = publish.report(root, args.sweep, console)
    target = root / "results" / "published" / args.sweep
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if _is_result(path)}
    differing = _differing(files, target)
    if target.exists() and not differing:
        console.print(f"already published, nothing has changed: {target}", markup=False, soft_wrap=True)
        return 0
    if target.exists() and not args.force:
        raise ValueError(f"{target} holds other content ({', '.join(differing)}): replace it with --force")
    manifest = build_manifest(root, args.sweep, cells, sorted(files), partial=bool(unfinished))
    _place(files, manifest, target)
    if any(made["dirty"] for made in manifest["made_by"]):
        console.print("[yellow]note: the code had uncommitted changes when stages were made; the manifest says so[/]")
    console.print(f"published: {target}", markup=False, soft_wrap=True)
    return 0


def build_manifest(
    root: Path, sweep: str, cells: list[dict[str, Any]], files: list[str], *, partial: bool
) -> dict[str, Any]:
    """Everything needed to trust and repeat the published table; no host names.

    stages: folder -> id, seed, parents, seconds, and which entry of ``made_by`` (commit, dirty, versions, machine as
    the stage recorded them) made it. published_by: the same of this call, with the hardware by product name.
    """
    from ssvae.bench.machine import hardware, versions
    from ssvae.core.files import read_json
    from ssvae.core.identity import file_sha256, git_state
    from ssvae.core.paths import PROJECT
    from ssvae.sweep.publish import SweepRecord

    made_by: list[dict[str, Any]] = []
    stages: dict[str, dict[str, Any]] = {}
    for where in sorted({where for cell in cells for where in cell["stages"].values()}):
        folder = root / where
        if not (folder / "done.json").exists():
            continue
        record = read_json(folder / "run.json")
        made = {key: record.get(key) for key in _PROVENANCE}
        if made not in made_by:
            made_by.append(made)
        stages[where] = {
            "stage": record["stage"],
            "id": record["id"],
            "seed": record["seed"],
            "parents": record["parents"],
            "created": _iso(record["created_ms"] / 1000),
            "seconds": read_json(folder / "done.json")["seconds"],
            "made_by": made_by.index(made),
        }
    return {
        "format": FORMAT,
        "sweep": sweep,
        "command": SweepRecord.load(root, sweep).command,
        "date": _iso(datetime.now(UTC).timestamp()),
        "partial": partial,
        "cells": {
            cell["cell_id"]: {key: cell[key] for key in ("fields", "overrides", "status", "reason", "stages")}
            for cell in cells
        },
        "stages": stages,
        "made_by": made_by,
        "published_by": {**git_state(PROJECT), "versions": versions(), "machine": hardware()},
        "files": {name: file_sha256(root / "results" / sweep / name) for name in files},
    }


def _cells(root: Path, sweep: str) -> list[dict[str, Any]]:
    from ssvae.core.files import read_json
    from ssvae.report.collect import cell_paths

    if Path(sweep).name != sweep or sweep in _RESERVED:
        raise ValueError(f"sweep '{sweep}' is no name of a sweep: give the name of a folder under runs/sweeps")
    return [read_json(path) for path in cell_paths(root, sweep)]


def _unfinished(root: Path, cells: list[dict[str, Any]]) -> list[str]:
    found = []
    for cell in cells:
        # The base has done its work once what continues it is finished.
        needed = {stage: where for stage, where in cell["stages"].items() if stage != "base"}
        missing = [stage for stage, where in needed.items() if not (root / where / "done.json").exists()]
        if cell["status"] != "finished":
            found.append(f"{cell['cell_id']} {cell['status']}")
        elif missing:
            found.append(f"{cell['cell_id']} lacks {', '.join(missing)}")
    return found


def _is_result(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name != MANIFEST


def _differing(files: Mapping[str, Path], target: Path) -> list[str]:
    """Names that are new, gone or changed in ``target``, which need not exist."""
    there = {str(path.relative_to(target)): path for path in target.rglob("*") if _is_result(path)}
    both = files.keys() & there.keys()
    changed = {name for name in both if files[name].read_bytes() != there[name].read_bytes()}
    return sorted((files.keys() ^ there.keys()) | changed)


def _place(files: Mapping[str, Path], manifest: dict[str, Any], target: Path) -> None:
    """Build the folder beside its place and rename it there, so that no half of it is ever seen."""
    from ssvae.core.files import write_json
    from ssvae.core.folders import whole_folder

    with whole_folder(target) as content:
        for name, path in files.items():
            (content / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, content / name)
        write_json(content / MANIFEST, manifest)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
