"""Which cheap statistic of the latents predicts the scores of diffusion: rank correlations over the cells of sweeps.

Writes predict.csv, predict.md and predict.png. Cells that differ only by seed, or share a VAE, count as one; with few
of them there is a table and no conclusion, with fewer than 5 there is neither. A few statistics are the main family,
adjusted over themselves; all others are exploratory, adjusted over all.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssvae.report.predict import Prediction

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
        "--statistics",
        metavar="NAME,...",
        help="the main family, to be chosen before looking (default: the few that the text names)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (default: results/SWEEP, results/predict/SWEEP+SWEEP)"
    )


def run(args: argparse.Namespace) -> int:
    """Raises ValueError for unknown sweeps or scores, mixed protocols and too few cells; nothing is written then."""
    from ssvae.core.paths import project_root
    from ssvae.report.predict import MAIN, predict
    from ssvae.report.predict_cells import collect_sweeps

    root = project_root()
    sweeps = list(dict.fromkeys(args.sweeps))
    scores, main = _names("--scores", args.scores), _names("--statistics", args.statistics)
    rows = collect_sweeps(root, sweeps)
    if main is not None:
        known = {name for row in rows for name in row.metrics}
        if missing := [name for name in main if name not in known]:
            raise ValueError(
                f"--statistics: no finished cell has {', '.join(missing)}; the sweep's table names what there is"
            )
    prediction = predict(rows, scores, main or MAIN)
    # Late: matplotlib takes a second to import and writes its font cache.
    from ssvae.core.files import write_text
    from ssvae.report.figures import save_figure
    from ssvae.report.predict_figure import predict_figure
    from ssvae.report.predict_text import predict_csv, predict_markdown

    words = ["python", "-m", "ssvae", "predict", *sweeps]
    words += ["--scores", args.scores] if scores is not None else []
    words += ["--statistics", args.statistics] if main is not None else []
    name = sweeps[0] if len(sweeps) == 1 else "+".join(sweeps)
    folder = args.out or root / "results" / (name if len(sweeps) == 1 else Path("predict") / name)
    paths = [folder / file for file in FILES]
    write_text(paths[0], predict_csv(prediction))
    write_text(paths[1], predict_markdown(prediction, sweeps, shlex.join(words)))
    save_figure(predict_figure(prediction, f"What predicts {prediction.scores[0]}: {', '.join(sweeps)}"), paths[2])
    _show(prediction, paths)
    return 0


def _names(flag: str, given: str | None) -> list[str] | None:
    if given is None:
        return None
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        what = flag.removeprefix("--").removesuffix("s")
        raise ValueError(f"{flag} {given!r} names no {what}: give names of metrics with commas between")
    return names


def _show(prediction: Prediction, paths: list[Path]) -> None:
    from ssvae.sweep.console import make_console

    console = make_console()
    score = prediction.scores[0]
    main, others = prediction.of(score, main=True), prediction.of(score, main=False)
    for title, found in (("main family", main), ("exploratory, strongest", others[:5])):
        if found:
            console.print(f"{title}, with {score}:", markup=False)
        for one in found:
            line = f"  {one.statistic:32} {one.spearman.value:+.2f}  {one.verdict}"
            console.print(line, markup=False, soft_wrap=True)
    console.print("written:", markup=False)
    for path in paths:
        console.print(f"  {path}", markup=False, soft_wrap=True)
