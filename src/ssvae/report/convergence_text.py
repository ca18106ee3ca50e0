"""Score against updates in words: ``convergence.csv`` (a line a cell) and ``convergence.md`` (a line a setting)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ssvae.report.collect import FIELDS, Curve
from ssvae.report.columns import field_text, heading, other_fields, rounded
from ssvae.report.convergence import PREFIX, Convergence, SpeedUp, by_vae, speed_ups
from ssvae.report.table import TableNotes, markdown_table

_SAME = "the same probe settings, channels, resolution, other fields"
_SAME_VAE = "the same probe settings, resolution, other fields"
_ACROSS = """ \
The baseline is a VAE and the others are other VAEs: they are compared across channel counts, regularisers and \
weights, all that makes a VAE. Channels move how hard latents are to model, so this ranks whole VAEs and explains none \
of them."""
_READING = """\
How many updates of the DiT a setting needs for the score that the baseline has at its last checkpoint.

- Target: the baseline's final score at {same} and seed (without that seed: the mean over its seeds).{across}
- Updates to target: the first checkpoint at least as good, linearly interpolated from the one before. It is the first \
crossing, as read off a figure; "falls back" counts seeds that are behind the target again at a later checkpoint.
- Speed-up: updates of the baseline's last checkpoint over updates to target; over seeds the geometric mean with its \
95 % interval (Student's t on the logarithms). "not reached" is no number: the run was too short, or the setting is \
worse.
- "≤", "≥": the first checkpoint was already there; the true number of updates is smaller, the speed-up larger.
- The baseline's own line is the noise: where its curve meets its own last value early, its speed-up is above 1, and \
only a clearly larger one means anything."""


def convergence_csv(found: Sequence[Convergence]) -> str:
    """CSV text, one line a cell and metric, full precision.

    Columns: metric, direction, the cell's fields, cell_id, final (score at the last checkpoint), baseline_seed,
    baseline_channels, target, baseline_updates, outcome (``reached``, ``at first checkpoint``, ``not reached``,
    ``no target``), updates, speed_up, kept (yes, no); numbers that do not exist are empty.
    """
    others = other_fields([one.row for one in found])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["final", "baseline_seed", "baseline_channels", "target", "baseline_updates"]
    head += ["outcome", "updates", "speed_up", "kept"]
    writer.writerow(["metric", "direction", *FIELDS, *others, "cell_id", *head])
    for one in found:
        crossing = one.crossing
        updates = crossing.updates if crossing is not None else None
        kept = "" if crossing is None or updates is None else "yes" if crossing.kept else "no"
        writer.writerow(
            [
                one.metric,
                one.direction,
                *(field_text(one.row, name) for name in (*FIELDS, *others)),
                one.row.cell_id,
                repr(one.final),
                *(" ".join(dict.fromkeys(field_text(base, n) for base in one.bases)) for n in ("seed", "channels")),
                *(_full(value) for value in (one.target, one.baseline_updates)),
                _outcome(one),
                *(_full(value) for value in (updates, one.speed_up)),
                kept,
            ]
        )
    return text.getvalue()


def convergence_markdown(found: Sequence[Convergence], notes: TableNotes, baseline: str) -> str:
    """Markdown text: how to read it, then one table a metric, one line a setting."""
    parts = [f"# Sweep {notes.sweep}: score against updates", f"Made by `{notes.command}`; baseline: `{baseline}`."]
    across = by_vae(baseline)
    parts.append(_READING.format(same=_SAME_VAE if across else _SAME, across=_ACROSS if across else ""))
    summaries = speed_ups(found)
    for metric in dict.fromkeys(one.metric for one in found):
        mine = [summary for summary in summaries if summary.cells[0].metric == metric]
        parts.append(f"## {_title(found, metric)}")
        parts.append(_table(mine) if mine else _why_not(found, metric, baseline))
        protocols = {_curve(one).protocol for one in found if one.metric == metric} - {None}
        parts += [f"Protocol: {protocol}." for protocol in sorted(map(str, protocols))]
    return "\n\n".join(parts) + "\n"


def _title(found: Sequence[Convergence], metric: str) -> str:
    rows = [one.row for one in found if metric in one.row.metrics]
    arrow = {"up": " ↑", "down": " ↓", "none": ""}[next(one.direction for one in found if one.metric == metric)]
    return heading(rows, metric) if rows else metric + arrow


def _why_not(found: Sequence[Convergence], metric: str, baseline: str) -> str:
    if all(one.direction == "none" for one in found if one.metric == metric):
        return "This score has no better side: there is nothing to reach."
    same = _SAME_VAE if by_vae(baseline) else _SAME
    vaes = dict.fromkeys(text for one in found if (text := field_text(one.row, "vae")))
    hint = f" Finished VAEs have one by name: `--baseline vae={next(iter(vaes))}`." if vaes else ""
    return f"No finished cell of `{baseline}` at {same} has this score.{hint}"


def _table(summaries: Sequence[SpeedUp]) -> str:
    others = [name for name in other_fields([s.cells[0].row for s in summaries]) if name != "weights"]
    fields = ["reg", "channels", "resolution", *others]
    body = []
    for summary in summaries:
        seeds = len(summary.cells)
        body.append(
            [
                *(field_text(summary.cells[0].row, name) for name in fields),
                f"{summary.reached} of {seeds}",
                "; ".join(_updates(one) for one in summary.cells),
                _speed_up(summary),
                f"{summary.fell} of {summary.reached}" if summary.reached else "",
                "; ".join(rounded(one.target) for one in summary.cells),
            ]
        )
    head = [*fields, "seeds that reach it", "updates to target", "speed-up", "falls back", "target"]
    return markdown_table(head, body, left={0})


def _updates(one: Convergence) -> str:
    crossing = one.crossing
    assert crossing is not None, "a summary holds cells with a target"
    if crossing.updates is None:
        return f"not reached in {_curve(one).x[-1]:.0f}"
    return f"{'≤ ' if crossing.at_first else ''}{crossing.updates:.0f}"


def _speed_up(summary: SpeedUp) -> str:
    if summary.mean is None:
        if summary.reached == len(summary.cells):
            return "reached at 0 updates"
        return "not reached by all" if summary.reached else "not reached"
    bound = "≥ " if summary.bound else ""
    interval = f" [{summary.interval[0]:.2f}, {summary.interval[1]:.2f}]" if summary.interval is not None else ""
    return f"{bound}{summary.mean:.2f}{interval}"


def _outcome(one: Convergence) -> str:
    if one.crossing is None:
        return "no target"
    if one.crossing.updates is None:
        return "not reached"
    return "at first checkpoint" if one.crossing.at_first else "reached"


def _curve(one: Convergence) -> Curve:
    return one.row.curves[PREFIX + one.metric]


def _full(value: float | None) -> str:
    return "" if value is None else repr(value)
