"""The whole drill: one run in one go, one that is killed again and again, and the comparison of both."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ssvae.core.files import read_json
from ssvae.core.paths import PROJECT, project_root
from ssvae.core.progress import Progress
from ssvae.drill.compare import (
    Proof,
    Tracked,
    prove_attempts,
    prove_files,
    prove_kills,
    prove_loss_bounded,
    prove_polite,
    prove_tracking,
)
from ssvae.drill.jobs import cancel_jobs, disturb_jobs
from ssvae.drill.ledger import DrillError, Ledger
from ssvae.drill.local import disturb_process, run_to_end
from ssvae.drill.plan import Kill
from ssvae.drill.watch import Watch

UNDISTURBED, DISTURBED = "undisturbed", "disturbed"


@dataclass(frozen=True)
class Drill:
    """What to do. folder: where everything goes. overrides: of ``run.py``. steps: updates of each stage in running
    order, None for one that does not train. checkpoint_every: updates between two checkpoints. jobs: does the launcher
    make jobs (Slurm, or several processes at once)?
    """

    folder: Path
    seed: int
    kills: Sequence[Kill]
    overrides: Sequence[str]
    steps: Mapping[str, int | None]
    checkpoint_every: int
    jobs: bool


@dataclass
class Report:
    """What came out. error: why the drill could not be carried through."""

    drill: Drill
    proofs: list[Proof] = field(default_factory=list)
    hits: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    @property
    def passed(self) -> bool:
        return self.error is None and bool(self.proofs) and all(proof.passed for proof in self.proofs)

    def to_json(self) -> dict[str, Any]:
        drill = self.drill
        return {
            "passed": self.passed,
            "error": self.error,
            "seed": drill.seed,
            "command": command(drill.overrides),
            "planned": [asdict(kill) for kill in drill.kills],
            "hits": self.hits,
            "proofs": [asdict(proof) for proof in self.proofs],
        }


def command(overrides: Sequence[str]) -> list[str]:
    """``python run.py OVERRIDES`` of this checkout."""
    return [sys.executable, str(PROJECT / "run.py"), *overrides]


def environment(root: Path, jobs: bool) -> dict[str, str]:
    """Of a run whose results go to ``root``. In a process of its own it sees no GPU: only on the CPU is a run's
    arithmetic certain to repeat itself to the bit."""
    # Caches that this program has placed under its own root are not for others.
    placed = str(project_root() / "runs" / ".cache")
    mine = {key: value for key, value in os.environ.items() if not value.startswith(placed)}
    kept = {key: value for key, value in mine.items() if key != "MLFLOW_TRACKING_URI"}
    return {**kept, "SSVAE_ROOT": str(root), **({} if jobs else {"CUDA_VISIBLE_DEVICES": ""})}


def carry_out(
    drill: Drill, tracked: Callable[[Path], Sequence[Tracked]], progress: Progress, told: Callable[[str], None]
) -> Report:
    """Run, kill, compare. tracked: the runs of the cell in the tracker of a root. told: hears of every kill.

    Writes below ``drill.folder`` only. Whatever happens, no process or job of the drill's is left behind.
    """
    report = Report(drill)
    ledger = Ledger(drill.kills, drill.steps, drill.seed, told)
    try:
        _run_both(drill, ledger, progress)
        report.proofs = prove(drill, ledger, tracked)
    except DrillError as error:
        report.error = str(error)
    finally:
        report.hits = [asdict(hit) for hit in ledger.hits]
        if drill.jobs:
            for name in (UNDISTURBED, DISTURBED):
                cancel_jobs(drill.folder / name)
    return report


def _run_both(drill: Drill, ledger: Ledger, progress: Progress) -> None:
    calm, rough = drill.folder / UNDISTURBED, drill.folder / DISTURBED
    words = command(drill.overrides)
    progress.start("undisturbed run: stages", len(drill.steps))
    run_to_end(words, environment(calm, drill.jobs), calm.with_suffix(".log"), lambda: progress.advance(_done(calm)))
    folders = stage_folders(calm)
    if lacking := [name for name in drill.steps if name not in folders]:
        raise DrillError(f"the undisturbed run has no stage {', '.join(lacking)}")
    seconds = {name: float(read_json(folder / "done.json")["seconds"]) for name, folder in folders.items()}
    share_data(calm, rough)
    disturbed = {name: rough / folders[name].relative_to(calm) for name in drill.steps}
    progress.start("disturbed run: kills", ledger.asked)
    log = rough.with_suffix(".log")
    if drill.jobs:
        run_to_end([*words, "launch.detach=true"], environment(rough, jobs=True), log)
        disturb_jobs(rough, disturbed, seconds, ledger)
        finish_jobs(rough, log)
    else:
        disturb_process(words, environment(rough, jobs=False), log, Watch(disturbed, seconds), ledger)
    progress.advance(ledger.asked)


def _done(root: Path) -> int:
    return sum(1 for pattern in ("stages", "latents") for _ in (root / "runs" / pattern).glob("*/done.json"))


def finish_jobs(root: Path, log: Path) -> None:
    """What nobody waits for after ``launch.detach=true``: the table, and the tracker from the run folders."""
    (sweep,) = [path.name for path in (root / "runs" / "sweeps").iterdir() if path.is_dir()]
    for words in (["collect", sweep], ["track", "sync", sweep]):
        run_to_end([sys.executable, "-m", "ssvae", *words], environment(root, jobs=True), log)


def stage_folders(root: Path) -> dict[str, Path]:
    """Folders of the stages of the one cell of a root, by name. Raises DrillError where there is not one cell."""
    records = [read_json(path) for path in (root / "runs" / "sweeps").glob("*/cells/*.json")]
    if len(records) != 1:
        raise DrillError(f"{root} holds {len(records)} cells: a drill has exactly one")
    return {str(name): root / where for name, where in records[0]["stages"].items()}


def share_data(calm: Path, rough: Path) -> None:
    """Give ``rough`` the rendered data of ``calm``: the same files, so that both train on equal samples."""
    for folder in sorted((calm / "runs" / "data").glob("[!.]*")):
        shutil.copytree(folder, rough / "runs" / "data" / folder.name, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def prove(drill: Drill, ledger: Ledger, tracked: Callable[[Path], Sequence[Tracked]]) -> list[Proof]:
    """All proofs, the kills' first."""
    calm, rough = drill.folder / UNDISTURBED, drill.folder / DISTURBED
    undisturbed, disturbed = stage_folders(calm), stage_folders(rough)
    return [
        prove_kills(ledger),
        prove_attempts(undisturbed, disturbed, ledger.hits),
        prove_loss_bounded(ledger.hits, drill.checkpoint_every),
        prove_polite(ledger.hits),
        *prove_files(calm, rough),
        prove_tracking(undisturbed, tracked(rough)),
    ]
