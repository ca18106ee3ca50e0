"""Which cheap statistic of the latents predicts the scores of diffusion: rank correlations over the cells of sweeps.

Writes predict.csv, predict.md and predict.png. Cells that differ only by seed, or share a VAE, count as one; with few
of them there is a table and no conclusion, with fewer than 5 there is neither.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

HELP = "which statistic of the latents predicts the scores: rank correlation over the cells of sweeps"
FILES = ("predict.csv", "predict.md", "predict.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweeps", nargs="+", metavar="SWEEP", help="names of folders under runs/sweeps")
    parser.add_argument(
        "--scores",
        metavar="NAME,...",
        help="scores to predict, the first one sorts and is drawn (default: all directed metrics of the probe)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (default: results/SWEEP, results/predict/SWEEP+SWEEP)"
    )


def run(args: argparse.Namespace) -> int:
    """Raises ValueError for unknown sweeps or scores, mixed protocols and too few cells; nothing is written then."""
    from ssvae.core.paths import project_root
    from ssvae.report.predict import collect_sweeps, predict

    root = project_root()
    sweeps = list(dict.fromkeys(args.sweeps))
    scores = [name.strip() for name in args.scores.split(",") if name.strip()] if args.scores is not None else None
    if scores == []:
        raise ValueError(f"--scores {args.scores!r} names no score: give names of metrics with commas between")
    prediction = predict(collect_sweeps(root, sweeps), scores)
    # Late: matplotlib takes a second to import and writes its font cache.
    from ssvae.core.files import write_text
    from ssvae.report.figures import save_figure
    from ssvae.report.predict_figure import predict_figure
    from ssvae.report.predict_text import predict_csv, predict_markdown

    words = ["python", "-m", "ssvae", "predict", *sweeps, *(["--scores", args.scores] if scores is not None else [])]
    name = sweeps[0] if len(sweeps) == 1 else "+".join(sweeps)
    folder = args.out or root / "results" / (name if len(sweeps) == 1 else Path("predict") / name)
    paths = [folder / file for file in FILES]
    write_text(paths[0], predict_csv(prediction))
    write_text(paths[1], predict_markdown(prediction, sweeps, shlex.join(words)))
    save_figure(predict_figure(prediction, f"What predicts {prediction.scores[0]}: {', '.join(sweeps)}"), paths[2])
    _show(
        prediction.scores[0], [(one.statistic, one.spearman.value, one.verdict) for one in prediction.relations], paths
    )
    return 0


def _show(score: str, found: list[tuple[str, float, str]], paths: list[Path]) -> None:
    from ssvae.sweep.console import make_console

    console = make_console()
    console.print(f"strongest with {score}:", markup=False)
    for statistic, value, verdict in found[:8]:
        console.print(f"  {statistic:32} {value:+.2f}  {verdict}", markup=False, soft_wrap=True)
    console.print("written:", markup=False)
    for path in paths:
        console.print(f"  {path}", markup=False, soft_wrap=True)
