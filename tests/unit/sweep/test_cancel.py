"""Who is ended by ``cancel``, and who is left to another sweep."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from job_folders import make_job
from ssvae.core.alive import this_process
from ssvae.core.files import exclusive, write_json
from ssvae.core.jobs import append_event, history, job_folder, read_job, write_sweep_jobs
from ssvae.sweep.cancel import cancel, cancel_cells
from ssvae.sweep.local_jobs import supervisor_lock, supervisor_note


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm where all wait, and a scancel that notes whom it is told to end."""
    tools = tmp_path / "tools"
    tools.mkdir()
    programs = {
        "squeue": "for n in 7 8 9; do echo \"$n|PENDING|Priority|(null)|N/A|\"; done",
        "sacct": "exit 0",
        "scontrol": "exit 1",
        "scancel": f'echo "$*" >> {tools}/calls',
    }  # fmt: skip
    for name, body in programs.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    (tools / "calls").touch()
    return tools / "calls"


def jobs_of(root: Path, **lists: list[str]) -> None:
    """Jobs by sweep; each has the number that ends its name."""
    for name in dict.fromkeys(name for jobs in lists.values() for name in jobs):
        sweeps = [sweep for sweep, jobs in lists.items() if name in jobs]
        number = name.rpartition("-")[2]
        stage = {name: f"runs/stages/{name}"}
        make_job(root, name, stage, ["submitted"], sweeps=sweeps, scheduler_id=number, cells=[number])
    for sweep, names in lists.items():
        write_sweep_jobs(root, sweep, names)


def test_a_shared_job_ends_with_the_last_sweep_that_waits_for_it(tmp_path: Path, slurm: Path) -> None:
    jobs_of(tmp_path, a=["pretrain-7", "probe-8"], b=["pretrain-7", "probe-9"])
    done = cancel(tmp_path, "a")
    assert done.ended == ["probe-8 (Slurm job 8)"] and done.spared == ["pretrain-7 goes on: b needs it"]
    assert slurm.read_text() == "8\n"
    assert history(job_folder(tmp_path, "probe-8")).cancelled == "by the user"
    assert read_job(job_folder(tmp_path, "pretrain-7")).sweeps == ["b"]
    assert sorted(cancel(tmp_path, "b").ended) == ["pretrain-7 (Slurm job 7)", "probe-9 (Slurm job 9)"]


def test_a_sweep_that_has_given_a_job_up_holds_it_no_more(tmp_path: Path, slurm: Path) -> None:
    jobs_of(tmp_path, a=["pretrain-7"], b=["pretrain-7"])
    write_sweep_jobs(tmp_path, "b", [])
    assert cancel(tmp_path, "a").ended == ["pretrain-7 (Slurm job 7)"]


def test_cells_take_along_what_nobody_else_needs(tmp_path: Path, slurm: Path) -> None:
    jobs_of(tmp_path, a=["pretrain-7", "probe-8", "probe-9"], b=["probe-9"])
    cancel_cells(tmp_path, "a", ["8", "9"])
    assert slurm.read_text() == "8\n"


def test_a_refusal_of_slurms_is_told(tmp_path: Path, slurm: Path) -> None:
    (slurm.parent / "scancel").write_text("#!/bin/sh\necho access denied >&2; exit 1\n")
    jobs_of(tmp_path, a=["pretrain-7"])
    with pytest.raises(ValueError, match="scancel 7: access denied"):
        cancel(tmp_path, "a")
    assert history(job_folder(tmp_path, "pretrain-7")).cancelled is None


def test_a_sweep_without_jobs_is_ended_in_its_terminal(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no jobs"):
        cancel(tmp_path, "a")


def test_a_supervisor_of_another_machine_is_not_shot_at_here(tmp_path: Path) -> None:
    home = make_job(tmp_path, "pretrain-1", {"pretrain": "runs/stages/p"}, launcher="local")
    there = {**this_process(), "host": "elsewhere"}
    append_event(home, "submitted", **there)
    write_json(supervisor_note(tmp_path, "grid"), there)
    lock = exclusive(supervisor_lock(tmp_path, "grid"), wait=True)
    with lock, pytest.raises(ValueError, match="run on elsewhere: cancel them there"):
        cancel(tmp_path, "grid")
