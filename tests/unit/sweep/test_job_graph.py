"""Stages become jobs: shared ones once, each behind what it needs, in as few arrays as their needs allow."""

from __future__ import annotations

from pathlib import Path

from job_grids import finish, planned

from ssvae.stages.plan import COMPUTED
from ssvae.sweep.job_graph import JobPlan, arrays, plan_jobs
from ssvae.sweep.planned import PlannedCell

GRID = ("reg=none,lcr,lmr,lcr_lmr", "channels=16,48", "exp=cpu_finetune")


def jobs_of(cells: list[PlannedCell]) -> list[JobPlan]:
    return plan_jobs(cells, cells[0].cell.cfg.launch.jobs)[0]


def test_every_missing_stage_is_in_exactly_one_job_behind_its_parents(tmp_path: Path) -> None:
    cells = planned(tmp_path, *GRID)
    jobs = jobs_of(cells)
    stages = [plan.id for job in jobs for plan in job.stages.values()]
    wanted = {plan.id for one in cells for name, plan in one.plans.items() if name in COMPUTED[one.cell.cfg.stage]}
    assert sorted(stages) == sorted(wanted)
    seen: set[str] = set()
    for job in jobs:
        assert set(job.needs) <= {other.job_id for other in jobs if other is not job} & seen | set()
        for plan in job.stages.values():
            parents = set(plan.parents.values())
            before = {p.id for other in jobs if other.job_id in seen for p in other.stages.values()}
            assert parents <= before | {own.id for own in job.stages.values()}
        seen.add(job.job_id)


def test_a_stage_that_cells_share_is_one_job_and_a_lone_cell_is_a_chain(tmp_path: Path) -> None:
    cells = planned(tmp_path, *GRID)
    shared = [job for job in jobs_of(cells) if "base" in job.stages]
    assert len(shared) == 2 and all(len(job.cells) == 4 for job in shared)
    (alone,) = planned(tmp_path, "reg=lcr", "exp=cpu_finetune")
    chain = jobs_of([alone])
    assert [list(job.stages) for job in chain] == [
        ["base", "pretrain"], ["decoder_finetune"], ["measure"], ["latents", "dit", "probe"]
    ]  # fmt: skip
    assert [job.kind for job in chain] == ["pretrain", "decoder_finetune", "measure", "probe"]
    ids = [job.job_id for job in chain]
    assert [set(job.needs) for job in chain] == [set(), {ids[0]}, {ids[1]}, {ids[0], ids[1]}]


def test_what_is_finished_is_no_job_and_is_not_waited_for(tmp_path: Path) -> None:
    (one,) = planned(tmp_path, "reg=lcr")
    finish(one, "base", "pretrain")
    jobs = jobs_of([one])
    assert [list(job.stages) for job in jobs] == [["measure"], ["latents", "dit", "probe"]]
    assert all(not job.needs for job in jobs)
    finish(one, *one.plans)
    assert jobs_of([one]) == []


def test_a_base_whose_successor_is_there_is_not_made_again(tmp_path: Path) -> None:
    (one,) = planned(tmp_path, "reg=lcr")
    finish(one, "pretrain")
    assert all("base" not in job.stages for job in jobs_of([one]))


def test_each_kind_of_work_has_its_own_queue(tmp_path: Path) -> None:
    (one,) = planned(tmp_path, "reg=lcr", "exp=cpu_finetune", "launch=slurm", "launch.jobs.probe.timeout_min=7")
    by_kind = {job.kind: job.queue for job in jobs_of([one])}
    assert {kind: queue.world for kind, queue in by_kind.items()} == {
        "pretrain": 32, "decoder_finetune": 8, "measure": 1, "probe": 8
    }  # fmt: skip
    assert by_kind["probe"].timeout_min == 7


def test_arrays_hold_jobs_that_wait_for_the_same_or_for_their_own_element(tmp_path: Path) -> None:
    jobs = jobs_of(planned(tmp_path, *GRID))
    chunks = arrays(jobs, 1000)
    assert sorted(job.job_id for chunk in chunks for job in chunk) == sorted(job.job_id for job in jobs)
    place = {
        job.job_id: (number, position) for number, chunk in enumerate(chunks) for position, job in enumerate(chunk)
    }
    for number, chunk in enumerate(chunks):
        assert len({job.kind for job in chunk}) == 1
        for job in chunk:
            assert all(place[parent][0] < number for parent in job.needs)
        if len({job.needs for job in chunk}) > 1:
            for position, job in enumerate(chunk):
                assert all(place[parent][1] == position for parent in job.needs)
                assert all(len(chunks[place[parent][0]]) == len(chunk) for parent in job.needs)
    # 2 bases, 2 x 4 pretrains, then fine-tunes, measures and probes beside them: no cell is submitted by itself.
    assert [len(chunk) for chunk in chunks] == [2] + [4] * 8


def test_arrays_are_cut_to_size(tmp_path: Path) -> None:
    jobs = jobs_of(planned(tmp_path, *GRID))
    chunks = arrays(jobs, 3)
    assert max(len(chunk) for chunk in chunks) == 3
    assert sorted(job.job_id for chunk in chunks for job in chunk) == sorted(job.job_id for job in jobs)


def test_a_pretrain_that_two_cells_share_is_needed_by_both_measures(tmp_path: Path) -> None:
    cells = planned(tmp_path, "reg=lcr", "score.clips=4,6")
    jobs = jobs_of(cells)
    trained = [job for job in jobs if "pretrain" in job.stages]
    assert len(trained) == 1 and len(trained[0].cells) == 2
    measures = [job for job in jobs if "measure" in job.stages]
    assert len(measures) == 2 and all(job.needs == (trained[0].job_id,) for job in measures)


def test_what_another_job_is_going_to_make_is_waited_for_and_not_made_again(tmp_path: Path) -> None:
    cells = planned(tmp_path, "reg=lcr,lmr")
    base = cells[0].plans["base"].id
    jobs, others = plan_jobs(
        cells, cells[0].cell.cfg.launch.jobs, lambda plan: "somebodys" if plan.id == base else None
    )
    assert others == ["somebodys"]
    assert all("base" not in job.stages for job in jobs)
    assert [job.needs for job in jobs if "pretrain" in job.stages] == [("somebodys",)] * 2
    assert plan_jobs(cells, cells[0].cell.cfg.launch.jobs, lambda plan: "somebodys") == ([], ["somebodys"])


def test_a_grid_that_is_partly_there_still_makes_few_arrays(tmp_path: Path) -> None:
    """Ten seeds of two cells, the base of one seed finished: not an array a seed."""
    cells = planned(tmp_path, "reg=none,lcr", "seed=range(0,10)")
    finish(cells[0], "base")
    jobs = jobs_of(cells)
    chunks = arrays(jobs, 1000)
    assert sorted(job.job_id for chunk in chunks for job in chunk) == sorted(job.job_id for job in jobs)
    assert sorted(len(chunk) for chunk in chunks) == [2, 2, 2, *[9] * 7]
