"""What ``predict.md`` says in sentences: the answer for a hurried reader, and how to read the tables."""

from __future__ import annotations

from collections.abc import Sequence

from ssvae.report.predict import ENOUGH, FEWEST, LEVEL, Prediction, Relation
from ssvae.report.predict_cells import STEPS
from ssvae.stats.rank_correlation import PERMUTATIONS

_NAMED = 5
"""Statistics that a sentence names at most."""


def answer(prediction: Prediction) -> str:
    """What is concluded of the headline score: of the main family, then, named as such, of the exploration."""
    score = prediction.scores[0]
    main, others = prediction.of(score, main=True), prediction.of(score, main=False)
    said = [_said(main, score, "the main family")] if main else []
    found = [one for one in others if one.concluded]
    if found:
        said.append(
            f"Exploration adds {_listed(found)}: adjusted over all {len(main) + len(others)} statistics, and to be "
            "confirmed on other VAEs."
        )
    elif others:
        said.append(f"Of the {len(others)} exploratory statistics none is shown to.")
    against = [name for (first, name), rho in prediction.agreement.items() if first == score and rho < 0]
    against = [name for name in against if name in prediction.shown and not name.startswith(STEPS)]
    if against:
        rhos = ", ".join(f"`{name}` (ρ {prediction.agreement[score, name]:+.2f})" for name in against)
        said.append(f"Beware: {rhos.replace('ρ -', 'ρ −')} orders these cells rather the other way round.")
    return " ".join(said)


def _said(relations: Sequence[Relation], score: str, of: str) -> str:
    found = [one for one in relations if one.concluded]
    if found:
        return f"**Goes with `{score}`**, of {of} ({len(relations)} statistics): {_listed(found)}."
    first = relations[0]
    return (
        f"**No statistic of {of} ({len(relations)}) is shown to predict `{score}`**; the strongest, "
        f"`{first.statistic}`: {first.verdict}."
    )


def _listed(found: Sequence[Relation]) -> str:
    named = "; ".join(f"`{one.statistic}` (ρ {one.spearman.value:+.2f}, {one.sign})" for one in found[:_NAMED])
    return named.replace("ρ -", "ρ −") + (f"; {len(found) - _NAMED} more" if len(found) > _NAMED else "")


def reading(prediction: Prediction) -> str:
    """Definitions, and what these numbers can and cannot say."""
    some = prediction.relations[0].spearman if prediction.relations else None
    tried = "all rearrangements" if some is not None and some.exact else f"{PERMUTATIONS} drawn rearrangements"
    return f"""\
## How to read it

- ρ: Spearman's rank correlation over cells, τ: Kendall's tau-b. Only order counts, not size.
- Cells whose VAEs differ only by seed, or that share a trained VAE, are no independent evidence: they count as one \
VAE, are drawn together for the 95 % interval (percentile bootstrap) and exchanged together for p ({tried}, two-sided).
- main family: few statistics, chosen for what is said to make latents diffuse well and not for what did so in a \
sweep. A family chosen after a look at the numbers it is tested on proves nothing: the default one was written down \
when a first small sweep (11 regularisers, 48 channels) was there, so its finds count on other VAEs.
- adjusted p: Holm's, in the main family over that family, for an exploratory statistic over all statistics of the \
score, the main ones too. Below {LEVEL} the chance of even one false find is below {LEVEL} in the main family, and \
below {LEVEL} among the exploratory ones: each for one score. Over several scores together no such bound holds.
- at equal channels: ρ inside each group of equal channels, resolution and probe settings, averaged with weights \
VAEs - 1, from groups of 3 VAEs or more. Channel counts move statistics and scores at once; what vanishes here was \
theirs. Probe settings are those of training and scoring and the clips, not the VAE or its weights.
- The verdict says "higher: better" or "higher: worse" only with {ENOUGH} VAEs or more, an interval without 0, \
adjusted p below {LEVEL}, and, where channels, resolution or probe differ, the same sign and an interval without 0 \
at equal channels. Else there is no conclusion, and the first reason stands there. Below {FEWEST} VAEs nothing is \
computed. No conclusion is no proof of no relation: few VAEs show only strong ones.

It can say: over VAEs like these, trained and probed like these, this statistic orders them as the score does. It \
cannot say that moving the statistic moves the score: nothing here was changed by itself, and regularisers change \
many at once. Cells that continue one base share its luck, which no interval here contains. A diffusion loss is \
measured on each VAE's own latents: a VAE can make it small by throwing content away, so read it beside a score of \
decoded clips. Scores of short probes need not order VAEs as long ones do."""
