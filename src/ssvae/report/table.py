"""The table of a sweep as CSV (full precision, for programs) and Markdown (rounded, with everything needed to read it).

Equal rows give equal bytes: no dates, no order of files, no machine in it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ssvae.report.collect import FIELDS, CellRow, check_protocols
from ssvae.report.columns import (
    BASELINES,
    MAIN_METRICS,
    best_cells,
    example,
    field_text,
    groups,
    heading,
    metric_order,
    other_fields,
    present,
    rounded,
)
from ssvae.report.compare import compare, spread


@dataclass(frozen=True, slots=True)
class TableNotes:
    """What a table says about itself: name of the sweep, the command that makes it, the split that was measured,
    footnotes such as ``LPIPS is off: no VGG weights``."""

    sweep: str
    command: str
    split: str = "held-out clips"
    footnotes: tuple[str, ...] = ()


def table_csv(rows: Sequence[CellRow]) -> str:
    """CSV text: ``reg, channels, resolution, seed, status, cell_id``, one column a metric, other swept fields, reason.

    Numbers in full precision; a value that is missing or NaN is empty. Raises ValueError on mixed protocols.
    """
    check_protocols(rows)
    metrics = metric_order(name for row in rows for name in row.metrics)
    others = other_fields(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*FIELDS, "status", "cell_id", *metrics, *others, "reason"])
    for row in rows:
        values = [row.value(name) for name in metrics]
        writer.writerow(
            [
                *(field_text(row, name) for name in FIELDS),
                row.status,
                row.cell_id,
                *("" if value is None else repr(value) for value in values),
                *(field_text(row, name) for name in others),
                row.reason or "",
            ]
        )
    return text.getvalue()


def table_markdown(rows: Sequence[CellRow], notes: TableNotes) -> str:
    """Markdown text: caption, main table, seed spread, gaps to ``none``, every metric, protocols, baselines, footnotes.

    Raises ValueError on mixed protocols.
    """
    check_protocols(rows)
    parts = [f"# Sweep {notes.sweep}", _caption(rows, notes), _main_table(rows)]
    parts += [_seed_table(rows), _gap_table(rows), _every_metric(rows), _protocols(rows), _footer(rows, notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _caption(rows: Sequence[CellRow], notes: TableNotes) -> str:
    seeds = sorted({field_text(row, "seed") for row in rows}, key=lambda text: (len(text), text))
    counts = {row.metrics[name].n for row in rows for name in present([row], MAIN_METRICS)}
    done = sum(row.status == "finished" for row in rows)
    facts = [
        f"{done} of {len(rows)} cells finished",
        f"n = {_span(counts)} samples a metric (each in the list below)" if counts else "nothing measured yet",
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}",
        f"split: {notes.split}",
    ]
    lines = [f"Made by `{notes.command}`.", "; ".join(facts) + ".", "↑ higher is better, ↓ lower is better."]
    lines.append("Bold: best finished cell at its channel count and resolution.")
    return " ".join(lines)


def _span(counts: set[int]) -> str:
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)}-{max(counts)}"


def _main_table(rows: Sequence[CellRow]) -> str:
    metrics = present(rows, MAIN_METRICS)
    best = {
        (name, cell)
        for alike in groups(rows, ["channels", "resolution"]).values()
        for name in metrics
        for cell in best_cells(alike, name)
    }
    fields = [*FIELDS, *other_fields(rows)]
    reasons = any(row.reason for row in rows)
    head = [*fields, "status", *(heading(rows, name) for name in metrics), *(["reason"] if reasons else [])]
    body = []
    for row in rows:
        numbers = [
            f"**{rounded(row.value(name))}**" if (name, row.cell_id) in best else rounded(row.value(name))
            for name in metrics
        ]
        reason = [_one_line(row.reason or "")] if reasons else []
        body.append([*(field_text(row, name) for name in fields), row.status, *numbers, *reason])
    return markdown_table(head, body, left={0, len(fields)} | ({len(head) - 1} if reasons else set()))


def _seed_table(rows: Sequence[CellRow]) -> str:
    """Mean ± standard deviation, where some setting (rows equal but for the seed) has several finished seeds."""
    metrics = present(rows, MAIN_METRICS)
    setting = ["reg", "channels", "resolution", *other_fields(rows)]
    body = []
    for key, alike in groups(rows, setting).items():
        done = [row for row in alike if row.status == "finished"]
        seeds = len({field_text(row, "seed") for row in done})
        if seeds > 1:
            body.append([*key, str(seeds), *(_mean_std(done, name, seeds) for name in metrics)])
    if not body:
        return ""
    head = [*setting, "seeds", *(heading(rows, name) for name in metrics)]
    return "## Seed spread\n\nMean ± standard deviation over finished seeds.\n\n" + markdown_table(head, body, left={0})


def _mean_std(rows: Sequence[CellRow], metric: str, seeds: int) -> str:
    found = spread(rows, metric)
    if found is None:
        return ""
    if found.std is None:
        return f"{rounded(found.mean)} (1 seed)"
    note = "" if found.n == seeds else f" (n={found.n})"
    return f"{rounded(found.mean)} ± {rounded(found.std)}{note}"


def _gap_table(rows: Sequence[CellRow]) -> str:
    differences = compare(rows)
    if not differences:
        return ""
    metrics = present(rows, MAIN_METRICS)
    others = other_fields(rows)
    by_cell: dict[tuple[str, ...], dict[str, str]] = {}
    for d in differences:
        mark = {"inside seed spread": " (≈)", "better": " (+)", "worse": " (−)"}.get(d.verdict, "")
        sign = "+" if d.difference >= 0 else "−"
        swept = dict(d.others)
        key = (d.reg, d.channels, d.resolution, *(swept.get(name, "") for name in others))
        texts = by_cell.setdefault(key, {})
        texts[d.metric] = f"{sign}{rounded(abs(d.difference))}{mark}"
    head = ["reg", "channels", "resolution", *others, *(heading(rows, name) for name in metrics)]
    body = [[*key, *(texts.get(name, "") for name in metrics)] for key, texts in by_cell.items()]
    known = any(d.noise is not None for d in differences)
    legend = (
        "(≈) inside the seed spread, √(s² + s_none²); (+) better, (−) worse by more than that."
        if known
        else "One seed a setting: the seed spread is unknown, small gaps mean nothing."
    )
    if set(others) - {"weights"}:
        legend += " Against `none` with the same other swept values, where it has them; without such a cell, no gap."
    return f"## Gap to none\n\n{legend}\n\n" + markdown_table(head, body, left={0})


def _every_metric(rows: Sequence[CellRow]) -> str:
    """One line a metric, one column a cell, with 95 % intervals."""
    metrics = [name for name in metric_order(name for row in rows for name in row.metrics) if name not in BASELINES]
    shown = [row for row in rows if row.metrics]
    if not metrics:
        return ""
    several = len({field_text(row, "seed") for row in rows}) > 1
    sizes = len({field_text(row, "resolution") for row in rows}) > 1
    head = ["metric", "unit"]
    for row in shown:
        size = f" @{field_text(row, 'resolution')}" if sizes else ""
        seed = f" s{field_text(row, 'seed')}" if several else ""
        more = "".join(f" {name}={value}" for name, value in row.unusual.items())
        head.append(f"{field_text(row, 'reg')} {field_text(row, 'channels')}{size}{more}{seed}")
    body = []
    for name in metrics:
        metric = example(rows, name)
        arrow = {"up": " ↑", "down": " ↓", "none": ""}[metric.direction]
        body.append([f"`{name}`{arrow}", metric.unit, *(_with_interval(row, name) for row in shown)])
    title = "## Every metric\n\nIn brackets: 95 % interval of the mean over samples."
    return f"{title}\n\n" + markdown_table(head, body, left={0, 1})


def _with_interval(row: CellRow, name: str) -> str:
    value = row.value(name)
    interval = row.metrics[name].ci95 if name in row.metrics else None
    if value is None or interval is None:
        return rounded(value)
    return f"{rounded(value)} [{rounded(interval[0])}, {rounded(interval[1])}]"


def _protocols(rows: Sequence[CellRow]) -> str:
    lines = []
    for name in metric_order(name for row in rows for name in row.metrics):
        counts = {row.metrics[name].n for row in rows if name in row.metrics}
        lines.append(f"- `{name}`: {example(rows, name).protocol}; n = {_span(counts)}")
    return "## Protocols\n\n" + "\n".join(lines) if lines else ""


def _footer(rows: Sequence[CellRow], notes: TableNotes) -> str:
    lines = []
    baselines = []
    for name, label in BASELINES.items():
        for (resolution,), alike in groups(rows, ["resolution"]).items():
            values = [v for row in alike if (v := row.value(name)) is not None and math.isfinite(v)]
            if values:
                low, high = rounded(min(values)), rounded(max(values))
                baselines.append(f"{label} {low if low == high else f'{low}-{high}'} dB at resolution {resolution}")
    if baselines:
        lines.append("Baselines on the same clips: " + "; ".join(baselines) + ".")
    lines += notes.footnotes
    return "## Notes\n\n" + "\n".join(f"- {_one_line(line)}" for line in lines) if lines else ""


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]], left: set[int]) -> str:
    """A Markdown table; columns in ``left`` are left-aligned, the others right-aligned."""
    rule = [":--" if column in left else "--:" for column in range(len(head))]
    lines = [head, rule, *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())
