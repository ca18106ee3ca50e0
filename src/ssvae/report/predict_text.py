"""Which statistic predicts, in words: ``predict.csv`` (everything, full precision) and ``predict.md``.

The text shows the main family in full and of the others, for the headline score, the strongest of each group of names.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence

from ssvae.report.columns import example, field_text, heading, metric_order
from ssvae.report.predict import Prediction, Relation
from ssvae.report.predict_cells import STEPS, distinct_vaes
from ssvae.report.predict_reading import answer, reading
from ssvae.report.table import markdown_table
from ssvae.stats.rank_correlation import RankCorrelation

_VARIANTS = ("normalized", "flow", "vp", "time", "mean", "max", "db")
"""Words of a statistic's name that say which version of it, not what it is."""

_HEAD = (
    "score",
    "score_direction",
    "statistic",
    "family",
    "cells",
    "vaes",
    "spearman",
    "low",
    "high",
    "p",
    "p_exact",
    "p_adjusted",
    "kendall",
    "within_strata",
    "within_spearman",
    "within_low",
    "within_high",
    "within_p",
    "sign",
    "verdict",
)


def predict_csv(prediction: Prediction) -> str:
    """CSV text, one line a statistic and score: by score the main family, then the others, strongest first.

    Columns: score, its better direction, statistic, family (main, exploratory), cells and distinct VAEs with both;
    Spearman's rho with the ends of its 95 % interval, p-value (exact or drawn), Holm-adjusted p-value, Kendall's tau-b;
    how many groups of equal channels, resolution and probe there are, and rho, interval and p within them (empty for
    one group); sign; verdict.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEAD)
    for one in prediction.relations:
        found, within = one.spearman, one.within
        writer.writerow(
            [
                one.score,
                one.direction,
                one.statistic,
                "main" if one.main else "exploratory",
                found.cells,
                found.clusters,
                repr(found.value),
                *_ends(found),
                repr(found.p_value),
                "yes" if found.exact else "no",
                repr(one.p_adjusted),
                repr(one.kendall),
                one.strata,
                *((repr(within.value), *_ends(within), repr(within.p_value)) if within is not None else [""] * 4),
                one.sign,
                one.verdict,
            ]
        )
    return text.getvalue()


def predict_markdown(prediction: Prediction, sweeps: Sequence[str], command: str) -> str:
    """Markdown text: the answer, how to read it, an overview, the tables, what was left out, protocols."""
    shown = prediction.shown
    parts = [
        f"# Which statistic predicts: {', '.join(sweeps)}",
        f"Made by `{command}`. {len(prediction.rows)} finished cells of {prediction.vaes} distinct VAEs; "
        f"{_groups(prediction.strata)}.",
        _sweeps(prediction, sweeps),
        answer(prediction),
        reading(prediction),
        _overview(prediction),
        _agreement(prediction),
        *(_main(prediction, score) for score in shown),
        _exploratory(prediction),
    ]
    if hidden := [name for name in prediction.scores if name not in shown]:
        parts.append(f"Only in predict.csv, as parts of other scores: {', '.join(f'`{name}`' for name in hidden)}.")
    parts += [_left_out(prediction), _protocols(prediction)]
    return "\n\n".join(part for part in parts if part) + "\n"


def family(statistic: str) -> str:
    """What names have in common that differ only in a number, window, path, average or normalisation."""
    words = [word for word in statistic.split("_") if not re.fullmatch(r"[\d.x]+", word) and word not in _VARIANTS]
    return "_".join(words)


def strongest(relations: Iterable[Relation], count: int) -> list[Relation]:
    """The strongest relation of each :func:`family` of names, at most ``count``, strongest first."""
    found: dict[str, Relation] = {}
    for one in sorted(relations, key=lambda one: -abs(one.spearman.value)):
        found.setdefault(family(one.statistic), one)
    return list(found.values())[:count]


def _groups(strata: int) -> str:
    if strata == 1:
        return "all of equal channels, resolution and probe settings"
    return f"{strata} groups of equal channels, resolution and probe settings"


def _sweeps(prediction: Prediction, sweeps: Sequence[str]) -> str:
    """What each sweep gave, where there are several."""
    if len(sweeps) < 2:
        return ""
    body = []
    drawn = list(dict.fromkeys(row.sweep for row in prediction.rows))
    for sweep in sweeps:
        rows = [row for row in prediction.rows if row.sweep == sweep]
        probes = len({row.probe for row in rows})
        channels = ", ".join(dict.fromkeys(field_text(row, "channels") for row in rows))
        body.append(
            [
                sweep,
                str(drawn.index(sweep) + 1) if sweep in drawn[1:] else "none",
                str(len(rows)),
                str(len(set(distinct_vaes(rows)))),
                channels,
                str(probes),
            ]
        )
    head = ["sweep", "number in the figure", "cells", "distinct VAEs", "channels", "probe settings"]
    text = "Work that several sweeps share counts once, with the first. Updates to the baseline are of the own sweep."
    return f"{text}\n\n" + markdown_table(head, body, left={0})


def _overview(prediction: Prediction) -> str:
    """Main family against scores at a glance."""
    found = {(one.statistic, one.score): one for one in prediction.relations if one.main}
    if not found or len(prediction.shown) < 2:
        return ""
    names = metric_order(name for name, _ in found)
    body = []
    for name in names:
        relations = [found.get((name, score)) for score in prediction.shown]
        body.append([f"`{name}`", *("" if one is None else _mark(one) for one in relations)])
    head = ["statistic", *(_label(prediction, score) for score in prediction.shown)]
    text = "ρ of the main family with each score; bold where the verdict is a sign. Arrows: the better side."
    return f"## Overview\n\n{text}\n\n" + markdown_table(head, body, left={0})


def _label(prediction: Prediction, score: str) -> str:
    metric = score.removeprefix(STEPS)
    if metric == score or not any(metric in row.metrics for row in prediction.rows):
        return heading(prediction.rows, score)
    return f"updates to the baseline's {heading(prediction.rows, metric).rstrip(' ↑↓')} ↓"


def _mark(one: Relation) -> str:
    text = _signed(one.spearman.value)
    return f"**{text}**" if one.concluded else text


def _agreement(prediction: Prediction) -> str:
    pairs = [(a, b) for a, b in prediction.agreement if a in prediction.shown and b in prediction.shown]
    pairs = [(a, b) for a, b in pairs if not a.startswith(STEPS) and not b.startswith(STEPS)]
    if not pairs:
        return ""
    body = [[f"`{a}`", f"`{b}`", _signed(prediction.agreement[a, b])] for a, b in pairs]
    text = (
        "ρ over cells of two scores, both turned so that more is better. Where it is not clearly above 0 the scores "
        "order these cells differently, and what predicts one need not predict the other."
    )
    return f"## Do the scores agree?\n\n{text}\n\n" + markdown_table(["score", "score", "ρ"], body, left={0, 1})


def _main(prediction: Prediction, score: str) -> str:
    relations = prediction.of(score, main=True)
    title = f"## {_label(prediction, score)} (`{score}`), main family"
    if not relations:
        return f"{title}\n\nNo statistic of the main family is there."
    return f"{title}\n\n{_table(relations, {})}"


def _exploratory(prediction: Prediction) -> str:
    """The others with the headline score, one line a family."""
    score = prediction.scores[0]
    relations = prediction.of(score, main=False)
    if not relations:
        return ""
    members: dict[str, list[float]] = {}
    for one in relations:
        members.setdefault(family(one.statistic), []).append(one.spearman.value)
    notes = {}
    for one in relations:
        values = members[family(one.statistic)]
        span = f": {_signed(min(values))} … {_signed(max(values))}" if len(values) > 1 else ""
        notes[one.statistic] = f"{len(values)}{span}"
    text = (
        f"The {len(relations)} other statistics with `{score}`, adjusted over all {len(prediction.of(score))}. A line "
        "is the strongest of the names that differ only in a number, window, average or normalisation; how many these "
        "are, and the range of their ρ, stands beside it. Every one, and with every score, is in predict.csv."
    )
    return f"## Exploratory\n\n{text}\n\n" + _table(strongest(relations, len(relations)), notes)


def _table(relations: Sequence[Relation], notes: Mapping[str, str]) -> str:
    """Relations line by line; the numbers of VAEs and cells stand above where they are equal."""
    several = any(one.strata > 1 for one in relations)
    sizes = {(one.spearman.clusters, one.spearman.cells) for one in relations}
    counts = len(sizes) > 1
    head = ["statistic", *(["of its kind: ρ"] if notes else []), "ρ", "95 %", "τ"]
    head += ["VAEs", "cells"] if counts else []
    head += ["p", "adjusted p", *(["at equal channels", "95 %"] if several else []), "verdict"]
    body = []
    for one in relations:
        found, within = one.spearman, one.within
        inside = [_signed(within.value), _interval(within)] if within is not None else ["", ""]
        body.append(
            [
                f"`{one.statistic}`",
                *([notes[one.statistic]] if notes else []),
                _signed(found.value),
                _interval(found),
                _signed(one.kendall),
                *([str(found.clusters), str(found.cells)] if counts else []),
                f"{found.p_value:.2g}",
                f"{one.p_adjusted:.2g}",
                *(inside if several else []),
                one.verdict,
            ]
        )
    above = "" if counts else "{} VAEs, {} cells.\n\n".format(*next(iter(sizes)))
    return above + markdown_table(head, body, left={0, len(head) - 1})


def _left_out(prediction: Prediction) -> str:
    """One line a name: what is missing with every score is said once."""
    said: dict[tuple[str, str], list[str]] = {}
    for name, reason in sorted(prediction.left_out.items()):
        statistic, _, score = name.partition(" with ")
        said.setdefault((statistic, reason), []).append(score)
    lines = []
    for (statistic, reason), scores in said.items():
        where = "" if scores == [""] else f" ({len(scores)} score{'s' if len(scores) > 1 else ''})"
        lines.append(f"- `{statistic}`{where}: {reason}")
    return "## Left out\n\n" + "\n".join(lines) if lines else ""


def _protocols(prediction: Prediction) -> str:
    """Names that share a protocol on one line."""
    names = metric_order([*prediction.scores, *(one.statistic for one in prediction.relations)])
    said: dict[str, list[str]] = {}
    for name in names:
        said.setdefault(example(prediction.rows, name).protocol, []).append(f"`{name}`")
    return "## Protocols\n\n" + "\n".join(f"- {', '.join(alike)}: {protocol}" for protocol, alike in said.items())


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _interval(found: RankCorrelation) -> str:
    return "" if found.interval is None else f"[{_signed(found.interval[0])}, {_signed(found.interval[1])}]"


def _ends(found: RankCorrelation) -> list[str]:
    return ["", ""] if found.interval is None else [repr(found.interval[0]), repr(found.interval[1])]
