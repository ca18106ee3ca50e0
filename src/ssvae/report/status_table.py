"""The cells of a sweep as a live table, and what to read below it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ssvae.report.cell_state import BAD, CellState
from ssvae.report.pace import number, span
from ssvae.report.state import counts

STYLES = {
    "finished": "green", "running": "cyan", "waiting": "dim", "failed": "bold red", "lost": "bold red",
    "killed": "yellow", "stopped": "yellow",
}  # fmt: skip
_INTEREST = ("failed", "lost", "killed", "stopped", "running", "waiting", "finished")


def live_table(rows: Sequence[CellState], title: str = "", most: int | None = None) -> Table:
    """One row a cell: status, stage, how far, how fast, how long still, and why it waits or failed; then the counts.

    most: rows that a screen has room for; those that say least are left out, and counted.
    """
    shown = list(rows)
    if most is not None and len(rows) > most:
        said = sorted(range(len(rows)), key=lambda index: _INTEREST.index(rows[index].status))[: max(1, most)]
        shown = [rows[index] for index in sorted(said)]
    left_out = f"; {len(rows) - len(shown)} of them are not shown" if len(shown) < len(rows) else ""
    table = Table(
        title=Text(title, style="bold") if title else None, title_justify="left",
        caption=Text(counts(rows) + left_out), caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
        pad_edge=False,
    )  # fmt: skip
    table.add_column("cell", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("stage", no_wrap=True)
    for name in ("step", "rate", "left in stage"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for row in shown:
        at = f"{row.done}/{row.total}" if row.done is not None else ""
        rate = f"{number(row.rate)}/s" if row.rate is not None else ""
        left = span(row.left_s) if row.left_s is not None else ""
        status = Text(row.status, style=STYLES.get(row.status, ""))
        table.add_row(Text(row.label or row.name), status, row.stage or "", at, rate, left, Text(_note(row)))
    return table


def advice(rows: Sequence[CellState], command: str) -> list[str]:
    """For cells that need a person: where their logs are, and the command that goes on."""
    lines = [f"{row.name}: log: {row.log}" for row in rows if row.log is not None and row.status in BAD]
    if any(row.status in BAD for row in rows):
        lines.append(f"go on with: {command}; what is finished or still runs is kept")
    return lines


def _note(row: CellState) -> str:
    """The detail without what the other columns say."""
    if row.done is None or row.status != "running" or row.stage is None:
        return " ".join(row.detail.split())
    others = row.detail.partition("; ")[2]
    again = [f"{word} {count}x" for word, count in (("requeued", row.requeues), ("retried", row.retries)) if count]
    return ", ".join([*again, *([others] if others else [])])
