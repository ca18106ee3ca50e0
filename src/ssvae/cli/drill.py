"""Kill a tiny cell at random steps, start it again, and prove that nothing came of it.

    python -m ssvae drill                                                       # on this machine, about two minutes
    python -m ssvae drill --out DIR launch=slurm launch.jobs.pretrain.partition=debug ...          # on your own Slurm

The cell (`exp=drill`: every stage, seconds long) runs once in one go, in DIR/undisturbed, and once in DIR/disturbed,
where it is killed at places drawn from the seed: by SIGKILL, and by SIGTERM and SIGUSR2, which schedulers send before.
On this machine it is then started again by the same command; jobs have to come back by themselves. One line a proof:
losses, samples, weights, latents and metrics equal byte by byte, one MLflow run without gap or step twice, no step lost
to a polite signal. Everything lies in DIR (runs/drill/SEED), in short in DIR/drill.json.

Exit codes: 0 all proofs hold; 1 one does not, or the drill could not be carried through; 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ssvae.config.tree import Config
    from ssvae.drill.compare import Tracked
    from ssvae.drill.run import Drill, Report

HELP = "kill a tiny cell at random steps and prove that it ends the same"
RECORD = "drill.json"
PARTS = ("undisturbed", "disturbed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the places (default %(default)s)")
    parser.add_argument("--kills", metavar="K", type=int, default=6, help="how many (default %(default)s)")
    parser.add_argument("--signals", metavar="LIST", default="KILL,TERM,USR2", help="in turn (default %(default)s)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where everything goes (default runs/drill/SEED)")
    parser.add_argument("--keep", action="store_true", help="keep both runs also when all proofs hold")
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="as of run.py, for one cell: launch=slurm ...")


def run(args: argparse.Namespace) -> int:
    """Raises ValueError, before anything is run, for overrides or a folder that make no sense."""
    from ssvae.core.files import Busy, exclusive

    drill, experiment = _plan(args)
    folder = drill.folder
    _refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive(folder / ".lock", wait=False), _terminated_like_interrupted():
            return _carry_out(drill, experiment, keep=args.keep)
    except Busy as error:
        raise ValueError(f"--out {folder}: another drill is at work there") from error


def _carry_out(drill: Drill, experiment: str, *, keep: bool) -> int:
    import shutil
    from functools import partial

    from ssvae.core.files import write_json
    from ssvae.drill.run import carry_out
    from ssvae.sweep.console import RichProgress, make_console

    console, folder = make_console(), drill.folder
    say = partial(console.print, markup=False, soft_wrap=True)
    for name in PARTS:
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / f"{name}.log").unlink(missing_ok=True)
    write_json(folder / RECORD, {"passed": None, "seed": drill.seed})
    planned = ", ".join(f"{kill.signal} {kill.place}" for kill in drill.kills)
    say(f"drill in {folder}: {len(drill.kills)} kills, planned: {planned}")
    with RichProgress(console) as progress:
        report = carry_out(drill, partial(_tracked, experiment), progress, lambda text: say(f"  {text}"))
    write_json(folder / RECORD, _as_json(report))
    for proof in report.proofs:
        word = "[green]PASS[/]" if proof.passed else "[red]FAIL[/]"
        console.print(f"{word} ", end="")
        say(f"{proof.title}: {proof.text}")
    if report.error is not None:
        console.print("[red]FAIL[/] ", end="")
        say(f"the drill could not be carried through: {report.error}")
    if report.passed and not keep:
        for name in PARTS:
            shutil.rmtree(folder / name)
    kept = "" if report.passed and not keep else f"; runs and logs: {', '.join(str(folder / name) for name in PARTS)}"
    say(f"{'passed' if report.passed else 'failed'}: {folder / RECORD}{kept}")
    return 0 if report.passed else 1


def _as_json(report: Report) -> dict[str, Any]:
    import platform
    from datetime import UTC, datetime

    from ssvae.core.identity import provenance
    from ssvae.core.paths import PROJECT

    made = {"machine": platform.node(), "time": datetime.now(UTC).isoformat(timespec="seconds"), **provenance(PROJECT)}
    return {**report.to_json(), **made}


def _plan(args: argparse.Namespace) -> tuple[Drill, str]:
    """What to do, and the MLflow experiment that the cell goes to."""
    from ssvae.config.compose import resolve
    from ssvae.core.paths import project_root
    from ssvae.drill.plan import draw_kills, parse_signals
    from ssvae.drill.run import Drill

    signals = parse_signals(args.signals)
    named = {text.lstrip("+").partition("=")[0] for text in args.overrides}
    overrides = [*([] if "exp" in named else ["exp=drill"]), *args.overrides]
    if "launch.retries" not in named:
        # SIGKILL counts as a failure of the job, and it is ours.
        overrides.append(f"launch.retries={args.kills + 1}")
    cells = resolve(tuple(overrides))
    if len(cells) != 1:
        raise ValueError(f"{' '.join(args.overrides)}: makes {len(cells)} cells, a drill has one: give no lists")
    cfg = cells[0].cfg
    _check(cfg)
    steps = steps_of(cfg)
    hydras_launcher = any("hydra/launcher=submitit" in text for text in overrides)
    drill = Drill(
        folder=(args.out or project_root() / "runs" / "drill" / str(args.seed)).absolute(),
        seed=args.seed,
        kills=draw_kills(args.seed, args.kills, signals, steps),
        overrides=overrides,
        steps=steps,
        checkpoint_every=cfg.runtime.checkpoint_every,
        jobs=cfg.launch.name.value != "local" or cfg.launch.parallel > 1 or hydras_launcher,
    )
    return drill, cfg.track.experiment


def _check(cfg: Config) -> None:
    """What a drill cannot do without."""
    if cfg.stage.value != "all":
        raise ValueError(f"stage = {cfg.stage.value}: a drill runs all stages; leave stage=all")
    if cfg.vae.weights is not None:
        raise ValueError(f"vae = {cfg.vae.name}: is finished already; a drill trains its own")
    if not cfg.track.enabled:
        raise ValueError("track = none: a drill proves the tracked run, too; leave track=mlflow")
    if cfg.track.uri is not None:
        raise ValueError("track.uri: a drill keeps its runs to itself, in a database under its folder; leave it null")
    if cfg.runtime.log_every != 1:
        raise ValueError(f"runtime.log_every = {cfg.runtime.log_every}: a drill looks at every step; set it to 1")
    if cfg.launch.detach:
        raise ValueError("launch.detach = true: a drill has to follow its jobs; leave it out")


def steps_of(cfg: Config) -> Mapping[str, int | None]:
    """Updates of each stage of a cell, in running order; None for one that does not train."""
    stages = cfg.stages
    trained = [(name, getattr(stages, name)) for name in ("base", "pretrain", "decoder_finetune")]
    steps: dict[str, int | None] = {name: stage.train.steps for name, stage in trained if stage is not None}
    steps["measure"] = None
    for ending, stage in (("_base", stages.probe_base), ("", stages.probe)):
        if stage is not None:
            steps |= {f"latents{ending}": None, f"dit{ending}": stage.probe.train.steps}
    return {**steps, "probe": None}


def _tracked(experiment: str, root: Path) -> Sequence[Tracked]:
    from ssvae.track.history import read_cells

    return read_cells(root / "runs" / "mlflow.db", experiment)


def _refuse_foreign(folder: Path) -> None:
    if folder.is_file():
        raise ValueError(f"--out {folder}: is a file; give a folder")
    strangers = [path.name for path in folder.iterdir() if path.name != ".lock"] if folder.exists() else []
    if strangers and not (folder / RECORD).exists():
        raise ValueError(f"--out {folder}: is no drill's (it holds {strangers[0]}); give a new or empty folder")


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends the drill as Ctrl-C does: with its processes and jobs."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
