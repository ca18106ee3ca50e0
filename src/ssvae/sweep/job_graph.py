"""Which jobs a sweep consists of: the stages that are missing, grouped, with what each job has to wait for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ssvae.config.launch import KINDS, JobsConfig, QueueConfig
from ssvae.stages.plan import COMPUTED, StagePlan
from ssvae.sweep.planned import PlannedCell
from ssvae.sweep.schedule import not_needed


@dataclass(frozen=True)
class JobPlan:
    """One job. stages: name -> plan, in order. cells: all that need it; the first one's config is used. needs: ids of
    the jobs that have to finish before it."""

    job_id: str
    kind: str
    stages: dict[str, StagePlan]
    cells: tuple[PlannedCell, ...]
    needs: tuple[str, ...]
    queue: QueueConfig

    @property
    def label(self) -> str:
        """Its cell, or how many share it."""
        more = f" and {len(self.cells) - 1} more" if len(self.cells) > 1 else ""
        return f"{self.cells[0].label}{more}"


def plan_jobs(
    cells: Sequence[PlannedCell], jobs: JobsConfig, made_by: Callable[[StagePlan], str | None] = lambda plan: None
) -> tuple[list[JobPlan], list[str]]:
    """The jobs that make what is missing, each behind those that it needs; and the ids of other jobs that these cells
    wait for. made_by: the job that is going to make a stage already, if there is one.

    A stage is in one job, however many cells need it. Stages of one kind of work that the same cells need make one job:
    whatever depends on a stage is needed by no more cells than the stage itself, so no circle can arise.
    """
    users: dict[str, list[PlannedCell]] = {}
    elsewhere: dict[str, str] = {}
    stages: dict[str, StagePlan] = {}
    for one in cells:
        for name, plan in one.plans.items():
            if plan.finished or name not in COMPUTED[one.cell.cfg.stage] or not_needed(name, one.plans):
                continue
            if plan.id not in elsewhere and (other := made_by(plan)) is not None:
                elsewhere[plan.id] = other
            if plan.id in elsewhere:
                continue
            users.setdefault(plan.id, []).append(one)
            stages.setdefault(plan.id, plan)
    groups: dict[tuple[str, tuple[str, ...]], list[StagePlan]] = {}
    for identity, plan in stages.items():
        key = (KINDS[plan.name], tuple(one.cell_id for one in users[identity]))
        groups.setdefault(key, []).append(plan)
    home = elsewhere | {plan.id: _job_id(group) for group in groups.values() for plan in group}
    found: dict[str, JobPlan] = {}
    for (kind, _), group in groups.items():
        job_id = _job_id(group)
        parents = [home[parent] for plan in group for parent in plan.parents.values() if parent in home]
        needs = tuple(dict.fromkeys(parent for parent in parents if parent != job_id))
        members = {plan.name: plan for plan in group}
        queue = jobs.of(group[0].name)
        found[job_id] = JobPlan(job_id, kind, members, tuple(users[group[-1].id]), needs, queue)
    return _in_order(found), list(dict.fromkeys(elsewhere.values()))


def _job_id(group: Sequence[StagePlan]) -> str:
    """Named after the last thing that it makes."""
    return f"{group[-1].name}-{group[-1].id}"


def _in_order(jobs: dict[str, JobPlan]) -> list[JobPlan]:
    ordered: dict[str, JobPlan] = {}

    def place(job: JobPlan) -> None:
        if job.job_id in ordered:
            return
        for parent in job.needs:
            if parent in jobs:
                place(jobs[parent])
        ordered[job.job_id] = job

    for job in jobs.values():
        place(job)
    return list(ordered.values())


def arrays(jobs: Sequence[JobPlan], size: int) -> list[list[JobPlan]]:
    """Jobs that can be submitted at once, behind those they need: same kind, same needs or needs side by side.

    Side by side: the jobs before them were one array, and each needs its own element of that. At most ``size`` in one.
    """
    chunks: list[list[JobPlan]] = []
    place: dict[str, tuple[int, int]] = {}  # job -> (chunk, position)
    left = list(jobs)
    ours = {job.job_id for job in jobs}
    while left:
        ready = [job for job in left if all(parent in place for parent in job.needs if parent in ours)]
        assert ready, "a circle of jobs"
        first = ready[0]
        # By what they make, not by kind alone: bases and pre-trainings in one array would match nothing behind them.
        alike = [job for job in ready if job.kind == first.kind and list(job.stages) == list(first.stages)]
        shared = [job for job in alike if job.needs == first.needs]
        beside = _side_by_side(alike, place, chunks)
        chosen = (beside if len(beside) > len(shared) else shared)[:size]
        for position, job in enumerate(chosen):
            place[job.job_id] = (len(chunks), position)
        chunks.append(chosen)
        done = {job.job_id for job in chosen}
        left = [job for job in left if job.job_id not in done]
    return chunks


def _side_by_side(
    alike: Sequence[JobPlan], place: dict[str, tuple[int, int]], chunks: Sequence[Sequence[JobPlan]]
) -> list[JobPlan]:
    """The jobs that need one and the same element of one or more whole arrays each, in the order of the elements."""
    by_chunks: dict[tuple[int, ...], dict[int, JobPlan]] = {}
    for job in alike:
        places = [place[parent] for parent in job.needs if parent in place]
        positions = {position for _, position in places}
        if len(places) != len(job.needs) or len(positions) != 1:
            continue
        by_chunks.setdefault(tuple(chunk for chunk, _ in places), {}).setdefault(positions.pop(), job)
    best: list[JobPlan] = []
    for parents, members in by_chunks.items():
        whole = range(len(members))
        if set(members) == set(whole) and all(len(chunks[parent]) == len(members) for parent in parents):
            ordered = [members[position] for position in whole]
            best = ordered if len(ordered) > len(best) else best
    return best
