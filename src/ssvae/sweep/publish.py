"""From run folders to ``results/<sweep>/`` and the terminal; rebuildable at any time from the folders alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from rich.console import Console

from ssvae.core.files import read_json, write_json
from ssvae.report.collect import cell_paths, collect, read_cell
from ssvae.report.pareto import read_search, search_file
from ssvae.report.table import TableNotes
from ssvae.report.terminal import reasons, terminal_table
from ssvae.sweep.record import CellRecord


@dataclass
class SweepRecord:
    """What a sweep is, for rebuilding its report: the last command, what its table has to say, which cells it has."""

    command: str
    notes: list[str] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)

    def save(self, root: Path, sweep: str) -> None:
        write_json(
            root / "runs" / "sweeps" / sweep / "sweep.json",
            {"command": self.command, "notes": self.notes, "cells": self.cells},
        )

    @classmethod
    def load(cls, root: Path, sweep: str) -> SweepRecord:
        """Raises ValueError for a sweep that was never run here."""
        path = root / "runs" / "sweeps" / sweep / "sweep.json"
        if not path.exists():
            known = sorted(entry.name for entry in (root / "runs" / "sweeps").glob("*") if entry.is_dir())
            raise ValueError(
                f"no sweep {sweep!r} under {root / 'runs' / 'sweeps'}; there are: {', '.join(known) or 'none'}"
            )
        return cls(**read_json(path))


def report(root: Path, sweep: str, console: Console) -> Path:
    """Write table and figures of what is there, show the table; returns the folder."""
    # Late, here and below: matplotlib takes a second to import and writes its font cache.
    from ssvae.report.write import write_report

    record = SweepRecord.load(root, sweep)
    rows = collect(root, sweep)
    folder = root / "results" / sweep
    write_report(rows, folder, TableNotes(sweep, record.command, footnotes=(*record.notes, *_times(root, sweep))))
    if search_file(root, sweep).exists():
        from ssvae.report.pareto_write import write_search

        write_search(read_search(root, sweep), rows, folder)
    console.print(terminal_table(rows, sweep))
    for line in reasons(rows):
        console.print(line, markup=False, soft_wrap=True)
    return folder


def cell_figures(root: Path, sweep: str, record: CellRecord) -> Path | None:
    """Draw a cell's own figures; returns the folder around ``figures/``, or None where there is nothing to draw."""
    folder = root / "runs" / "sweeps" / sweep / "cells" / record.cell_id
    paths = [folder / "figures" / name for name in ("dct_spectrum.png", "explained_variance.png", "latents.png")]
    # A cell's identity holds its measurements: figures that are there are these.
    if all(path.exists() for path in paths):
        return folder
    from ssvae.report.figures import dct_spectrum_figure, explained_variance_figure, save_figure
    from ssvae.report.latents_figure import latents_figure
    from ssvae.report.measured_pictures import read_pictures

    row = read_cell(root, record.path)
    measured = root / record.stages["measure"] if "measure" in record.stages else None
    if not row.curves or measured is None or not (measured / "curves.json").exists():
        return None
    save_figure(dct_spectrum_figure([row], sweep), paths[0])
    save_figure(explained_variance_figure([row], sweep), paths[1])
    curves = read_json(measured / "curves.json")
    save_figure(latents_figure(curves, read_pictures(measured), f"Latents of {row.label}, sweep {sweep}"), paths[2])
    return folder


def _times(root: Path, sweep: str) -> list[str]:
    """Stage seconds over the sweep, each shared stage once; equal for a call that reuses everything."""
    spent: dict[str, float] = {}
    folders = set()
    for path in cell_paths(root, sweep):
        folders |= {(name, where) for name, where in read_json(path)["stages"].items()}
    for name, where in sorted(folders):
        done = root / where / "done.json"
        if done.exists():
            spent[name] = spent.get(name, 0.0) + float(read_json(done)["seconds"])
    if not spent:
        return []
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in spent.items())
    return [f"compute time over all cells: {sum(spent.values()):.0f} s ({parts})"]


def experiment_notes(records: Sequence[CellRecord], configs: Sequence[Path]) -> list[str]:
    """What the table's reader must know: strengths, missing LPIPS, the split, the data."""
    notes: list[str] = []
    for path in configs:
        cfg = yaml.safe_load(path.read_text(encoding="utf-8"))
        trained = cfg["vae"]["weights"] is None
        candidates = [cfg["strength"]["note"]] if trained else []
        if trained and cfg["objective"]["lpips"]["vgg"] is None:
            candidates.append(
                "LPIPS is off: objective.lpips.vgg names no VGG16 weight file; reconstruction is trained on L1 alone"
            )
        if cfg["data"]["kind"] != "synthetic":
            candidates.append("probe_fd and probe_reward are not calibrated on these clips")
        notes += [note for note in candidates if note and note not in notes]
    return notes
