"""All checks of a job's machine, on every rank: one line each, and one clear stop."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping

import torch.distributed as dist

from ssvae.core.paths import PROJECT
from ssvae.core.ranks import Ranks
from ssvae.preflight.all_reduce import judge_all_reduce, measure_all_reduce
from ssvae.preflight.base import Check, Crew, Facts, Needs, PreflightError, Problem, Verdict
from ssvae.preflight.board import Board, meeting_point
from ssvae.preflight.clips import judge_data, measure_data
from ssvae.preflight.conv import measure_conv
from ssvae.preflight.disk import judge_disk, loader_bytes, measure_disk
from ssvae.preflight.folders import judge_shared, measure_shared, measure_writable
from ssvae.preflight.gpu import judge_gpu, measure_gpu, trains_in_bf16
from ssvae.preflight.outside import measure_networks, measure_tracker
from ssvae.preflight.ranks import absent_problems, judge_speed, judge_world, measure_speed, world_facts
from ssvae.preflight.versions import judge_versions, measure_versions

logger = logging.getLogger(__name__)
Say = Callable[[str], None]
SHOWN = 4
"""Problems of one check that are named one by one."""


def preflight(needs: Needs, ranks: Ranks, say: Say, store: dist.Store | None = None) -> None:
    """Check this machine for a job; every rank calls it, before the first stage and at the same place.

    say: told one line a check, on the first rank. store: where the ranks meet, from :func:`meet`; None: the store of
    MASTER_ADDR and MASTER_PORT. Raises PreflightError on every rank when any check failed on any of them; warnings
    only say something. No check hides another, and a rank that is silent is named after its time.
    """
    begun = time.monotonic()
    limits = needs.limits
    board = Board(store if store is not None else meeting_point(ranks, limits.roll_call_s), ranks)
    crew = board.roll_call(limits.roll_call_s)
    failed: dict[str, list[Problem]] = {}
    if missing := absent_problems(crew, limits.roll_call_s, os.environ.get("SLURM_JOB_NODELIST")):
        failed["ranks"] = missing
        if ranks.first:
            say(_line("FAILED", "ranks", _text(missing)))
    silent: set[int] = set()
    warned = 0
    checks = _checks(needs, board, crew, lambda: sorted({*crew.absent, *silent}))
    for check in checks:
        board.post(check.name, _measured(check))
        if ranks.first:
            expected = crew.hosts.keys() - silent
            answers = board.collect(check.name, sorted(expected), check.patience_s)
            silent |= expected - answers.keys()
            word, text, problems = _judged(check, answers, sorted(expected - answers.keys()), crew)
            say(_line(word, check.name, text))
            warned += word == "warning"
            if problems:
                failed[check.name] = problems
    lines = [f"{name}: {_text(problems)}" for name, problems in failed.items()]
    waiting = sum(check.patience_s for check in checks)
    verdict = board.from_first("verdict", [list(failed), lines], waiting)
    if verdict is None:
        raise PreflightError("ranks: the first rank gave no verdict; its log says why")
    board.part(crew.hosts.keys() - silent)
    names, lines = verdict
    if ranks.first:
        end = f"{len(names)} FAILED: {', '.join(names)}" if names else "none failed"
        more = f", {warned} with a warning" if warned else ""
        say(f"preflight: {len(checks)} checks in {time.monotonic() - begun:.1f} s, {end}{more}")
    if names:
        raise PreflightError("preflight failed: " + "\n".join(lines), names, said=True)


def meet(ranks: Ranks, seconds: float) -> dist.Store:
    """Wait for all ranks before the process group is opened, which would wait for a missing one without naming it.

    ranks: as the environment tells them. Keep the store until the group is open: they use one server. Raises
    PreflightError that names who is missing.
    """
    store = meeting_point(ranks, seconds)
    board = Board(store, ranks)
    crew = board.roll_call(seconds)
    board.part(crew.hosts)
    if missing := absent_problems(crew, seconds, os.environ.get("SLURM_JOB_NODELIST")):
        raise PreflightError(f"ranks: {_text(missing)}")
    return store


def _checks(needs: Needs, board: Board, crew: Crew, missing: Callable[[], list[int]]) -> list[Check]:
    """In this order. Collective ones come last: what hangs there must not keep others from being tried."""
    ranks, limits = board.ranks, needs.limits
    patience, reading = limits.patience_s, limits.reading_s
    # A rank that came too late for the roll call is its own first.
    first_here = ranks.rank not in crew.hosts or crew.on_host(ranks.rank)[0] == ranks.rank
    bf16 = trains_in_bf16(needs)
    fullest = max(len(crew.on_host(rank)) for rank in crew.hosts)
    batches = loader_bytes(needs, ranks.world, fullest)
    return [
        Check("world", lambda: world_facts(ranks.world), lambda found: judge_world(found, crew, needs.world), patience),
        Check("versions", lambda: measure_versions(PROJECT), lambda found: judge_versions(found, crew), patience),
        Check(
            "gpu", lambda: measure_gpu(needs), lambda found: judge_gpu(found, crew, needs.gpus, bf16, limits), patience
        ),
        Check("speed", measure_speed, lambda found: judge_speed(found, crew, limits), patience),
        Check("conv3d", lambda: measure_conv(bf16, limits), _noted, patience),
        Check("writable", lambda: measure_writable(needs.runs, ranks.rank), _noted, patience),
        Check("data", lambda: measure_data(needs, ranks.rank), lambda found: judge_data(found, crew), reading),
        Check(
            "disk",
            lambda: measure_disk(needs, first_here),
            lambda found: judge_disk(found, needs.runs, limits, batches),
            patience,
        ),
        Check("networks", lambda: measure_networks(needs, first_here), _noted, reading),
        Check("tracker", lambda: measure_tracker(needs, ranks.first), _noted, patience),
        Check(
            "shared",
            lambda: measure_shared(needs.runs, board, crew, limits),
            lambda found: judge_shared(found, crew),
            patience + 2 * limits.visible_s,
        ),
        Check(
            "all_reduce",
            lambda: measure_all_reduce(board, crew, missing, limits),
            lambda found: judge_all_reduce(found, crew, limits),
            patience + 2 * limits.all_reduce_s,
        ),
    ]


def _measured(check: Check) -> Facts:
    """A check that breaks is a problem of its own, and does not hide the others."""
    try:
        return check.measure()
    except (OSError, RuntimeError, ValueError) as error:
        logger.warning("preflight: %s broke", check.name, exc_info=True)
        first = str(error).strip().partition("\n")[0][:200]
        text = f"{type(error).__name__}: {first}"
        return {"broken": True, "problems": [[text, "the log of that rank has all of it"]]}


def _noted(answers: Mapping[int, Facts]) -> Verdict:
    """For checks that each rank judges itself: the first note there is."""
    return Verdict(next((facts["note"] for facts in answers.values() if "note" in facts), ""), [], [])


def _judged(
    check: Check, answers: Mapping[int, Facts], silent: list[int], crew: Crew
) -> tuple[str, str, list[Problem]]:
    """(word, rest of the line, problems) of one check. silent: ranks that should have answered."""
    problems = _of_ranks(answers, "problems", crew)
    warnings = _of_ranks(answers, "warnings", crew)
    if silent:
        what = f"no answer from {crew.names(silent)} within {check.patience_s:g} s"
        problems.insert(0, Problem(what, "it hangs or has died there: see its log, and leave a bad node out"))
    skipped = [facts["skipped"] for facts in answers.values() if "skipped" in facts]
    whole = {rank: facts for rank, facts in answers.items() if not facts.keys() & {"skipped", "broken"}}
    note = ""
    if whole:
        note, more, further = check.judge(whole)
        problems, warnings = [*more, *problems], [*further, *warnings]
    if problems:
        return "FAILED", _text([*problems, *warnings]), problems
    if warnings:
        return "warning", _text(warnings), []
    if skipped and len(skipped) == len(answers):
        return "skipped", skipped[0], []
    return "ok", note, []


def _of_ranks(answers: Mapping[int, Facts], kind: str, crew: Crew) -> list[Problem]:
    """What ranks found by themselves, with the names of those that found the same."""
    by_text: dict[tuple[str, str], list[int]] = {}
    for rank, facts in answers.items():
        for what, remedy in facts.get(kind, []):
            by_text.setdefault((what, remedy), []).append(rank)
    found = []
    for (what, remedy), ranks in by_text.items():
        names = crew.names(ranks)
        found.append(Problem(f"{names}: {what}" if names else what, remedy))
    return found


def _text(problems: list[Problem]) -> str:
    """On one line; what a hundred ranks say is shortened."""
    shown = " | ".join(" ".join(str(problem).split()) for problem in problems[:SHOWN])
    more = len(problems) - SHOWN
    return f"{shown} | and {more} more" if more > 0 else shown


def _line(word: str, name: str, text: str) -> str:
    return f"preflight: {name:<10} {word:<7} {text}".rstrip()
