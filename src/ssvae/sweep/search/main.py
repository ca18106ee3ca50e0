"""A search from one base cell to its best trials: judged, shared with other drivers, run, reported."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from ssvae.config.compose import Cell
from ssvae.config.problem import InputError
from ssvae.config.search import SearchConfig
from ssvae.config.search_checks import search_problems, text_of
from ssvae.core.identity import fingerprint
from ssvae.core.paths import project_root
from ssvae.core.progress import Progress
from ssvae.core.stop import Interrupted, Stop, Stoppable
from ssvae.stages.plan import cell_id
from ssvae.sweep.console import RichProgress, make_console, print_problems
from ssvae.sweep.launcher import Launcher, choose_launcher, launch_problems
from ssvae.sweep.one_cell import missing, plan, refused
from ssvae.sweep.planned import command_line
from ssvae.sweep.search.compose import resolve_beside
from ssvae.sweep.search.driver import Driver, too_many_failures
from ssvae.sweep.search.export import write_trials
from ssvae.sweep.search.in_process import InProcess
from ssvae.sweep.search.owner import Owner
from ssvae.sweep.search.processes import Processes
from ssvae.sweep.search.report import report_search, save_sweep
from ssvae.sweep.search.runner import Runner
from ssvae.sweep.search.slurm import Jobs
from ssvae.sweep.search.storage import dashboard_uri
from ssvae.sweep.search.study import SharedStudy
from ssvae.sweep.search.trials import Trials
from ssvae.sweep.sources import Sources
from ssvae.sweep.tracking import start_live, told
from ssvae.track.base import Problems, RunStatus

logger = logging.getLogger(__name__)


def run_search(cells: Sequence[Cell], overrides: Sequence[str], hydra_launcher: Mapping[str, Any] | None = None) -> int:
    """Search from ``cells[0]``; returns the exit code: 0 all trials done, 1 one failed, 2 bad input, 130 interrupted.

    hydra_launcher: the values of ``hydra.launcher``, where that is one of submitit's.
    """
    console = make_console()
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if found := search_problems(cells, resolve_beside):
        print_problems([f"{one.key} = {one.value}: {one.remedy}" for one in found], "no trial was run:")
        return 2
    launcher = choose_launcher(cells[0].cfg.launch, hydra_launcher)
    if problem := launcher_problem(launcher):
        print_problems([problem], "no trial was run:")
        return 2
    stop = Stop()
    with RichProgress(console) as progress, stop.on_signals():
        try:
            return _search(cells[0], command_line(overrides, True), launcher, console, progress, stop)
        except InputError as error:
            print_problems(str(error).splitlines(), "no trial was run:")
            return 2
        except (KeyboardInterrupt, Interrupted):
            console.print("[yellow]stopped; the same command goes on from there[/]")
            return 130


def launcher_problem(launcher: Launcher) -> str | None:
    """Why trials cannot be launched so."""
    if launcher.config.detach:
        return "launch.detach = true: a search has to ask and be told; leave it out, and start it where it may stay"
    if launcher.by == "local":
        return "launch.parallel: trials at once are search.workers=N, each a process of its own"
    return None


def open_runner(
    launcher: Launcher, search: SearchConfig, root: Path, name: str, progress: Progress, stop: Stop
) -> Runner:
    """What carries trials out."""
    assert launcher.by != "local", launcher_problem(launcher)
    if launcher.by == "slurm":
        return Jobs(root, name, launcher, search.workers)
    if search.workers == 1:
        return InProcess(root, progress, stop)
    return Processes(root, search.workers, root / "runs" / "sweeps" / name / "trials")


def identity_of(search: SearchConfig, base: str) -> dict[str, str]:
    """What makes two searches the same, in words. base: identity of the cell that they start from."""
    space = []
    for one in search.space:
        bounds = (
            f"{one.low!r}..{one.high!r}{' log' if one.log else ''}{'' if one.step is None else f' step {one.step!r}'}"
        )
        space.append(f"{one.key} {bounds if one.choices is None else ' | '.join(map(text_of, one.choices))}")
    prune = search.prune
    return {
        "search.space": "; ".join(space),
        "search.objectives": ", ".join(f"{goal.direction.value} {goal.metric}" for goal in search.objectives),
        "search.prune": "null"
        if prune is None
        else f"{prune.direction.value} {prune.metric}, keep {prune.keep:g}, warmup {prune.warmup}",
        "search.sampler": search.sampler.value,
        "search.seed": str(search.seed),
        "base cell": base,
    }


def search_name(cell: Cell, identity: Mapping[str, str]) -> str:
    """The given name, or one of the sweep's file and of what the search is: the same command finds its study again."""
    assert cell.cfg.search is not None
    if cell.cfg.sweep.name is not None:
        return cell.cfg.sweep.name
    pairs = (text.lstrip("+").partition("=") for text in cell.overrides)
    file = next((value for key, _, value in pairs if key == "sweep"), "search")
    return f"{file}-{fingerprint([*identity.values(), cell.cfg.search.storage.value], 8)}"


