"""The table of a sweep on a terminal of 100 columns or more."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ssvae.report.collect import CellRow, check_protocols
from ssvae.report.columns import best_cells, example, field_text, groups, other_fields, present, rounded

_COLUMNS = {
    "psnr_db": "PSNR",
    "ssim": "SSIM",
    "local_correlation": "loc.corr",
    "dct_high_share": "DCT hi",
    "explained_variance_8": "EV@8",
    "diffusion_loss": "diff.loss",
    "probe_fd": "probe FD",
    "fvd": "FVD",
}
_STYLES = {"finished": "green", "failed": "bold red", "killed": "yellow", "running": "cyan"}
_ARROWS = {"up": "↑", "down": "↓", "none": ""}


def terminal_table(rows: Sequence[CellRow], title: str) -> Table:
    """Swept fields and main metrics, one section a channel count, the best value of each section in bold.

    Why cells did not finish is said below it (:func:`reasons`), at the terminal's own width. Raises ValueError on mixed
    protocols.
    """
    check_protocols(rows)
    metrics = present(rows, _COLUMNS)
    sizes = len({field_text(row, "resolution") for row in rows}) > 1
    table = Table(
        title=Text(title, style="bold"), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
    )  # fmt: skip
    table.add_column("reg", no_wrap=True)
    for name in ("ch", "px", "seed") if sizes else ("ch", "seed"):
        table.add_column(name, justify="right", no_wrap=True)
    others = other_fields(rows)
    if len({field_text(row, "weights") for row in rows}) == 1:
        others = [name for name in others if name != "weights"]
    for name in others:
        # Names are long; where space is short they are folded, before any number is.
        table.add_column(Text(name), justify="right", overflow="fold")
    table.add_column("status", no_wrap=True)
    for name in metrics:
        arrow = _ARROWS[example(rows, name).direction]
        table.add_column(_COLUMNS[name] + arrow, justify="right", no_wrap=True)
    fields = ["reg", "channels", *(["resolution"] if sizes else []), "seed", *others]
    for alike in groups(rows, ["channels", "resolution"]).values():
        best = {name: best_cells(alike, name) for name in metrics}
        for row in alike:
            numbers = [
                Text(rounded(row.value(name)), style="bold" if row.cell_id in best[name] else "") for name in metrics
            ]
            status = Text(row.status, style=_STYLES.get(row.status, ""))
            table.add_row(*(Text(field_text(row, name)) for name in fields), status, *numbers)
        table.add_section()
    return table


def reasons(rows: Sequence[CellRow]) -> list[str]:
    """Why cells did not finish, a line each."""
    return [f"{row.label}, seed {field_text(row, 'seed')}: {row.reason}" for row in rows if row.reason]
