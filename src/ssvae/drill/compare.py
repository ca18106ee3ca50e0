"""The proofs: what a disturbed run and an undisturbed one must have in common, each told in one line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ssvae.drill.difference import first_difference
from ssvae.drill.ledger import Hit, Ledger
from ssvae.drill.plan import POLITE
from ssvae.drill.watch import attempts

FILES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "losses": ("same losses", ("runs/stages/*/steps.jsonl",)),
    "samples": ("same samples seen", ("runs/stages/*/samples.jsonl",)),
    "weights": ("same weights", ("runs/stages/**/*.safetensors",)),
    "latents": ("same latents", ("runs/latents/**/*.npy", "runs/latents/**/*.jsonl", "runs/latents/**/*.json")),
    "metrics": ("same metrics", ("runs/stages/**/*.json", "results/*/table.csv")),
}
"""Proof -> its words, and the files that must be equal byte by byte."""
OF_THE_RUN = ("run.json", "spent.json", "done.json", "progress.json", "system")
"""Files and folders that tell of attempts, times and machines, not of results."""


class Tracked(Protocol):
    """A run in the tracker. points: (step, value) of every metric, in any order."""

    @property
    def status(self) -> str: ...

    @property
    def points(self) -> Mapping[str, Sequence[tuple[int, float]]]: ...


@dataclass(frozen=True)
class Proof:
    """name, for machines; title and text, for people; numbers behind the text."""

    name: str
    title: str
    passed: bool
    text: str
    numbers: dict[str, Any] = field(default_factory=dict)


def prove_files(undisturbed: Path, disturbed: Path) -> list[Proof]:
    """Equal files in two roots, one proof a kind of :data:`FILES`."""
    return [_equal(name, title, patterns, undisturbed, disturbed) for name, (title, patterns) in FILES.items()]


def _equal(name: str, title: str, patterns: Sequence[str], undisturbed: Path, disturbed: Path) -> Proof:
    names = sorted(_matching(undisturbed, patterns) | _matching(disturbed, patterns))
    told = {one: first_difference(undisturbed / one, disturbed / one) for one in names}
    wrong = {one: why for one, why in told.items() if why is not None}
    numbers: dict[str, Any] = {"files": len(names), "different": list(wrong)}
    if not names:
        return Proof(name, title, False, f"nothing to compare: there is no {' or '.join(patterns)}", numbers)
    if wrong:
        first = next(iter(wrong))
        return Proof(name, title, False, f"{len(wrong)} of {len(names)} files differ; {first}: {wrong[first]}", numbers)
    lines = sum((undisturbed / one).read_bytes().count(b"\n") for one in names if one.endswith(".jsonl"))
    steps = f", {lines} lines" if lines else ""
    return Proof(name, title, True, f"{len(names)} files equal byte by byte{steps}", {**numbers, "lines": lines})


def _matching(root: Path, patterns: Sequence[str]) -> set[str]:
    found = [path for pattern in patterns for path in root.glob(pattern) if path.is_file()]
    return {str(path.relative_to(root)) for path in found if not {path.name, path.parent.name} & {*OF_THE_RUN}}


def prove_tracking(undisturbed: Mapping[str, Path], runs: Sequence[Tracked]) -> Proof:
    """One finished run that holds every step of every step metric exactly once, with the undisturbed values.

    undisturbed: the stages' folders, by name.
    """
    title = "one contiguous MLflow run"
    wanted = {key: points for stage, folder in undisturbed.items() for key, points in _curves(stage, folder).items()}
    numbers: dict[str, Any] = {"runs": len(runs), "metrics": len(wanted), "points": sum(map(len, wanted.values()))}
    if len(runs) != 1:
        return Proof("mlflow", title, False, f"the cell has {len(runs)} runs, not one", numbers)
    (run,) = runs
    told = next((why for key, points in wanted.items() if (why := _curve(key, points, run.points.get(key, ())))), None)
    if told is None and not wanted:
        told = "the undisturbed run has no step metrics"
    if told is None and run.status != "FINISHED":
        told = f"its status is {run.status}, not FINISHED"
    text = f"FINISHED, {numbers['metrics']} step metrics, {numbers['points']} points, none missing, none twice"
    return Proof("mlflow", title, told is None, told or text, numbers)


def _curves(stage: str, folder: Path) -> dict[str, dict[int, float]]:
    """What a tracker has to show of a stage: ``stage/name`` -> {step: value}; null is left out."""
    path = folder / "steps.jsonl"
    found: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        record = json.loads(line)
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                found.setdefault(f"{stage}/{name}", {})[record["step"]] = float(value)
    return found


def _curve(key: str, wanted: Mapping[int, float], found: Sequence[tuple[int, float]]) -> str | None:
    times = Counter(step for step, _ in found)
    for step in sorted(wanted.keys() | times.keys()):
        if step not in wanted:
            return f"{key} has step {step}, which the undisturbed run has not"
        if times[step] != 1:
            return f"{key} has step {step} {times[step]} times" if times[step] else f"{key} lacks step {step}"
    return next(
        (
            f"{key} at step {step} is {value!r}, undisturbed {wanted[step]!r}"
            for step, value in found
            if value != wanted[step]
        ),
        None,
    )


def prove_kills(ledger: Ledger) -> Proof:
    """As many kills as asked for have ended a process."""
    hits = Counter(hit.signal for hit in ledger.planned_hits)
    each = ", ".join(f"{count} {name}" for name, count in hits.items())
    text = f"{len(ledger.planned_hits)} of {ledger.asked} ({each or 'none'})"
    if ledger.late:
        text += f"; {len(ledger.late)} came too late and were tried elsewhere where something was left"
    numbers = {"asked": ledger.asked, "hit": dict(hits), "late": len(ledger.late)}
    return Proof("kills", "kills that hit", len(ledger.planned_hits) >= ledger.asked, text, numbers)


def prove_polite(hits: Sequence[Hit]) -> Proof:
    """Whoever was asked to stop has ended by itself with every step saved, and the next process went on right there."""
    asked = [hit for hit in hits if hit.signal in POLITE]
    unseen = [hit for hit in asked if hit.saved is not None and hit.resumed is None]
    wrong = [hit for hit in asked if not hit.itself or hit.lost != 0 or _redone(hit) or hit in unseen]
    numbers = {"asked": len(asked), "lost_steps": [hit.lost for hit in asked]}
    title = "TERM and USR2 lose no step"
    if wrong:
        return Proof("polite", title, False, _told(wrong[0]), numbers)
    behind = [f"{hit.stage} {hit.saved}" for hit in asked if hit.saved is not None]
    steps = f"; saved, and resumed, behind {', '.join(behind)}" if behind else ""
    return Proof("polite", title, True, f"{len(asked)} ended by themselves{steps}", numbers)


def prove_loss_bounded(hits: Sequence[Hit], every: int) -> Proof:
    """SIGKILL costs at most the ``every`` steps between two checkpoints."""
    hard = [hit for hit in hits if hit.signal == "KILL"]
    wrong = [hit for hit in hard if hit.lost > every or _redone(hit)]
    lost = [hit.lost for hit in hard if hit.logged is not None]
    numbers = {"killed": len(hard), "lost_steps": lost, "checkpoint_every": every}
    title = f"KILL loses at most {every} steps"
    if wrong:
        return Proof("kill", title, False, _told(wrong[0]), numbers)
    return Proof("kill", title, True, f"{len(hard)} killed, lost {', '.join(map(str, lost)) or 'no'} steps", numbers)


def _redone(hit: Hit) -> bool:
    """Did the next process begin before what was saved? A log that is first seen longer says nothing."""
    return hit.saved is not None and hit.resumed is not None and hit.resumed < hit.saved


def _told(hit: Hit) -> str:
    if not _redone(hit):
        return f"{hit}" if hit.resumed is not None or hit.saved is None else f"{hit}; it was not seen to go on"
    return f"{hit}, yet resumed behind step {hit.resumed}"


def prove_attempts(undisturbed: Mapping[str, Path], disturbed: Mapping[str, Path], hits: Sequence[Hit]) -> Proof:
    """``run.json`` of every stage counts one attempt, and one more for each process that ended in it."""
    landed = Counter(hit.stage for hit in hits)
    found = {stage: attempts(folder) for stage, folder in disturbed.items()}
    wanted = {stage: 1 + landed[stage] for stage in found}
    wrong = [f"{stage} has {n} attempts, not {wanted[stage]}" for stage, n in found.items() if n != wanted[stage]]
    wrong += [
        f"{stage} has {n} attempts undisturbed" for stage, path in undisturbed.items() if (n := attempts(path)) != 1
    ]
    text = ", ".join(f"{stage} {count}" for stage, count in found.items())
    return Proof("attempts", "attempts", not wrong, wrong[0] if wrong else text, {"attempts": found})