def _search(cell: Cell, command: str, launcher: Launcher, console: Console, progress: RichProgress, stop: Stop) -> int:
    root, search = project_root(), cell.cfg.search
    assert search is not None
    sources = Sources(root, Stoppable(progress, stop))
    if problems := launch_problems(launcher, [cell.cfg], root) or refused(cell.cfg, sources):
        print_problems(problems, "no trial was run:")
        return 2
    plans = plan(cell.cfg, sources, root)
    if problems := missing(cell.cfg, plans):
        print_problems(problems, "no trial was run:")
        return 2
    identity = identity_of(search, cell_id(plans))
    name = search_name(cell, identity)
    folder = root / "runs" / "sweeps" / name
    trouble = Problems()
    with Owner(folder / "drivers") as owner:
        study = SharedStudy(folder, name, search, identity, owner)
        _announce(console, name, search, study, dashboard_uri(folder, search.storage))
        live = start_live(root, cell.cfg.track, trouble)
        if live is not None:
            live.open_sweep(name, {"command": command, **identity})

        def wrote(trials: list[FrozenTrial]) -> None:
            write_trials(folder / "trials.json", name, command, search, trials)
            save_sweep(root, name, command, trials)

        trials = Trials(root, name, cell, launcher.config, sources, live)
        runner = open_runner(launcher, search, root, name, progress, stop)
        driver = Driver(search, study, trials, runner, stop, lambda: study.export(wrote))
        end: RunStatus = "KILLED"
        # What it has started elsewhere has to be ended: it asks for Ctrl-C where it knows of everything. Here, in this
        # process, there is nothing else to end, and Ctrl-C may come at once.
        asked = nullcontext() if isinstance(runner, InProcess) else stop.on_signals((signal.SIGINT,))
        try:
            study.export(wrote)
            with asked:
                driver.run()
            code = report_search(root, name, console, too_many_failures(study.trials(), search.failures), live)
            end = "FINISHED" if code == 0 else "FAILED"
        finally:
            study.export(wrote)
            if live is not None:
                live.close_sweep(name, end)
                lacking = live.close(cell.cfg.track.patience_s)
                for line in told(trouble, lacking, [name]):
                    console.print(line, style="yellow", markup=False, soft_wrap=True)
    return code


def _announce(console: Console, name: str, search: SearchConfig, study: SharedStudy, uri: str) -> None:
    states = [trial.state.is_finished() for trial in study.trials()]
    goals = ", ".join(f"{goal.metric} {goal.direction.value}d" for goal in search.objectives)
    console.print(
        escape(
            f"search {name}: {sum(states)} of {search.n_trials} trials done, {search.workers} at once; {goals}\n"
            f"watch: optuna-dashboard {uri}"
        ),
        soft_wrap=True,
    )
