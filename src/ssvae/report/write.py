"""Everything a sweep leaves in ``results/<sweep>/``, from its run folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssvae.core.files import write_text
from ssvae.report.collect import CellRow
from ssvae.report.convergence import convergence
from ssvae.report.convergence_figure import convergence_figure
from ssvae.report.convergence_text import convergence_csv, convergence_markdown
from ssvae.report.figures import (
    SPECTRUM_DEFINITION,
    VARIANCE_DEFINITION,
    dct_spectrum_figure,
    explained_variance_figure,
    save_figure,
)
from ssvae.report.table import TableNotes, table_csv, table_markdown

CONVERGENCE = ("convergence.csv", "convergence.md", "convergence.png")
"""Files about scores at checkpoints."""


def write_report(rows: Sequence[CellRow], folder: Path, notes: TableNotes) -> list[Path]:
    """Write table.csv, table.md, dct_spectrum.png and explained_variance.png; returns the paths of all it wrote.

    Where cells have scores at checkpoints, :func:`write_convergence` adds its files. Equal rows and notes give equal
    bytes. Raises ValueError on mixed protocols, before anything is written.
    """
    convergence(rows)  # its complaints come before the first file
    csv_text, markdown = table_csv(rows), table_markdown(rows, notes)
    paths = [folder / name for name in ("table.csv", "table.md", "dct_spectrum.png", "explained_variance.png")]
    write_text(paths[0], csv_text)
    write_text(paths[1], markdown)
    spectrum = _stamped(SPECTRUM_DEFINITION, rows, "dct_high_share")
    variance = _stamped(VARIANCE_DEFINITION, rows, "explained_variance_8")
    save_figure(dct_spectrum_figure(rows, notes.sweep, spectrum), paths[2])
    save_figure(explained_variance_figure(rows, notes.sweep, variance), paths[3])
    return [*paths, *write_convergence(rows, folder, notes)]


def write_convergence(rows: Sequence[CellRow], folder: Path, notes: TableNotes, baseline: str = "none") -> list[Path]:
    """Write :data:`CONVERGENCE`, against ``baseline`` (``none``, ``reg=lcr``, ``vae=wan22``), if any cell has scores at
    checkpoints.

    Returns their paths. Raises ValueError as :func:`~ssvae.report.convergence.convergence`.
    """
    found = convergence(rows, baseline)
    paths = [folder / name for name in CONVERGENCE]
    if not found:
        # Of an earlier use of the sweep's name: nothing here speaks of those cells any more.
        for path in paths:
            path.unlink(missing_ok=True)
        return []
    write_text(paths[0], convergence_csv(found))
    write_text(paths[1], convergence_markdown(found, notes, baseline))
    save_figure(convergence_figure(found, notes.sweep), paths[2])
    return paths


def _stamped(definition: str, rows: Sequence[CellRow], metric: str) -> str:
    """The definition with the protocol of the metric that is computed from the same curve."""
    protocols = [row.metrics[metric].protocol for row in rows if metric in row.metrics]
    return f"{definition} ({protocols[0]})" if protocols else definition
