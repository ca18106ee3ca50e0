"""Score a trained diffusion transformer at several points of its training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssvae.build import build_accelerator
from ssvae.build_metrics import build_frechet_networks
from ssvae.config.data import DataConfig
from ssvae.config.tree import ProbeStageConfig
from ssvae.core.files import read_json, write_json
from ssvae.core.progress import Progress
from ssvae.core.ranks import Ranks
from ssvae.core.types import MetricValue
from ssvae.data.latents import LatentCache
from ssvae.models.dit import VideoDiT
from ssvae.models.dit_weights import load_dit_weights, read_base_grid
from ssvae.models.load import open_vae
from ssvae.stages.conditions import check_reward
from ssvae.stages.dit import WEIGHTS, open_dit
from ssvae.stages.scoring import Scoring
from ssvae.stages.source import Source
from ssvae.train.dit_loop import kept_weights


def run(
    *,
    stage: ProbeStageConfig,
    seed: int,
    sources: Callable[[DataConfig], Source],
    vae: str | Path,
    latents: Path,
    trained: Path,
    caches: Path,
    folder: Path,
    samples: int,
    progress: Progress,
) -> None:
    """Score every checkpoint, and write ``metrics.json``, ``curves.json`` and generated ``samples/``.

    vae: what ``open_vae`` reads, and decodes with. trained: folder of the transformer. caches: of text embeddings and
    of statistics of real clips, shared by all cells. samples: generated clips that are kept. A checkpoint whose scores
    are there is not scored again. Ranks share the clips; the first one writes.
    """
    ranks, device = Ranks.current(), build_accelerator(stage.probe.train.precision).device
    positions = read_base_grid(trained / WEIGHTS)
    dit, conditions = open_dit(stage, seed, latents, caches, device, positions, progress)
    check_reward(stage, conditions)
    dit.eval()
    source = sources(stage.data)
    source.count_rejects(folder, note=ranks.first)
    scoring = Scoring(
        stage=stage,
        vae=open_vae(vae, device=device).vae,
        networks=build_frechet_networks(stage.networks, stage.resolution.frames, device),
        cache=LatentCache.open(latents / "train"),
        heldout=LatentCache.open(latents / "heldout"),
        conditions=conditions,
        source=source,
        folder=folder,
        caches=caches,
        samples=samples,
        ranks=ranks,
        progress=progress,
    )
    last = stage.probe.train.steps
    weights = {step: kept_weights(trained, step) for step in stage.probe.checkpoints if step < last}
    weights[last] = trained / WEIGHTS
    scored = {step: _scores(scoring, dit, path, step, last=step == last) for step, path in weights.items()}
    values, by_time = scored[last]
    values = [*values, *scoring.baselines()]
    if ranks.first:
        curves = {"diffusion_loss_by_time": by_time, **by_step({step: found for step, (found, _) in scored.items()})}
        write_json(folder / "curves.json", curves)
        write_json(folder / "metrics.json", [value.to_json() for value in values])


def _scores(
    scoring: Scoring, dit: VideoDiT, weights: Path, step: int, *, last: bool
) -> tuple[list[MetricValue], dict[str, Any]]:
    """Scores of the ``weights`` after ``step`` updates, from disk where an earlier attempt made them.

    The reward comes last, in a file of its own: a server that fails costs neither samples nor other scores.
    """
    folder, ranks, spool = scoring.folder / "scores", scoring.ranks, scoring.spool(step)
    path, answered = folder / f"step_{step:07d}.json", folder / f"step_{step:07d}_reward.json"
    rewarded = ranks.share(spool is None or answered.exists())
    if not ranks.share(path.exists() and (rewarded or (spool is not None and spool.complete))):
        load_dit_weights(dit, weights)
        losses, by_time = scoring.loss(dit)
        values = [*losses, *scoring.scores(dit, step, last=last)]
        if ranks.first:
            write_json(path, {"metrics": [value.to_json() for value in values], "by_time": by_time})
    if not rewarded:
        answers = scoring.reward(step)
        if ranks.first:
            write_json(answered, {"metrics": [value.to_json() for value in answers]})
    ranks.wait()
    if spool is not None and ranks.first:
        spool.remove()
    found = read_json(path)
    more = read_json(answered)["metrics"] if spool is not None else []
    return [_metric(row) for row in [*found["metrics"], *more]], found["by_time"]


def _metric(row: dict[str, Any]) -> MetricValue:
    return MetricValue(**{**row, "ci95": None if row["ci95"] is None else tuple(row["ci95"])})


def by_step(scored: Mapping[int, Sequence[MetricValue]]) -> dict[str, dict[str, Any]]:
    """Curves ``by_step/<metric>`` over updates, of what every checkpoint has, and what has a better side."""
    steps = sorted(scored)
    tables = [{value.name: value for value in scored[step]} for step in steps]
    curves = {}
    for name, value in tables[-1].items():
        if value.direction == "none" or not all(name in table for table in tables):
            continue
        found = [table[name] for table in tables]
        curve: dict[str, Any] = {"x": steps, "y": [one.value for one in found], "x_label": "DiT updates"}
        if all(one.ci95 is not None for one in found):
            curve["low"], curve["high"] = zip(*(one.ci95 for one in found if one.ci95 is not None), strict=True)
        curve.update(y_label=value.unit, direction=value.direction, protocol=value.protocol)
        curves[f"by_step/{name}"] = curve
    return curves
