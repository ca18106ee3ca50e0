"""Which statistic predicts, in words: ``predict.csv`` (everything, full precision) and ``predict.md``."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from ssvae.report.columns import example, heading, metric_order
from ssvae.report.predict import ENOUGH, FEWEST, LEVEL, Prediction, Relation
from ssvae.report.table import markdown_table
from ssvae.stats.rank_correlation import PERMUTATIONS, RankCorrelation

_HEAD = (
    "score",
    "score_direction",
    "statistic",
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
    """CSV text, one line a statistic and score, strongest first.

    Columns: score, its better direction, statistic, cells and distinct VAEs with both; Spearman's rho with the ends of
    its 95 % interval, p-value (exact or drawn), Holm-adjusted p-value, Kendall's tau-b; how many groups of equal
    channels, resolution and probe there are, and rho, interval and p within them (empty for one group); sign; verdict.
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
    """Markdown text: what was done, what it can and cannot say, one table a score, what was left out, protocols."""
    parts = [
        f"# Which statistic predicts: {', '.join(sweeps)}",
        f"Made by `{command}`. {len(prediction.rows)} finished cells of {prediction.vaes} distinct VAEs; "
        f"{_groups(prediction.strata)}.",
        _answer(prediction),
        _reading(prediction),
    ]
    parts += [_score(prediction, score) for score in prediction.scores]
    if prediction.left_out:
        lines = [f"- `{name}`: {reason}" for name, reason in sorted(prediction.left_out.items())]
        parts.append("## Left out\n\n" + "\n".join(lines))
    names = [*prediction.scores, *(one.statistic for one in prediction.relations)]
    lines = [f"- `{name}`: {example(prediction.rows, name).protocol}" for name in metric_order(names)]
    parts.append("## Protocols\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def strongest(relations: Iterable[Relation], count: int) -> list[Relation]:
    """The first ``count`` relations of different families: names equal but for numbers and ``_normalized`` are one."""
    found: dict[str, Relation] = {}
    for one in relations:
        found.setdefault(re.sub(r"[\d.]+|_normalized", "", one.statistic), one)
    return list(found.values())[:count]


def _groups(strata: int) -> str:
    if strata == 1:
        return "all of equal channels, resolution and probe settings"
    return f"{strata} groups of equal channels, resolution and probe settings"


def _answer(prediction: Prediction) -> str:
    """One paragraph that a hurried reader may quote."""
    score = prediction.scores[0]
    said = [one for one in prediction.of(score) if one.verdict == one.sign]
    if not said:
        reasons = sorted({one.verdict for one in prediction.of(score)[:1]})
        return f"**No statistic is shown to predict `{score}`** (the strongest: {', '.join(reasons) or 'none there'})."
    listed = "; ".join(f"`{one.statistic}` (ρ {_signed(one.spearman.value)}, {one.sign})" for one in strongest(said, 5))
    return f"**Goes with `{score}`**, the strongest of each family: {listed}."


def _reading(prediction: Prediction) -> str:
    some = prediction.relations[0].spearman if prediction.relations else None
    tried = "all rearrangements" if some is not None and some.exact else f"{PERMUTATIONS} drawn rearrangements"
    return f"""\
## How to read it

- ρ: Spearman's rank correlation over cells, τ: Kendall's tau-b. Only order counts, not size.
- Cells that differ only by seed, or that share a trained VAE, are no independent evidence: they count as one VAE, \
are drawn together for the 95 % interval (percentile bootstrap) and exchanged together for p ({tried}, two-sided).
- adjusted p: Holm's, over all statistics of a score; below {LEVEL} the chance of even one false find is below \
{LEVEL}.
- at equal channels: ρ inside each group of equal channels, resolution and probe settings, averaged with weights \
VAEs - 1, from groups of 3 VAEs or more. Channel counts move statistics and scores at once; what vanishes here was \
theirs.
- The verdict says "higher: better" or "higher: worse" only with {ENOUGH} VAEs or more, an interval without 0, \
adjusted p below {LEVEL}, and, where channels, resolution or probe differ, the same sign and an interval without 0 \
at equal channels. Else there is no conclusion, and the first reason stands there. Below {FEWEST} VAEs nothing is \
computed.

It can say: over VAEs like these, trained and probed like these, this statistic orders them as the score does. It \
cannot say that moving the statistic moves the score: nothing here was changed by itself, and regularisers change \
many at once. Cells that continue one base share its luck, which no interval here contains. A diffusion loss is \
measured on each VAE's own latents: a VAE can make it small by throwing content away, so read it beside a score of \
decoded clips. Scores of short probes need not order VAEs as long ones do."""


def _score(prediction: Prediction, score: str) -> str:
    relations = prediction.of(score)
    several = any(one.strata > 1 for one in relations)
    head = ["statistic", "ρ", "95 %", "τ", "VAEs", "cells", "p", "adjusted p"]
    head += ["at equal channels", "95 %"] if several else []
    body = []
    for one in relations:
        found, within = one.spearman, one.within
        inside = [_signed(within.value), _interval(within)] if within is not None else ["", ""]
        body.append(
            [
                f"`{one.statistic}`",
                _signed(found.value),
                _interval(found),
                _signed(one.kendall),
                str(found.clusters),
                str(found.cells),
                f"{found.p_value:.2g}",
                f"{one.p_adjusted:.2g}",
                *(inside if several else []),
                one.verdict,
            ]
        )
    return f"## {heading(prediction.rows, score)} (`{score}`)\n\n" + markdown_table(
        [*head, "verdict"], body, left={0, len(head)}
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _interval(found: RankCorrelation) -> str:
    return "" if found.interval is None else f"[{_signed(found.interval[0])}, {_signed(found.interval[1])}]"


def _ends(found: RankCorrelation) -> list[str]:
    return ["", ""] if found.interval is None else [repr(found.interval[0]), repr(found.interval[1])]
