"""What sbatch is given: every setting of a queue, our guarantees, and the order in which jobs wait for each other."""

from __future__ import annotations

import os
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from job_grids import planned

from ssvae.config.launch import LaunchConfig, QueueConfig
from ssvae.core.jobs import job_folder, read_job, sweep_jobs
from ssvae.sweep import by_jobs
from ssvae.sweep.by_jobs import submit
from ssvae.sweep.launcher import Launcher, choose_launcher, launch_problems
from ssvae.sweep.record import CellRecord

OTHER: dict[str, tuple[Any, str]] = {
    "timeout_min": (77, "--time=77"),
    "cpus_per_task": (9, "--cpus-per-task=9"),
    "gpus_per_node": (3, "--gpus-per-node=3"),
    "tasks_per_node": (2, "--ntasks-per-node=2"),
    "mem_gb": (17, "--mem=17GB"),
    "nodes": (2, "--nodes=2"),
    "partition": ("night", "--partition=night"),
    "qos": ("low", "--qos=low"),
    "comment": ("a comment", "--comment='a comment'"),
    "constraint": ("h100", "--constraint=h100"),
    "exclude": ("n7", "--exclude=n7"),
    "gres": ("disk:1", "--gres=disk:1"),
    "cpus_per_gpu": (5, "--cpus-per-gpu=5"),
    "gpus_per_task": (1, "--gpus-per-task=1"),
    "mem_per_gpu": ("9G", "--mem-per-gpu=9G"),
    "mem_per_cpu": ("3G", "--mem-per-cpu=3G"),
    "account": ("lab", "--account=lab"),
    "signal_delay_s": (45, "--signal=USR2@45"),
    "additional_parameters": ({"mail-user": "a@b"}, "--mail-user=a@b"),
    "setup": (["module load cuda"], "module load cuda"),
}
"""Another value of a setting, and what it has to put into the batch script."""
ELSEWHERE = ("stderr_to_stdout", "max_num_timeout", "array_parallelism")
"""Shown by tests of their own below."""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An sbatch that keeps each script and counts; the other programs only have to be there."""
    tools = tmp_path / "tools"
    (tools / "scripts").mkdir(parents=True)
    programs = {
        "sbatch": f'n=$(($(ls {tools}/scripts | wc -l) + 100)); cp "$1" {tools}/scripts/$n; '
        'echo "Submitted batch job $n"',
        "srun": "exit 1",
        "scontrol": "exit 1",
        "squeue": "exit 0",
        "sacct": "exit 0",
    }
    for name, body in programs.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")

    def stays(*given: object) -> None:
        pytest.fail("on Slurm no process of ours has to stay alive")

    monkeypatch.setattr(by_jobs, "start_supervisor", stays)
    return tools / "scripts"


def submitted(root: Path, scripts: Path, *overrides: str, config: LaunchConfig | None = None) -> dict[str, str]:
    """Submit ``TINY launch=slurm_cpu overrides``: the scripts by number."""
    cells = planned(root, "launch=slurm_cpu", *overrides)
    for one in cells:
        CellRecord.open(root, "s", one)
    launcher = Launcher("slurm", config or cells[0].cell.cfg.launch)
    assert submit(root, "s", cells, launcher).new
    return {path.name: path.read_text() for path in sorted(scripts.iterdir())}


def with_queue(root: Path, **values: Any) -> LaunchConfig:
    (one,) = planned(root, "launch=slurm_cpu", "stage=pretrain")
    launch = one.cell.cfg.launch
    return replace(launch, jobs=replace(launch.jobs, pretrain=replace(launch.jobs.pretrain, **values)))


def test_every_setting_of_a_queue_is_tested_here() -> None:
    assert {field.name for field in fields(QueueConfig)} == {*OTHER, *ELSEWHERE}


def test_settings_are_the_launcher_plugins_own() -> None:
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    theirs = {field.name for field in fields(SlurmQueueConf)}
    assert theirs - {field.name for field in fields(QueueConfig)} == {"submitit_folder", "name", "_target_"}
    assert {field.name for field in fields(QueueConfig)} <= theirs


@pytest.mark.parametrize("name", OTHER)
def test_a_setting_reaches_the_batch_script(name: str, tmp_path: Path, slurm: Path) -> None:
    value, line = OTHER[name]
    before = "\n".join(submitted(tmp_path / "a", slurm, "stage=pretrain").values())
    config = with_queue(tmp_path / "b", **{name: value})
    after = list(submitted(tmp_path / "b", slurm, "stage=pretrain", config=config).values())[-1]
    assert line not in before and line in after


def test_where_errors_go_and_how_many_run_at_once(tmp_path: Path, slurm: Path) -> None:
    config = with_queue(tmp_path, stderr_to_stdout=True, array_parallelism=2)
    config = replace(config, jobs=replace(config.jobs, measure=config.jobs.pretrain))
    scripts = submitted(tmp_path, slurm, "stages.base=null", "stage=pretrain", "reg=none,lcr,lmr", config=config)
    (text,) = scripts.values()
    assert "--array=0-2%2" in text and "--error" not in text


def test_a_queues_number_of_time_outs_is_the_jobs(tmp_path: Path, slurm: Path) -> None:
    submitted(tmp_path, slurm, "stage=pretrain", config=with_queue(tmp_path, max_num_timeout=7))
    (folder,) = [path for path in (tmp_path / "runs" / "jobs").iterdir() if not path.name.startswith(".")]
    assert read_job(folder).max_requeues == 7


def test_budgets_and_checks_are_in_the_jobs_file(tmp_path: Path, slurm: Path) -> None:
    def job(root: Path, *overrides: str) -> tuple[object, ...]:
        submitted(root, slurm, "stage=pretrain", *overrides)
        (folder,) = [path for path in (root / "runs" / "jobs").iterdir() if not path.name.startswith(".")]
        one = read_job(folder)
        return one.retries, one.fail_fast, one.preflight

    assert job(tmp_path / "a") == (1, False, True)
    assert job(tmp_path / "b", "launch.retries=5", "launch.fail_fast=true", "launch.preflight=false") == (
        5,
        True,
        False,
    )


def test_an_array_holds_no_more_than_it_may(tmp_path: Path, slurm: Path) -> None:
    one = ("stages.base=null", "stage=pretrain", "reg=none,lcr,lmr")
    assert len(submitted(tmp_path / "a", slurm, *one)) == 1
    assert len(submitted(tmp_path / "b", slurm, *one, "launch.array_size=2")) == 1 + 2


def test_settings_for_all_jobs_reach_each_kind_unless_it_has_its_own(tmp_path: Path, slurm: Path) -> None:
    every = ("partition", "account", "qos", "constraint", "exclude")
    scripts = submitted(
        tmp_path, slurm, *(f"launch.{name}=all_{name}" for name in every), "launch.setup=[all_setup]",
        "launch.jobs.measure.partition=own",
    )  # fmt: skip
    measure = [text for text in scripts.values() if "job-name=ssvae-measure" in text]
    others = [text for text in scripts.values() if "job-name=ssvae-measure" not in text]
    assert len(measure) == 1 and len(others) == 2
    for text in others:
        assert all(f"--{name}=all_{name}" in text for name in every) and "\nall_setup\n" in text
    assert "--partition=own" in measure[0] and "--account=all_account" in measure[0]


def test_our_guarantees_are_in_every_script(tmp_path: Path, slurm: Path) -> None:
    for text in submitted(tmp_path, slurm).values():
        assert "#SBATCH --requeue" in text
        assert "#SBATCH --kill-on-invalid-dep=yes" in text
        assert "#SBATCH --open-mode=append" in text
        assert "srun --unbuffered" in text and "--kill-on-bad-exit=1" in text
        assert re.search(rf"export PYTHONPATH={re.escape(str(tmp_path))}/runs/code/[0-9a-f]+/src\$", text)
        assert f"export SSVAE_ROOT={tmp_path}\n" in text
        # Behind the user's own lines: the folder that relative paths start from, and the code ahead of any other.
        assert f"\ncd -- {Path.cwd()}\n" in text and "/src${PYTHONPATH:+:$PYTHONPATH}\n" in text
        # Behind srun, whatever its code: the decision, under the number of this element alone.
        assert text.index("ssvae.sweep.after_job") > text.index("srun")


def test_a_chain_waits_stage_by_stage_and_elements_for_elements(tmp_path: Path, slurm: Path) -> None:
    scripts = submitted(tmp_path, slurm, "reg=none,lcr,lmr", "channels=16,48")
    waits = {number: re.findall(r"--dependency=(\S+)", text) for number, text in scripts.items()}
    # One array of two bases, two of pretrains behind their own base each, and beside each measures and probes.
    assert waits.pop("100") == []
    pretrains = {number: found for number, found in waits.items() if found[0].startswith("afterok")}
    assert sorted(found[0] for found in pretrains.values()) == ["afterok:100_0", "afterok:100_1"]
    rest = [found[0] for number, found in waits.items() if number not in pretrains]
    assert sorted(rest) == sorted(f"aftercorr:{number}" for number in pretrains for _ in range(2))
    for folder in (tmp_path / "runs" / "jobs").iterdir():
        if folder.name.startswith("."):
            continue
        job = read_job(folder)
        # An element waits for the very job it needs.
        for needed in job.needs:
            parent = read_job(job_folder(tmp_path, needed)).scheduler_id
            mine = waits[str(job.scheduler_id).partition("_")[0]][0]
            own = str(job.scheduler_id).partition("_")[2]
            assert mine in (f"afterok:{parent}", f"aftercorr:{str(parent).partition('_')[0]}")
            assert mine.startswith("afterok") or str(parent).endswith(f"_{own}")


def test_jobs_that_still_wait_are_not_submitted_twice(tmp_path: Path, slurm: Path) -> None:
    cells = planned(tmp_path, "launch=slurm_cpu")
    for one in cells:
        CellRecord.open(tmp_path, "s", one)
    launcher = Launcher("slurm", cells[0].cell.cfg.launch)
    assert len(submit(tmp_path, "s", cells, launcher).new) == 3
    (slurm.parent / "squeue").write_text(
        '#!/bin/sh\nfor n in 100 101 102; do echo "$n|PENDING|Priority|(null)|N/A|"; done\n'
    )
    assert submit(tmp_path, "s", cells, launcher).new == []
    assert len(list(slurm.iterdir())) == 3
    # Another sweep that needs them waits for the same jobs.
    for one in cells:
        CellRecord.open(tmp_path, "t", one)
    assert submit(tmp_path, "t", cells, launcher).new == []
    assert all(
        read_job(folder).sweeps == ["s", "t"]
        for folder in (tmp_path / "runs" / "jobs").iterdir()
        if not folder.name.startswith(".")
    )


def test_ctrl_c_while_submitting_forgets_no_job(tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for right behind sbatch's answer, it comes once the number is noted."""
    sbatch = slurm.parent / "sbatch"
    sbatch.write_text(sbatch.read_text() + "kill -INT $PPID; sleep 0.1\n")
    cells = planned(tmp_path, "launch=slurm_cpu")
    CellRecord.open(tmp_path, "s", cells[0])
    with pytest.raises(KeyboardInterrupt):
        submit(tmp_path, "s", cells, Launcher("slurm", cells[0].cell.cfg.launch))
    assert len(list(slurm.iterdir())) == 1
    jobs = [read_job(path.parent) for path in (tmp_path / "runs" / "jobs").glob("*/job.json")]
    assert sorted(str(job.scheduler_id) for job in jobs) == ["100", "None", "None"]


def test_a_queue_that_cannot_be_asked_stops_a_second_submission(tmp_path: Path, slurm: Path) -> None:
    cells = planned(tmp_path, "launch=slurm_cpu")
    for one in cells:
        CellRecord.open(tmp_path, "s", one)
    launcher = Launcher("slurm", cells[0].cell.cfg.launch)
    submit(tmp_path, "s", cells, launcher)
    for name in ("squeue", "sacct"):
        (slurm.parent / name).write_text("#!/bin/sh\necho controller is down >&2; exit 1\n")
    with pytest.raises(ValueError, match="cannot be asked"):
        submit(tmp_path, "s", cells, launcher)
    assert len(list(slurm.iterdir())) == 3


def test_the_shells_own_sbatch_settings_undo_nothing(
    tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would go before the script; what a site sets for its users stays where the queue leaves it open."""
    sbatch = slurm.parent / "sbatch"
    sbatch.write_text(sbatch.read_text() + f"env | grep ^SBATCH_ | sort > {slurm.parent}/seen\n")
    shell = {"TIMELIMIT": "7", "NO_REQUEUE": "1", "ACCOUNT": "site", "PARTITION": "site", "SIGNAL": "KILL@1"}
    for name, value in shell.items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    submitted(tmp_path, slurm, "stage=pretrain", "launch.partition=mine")
    assert (slurm.parent / "seen").read_text() == "SBATCH_ACCOUNT=site\n"
    assert all(os.environ[f"SBATCH_{name}"] == value for name, value in shell.items()), "the caller's own are as before"


def _resubmitted(root: Path, squeue: Path, *numbers: int) -> None:
    rows = " ".join(str(number) for number in numbers)
    squeue.write_text(f'#!/bin/sh\nfor n in {rows}; do echo "$n|PENDING|Priority|(null)|N/A|"; done\n')


def test_jobs_that_wait_with_another_queue_are_named(tmp_path: Path, slurm: Path) -> None:
    submitted(tmp_path, slurm, "stage=pretrain")
    _resubmitted(tmp_path, slurm.parent / "squeue", 100)
    (job,) = [read_job(path.parent) for path in (tmp_path / "runs" / "jobs").glob("*/job.json")]
    same = planned(tmp_path, "launch=slurm_cpu", "stage=pretrain")
    done = submit(tmp_path, "s", same, Launcher("slurm", same[0].cell.cfg.launch))
    assert (done.new, done.waiting, done.other) == ([], [job.job_id], [])
    assert done.lines("s", "to Slurm") == [
        "0 jobs submitted to Slurm", "1 more wait or run already, as they were submitted then",
    ]  # fmt: skip
    longer = planned(tmp_path, "launch=slurm_cpu", "stage=pretrain", "launch.jobs.pretrain.timeout_min=77")
    done = submit(tmp_path, "s", longer, Launcher("slurm", longer[0].cell.cfg.launch))
    assert done.other == [job.job_id]
    assert job.job_id in done.lines("s", "to Slurm")[-1] and "python -m ssvae cancel s" in done.lines("s", "")[-1]


def test_jobs_of_cells_that_are_not_asked_for_any_more_stay_the_sweeps(tmp_path: Path, slurm: Path) -> None:
    one = ("stages.base=null", "stage=pretrain")
    submitted(tmp_path, slurm, *one, "reg=none,lcr", "launch.array_size=1")
    _resubmitted(tmp_path, slurm.parent / "squeue", 100, 101)
    fewer = planned(tmp_path, "launch=slurm_cpu", *one, "reg=lcr")
    done = submit(tmp_path, "s", fewer, Launcher("slurm", fewer[0].cell.cfg.launch))
    assert (len(done.new), len(done.waiting), len(done.extra)) == (0, 1, 1)
    assert set(sweep_jobs(tmp_path, "s")) == {*done.waiting, *done.extra}, "cancel has to reach both"


def test_what_waits_on_slurm_is_not_started_here(tmp_path: Path, slurm: Path) -> None:
    submitted(tmp_path, slurm, "stage=pretrain")
    _resubmitted(tmp_path, slurm.parent / "squeue", 100)
    here = planned(tmp_path, "stage=pretrain", "launch.parallel=2")
    with pytest.raises(ValueError, match=r"Slurm's job 100: wait for it, or end it with python -m ssvae cancel s"):
        submit(tmp_path, "s", here, choose_launcher(here[0].cell.cfg.launch))
    (job,) = [read_job(path.parent) for path in (tmp_path / "runs" / "jobs").glob("*/job.json")]
    assert (job.launcher, job.scheduler_id) == ("slurm", "100"), "and what is known of it stays"


def test_hydras_own_launchers_mean_the_same(tmp_path: Path) -> None:
    (one,) = planned(tmp_path)
    launch = one.cell.cfg.launch
    slurm = choose_launcher(
        launch, {"_target_": "x.SlurmLauncher", "partition": "p", "timeout_min": 5, "tasks_per_node": 2, "name": "job"}
    )
    assert slurm.by == "slurm"
    for kind in ("base", "decoder_finetune", "measure", "probe"):
        queue = slurm.config.jobs.of(kind)
        assert (queue.partition, queue.timeout_min, queue.world) == ("p", 5, 2)
    local = choose_launcher(launch, {"_target_": "x.LocalLauncher", "timeout_min": 9})
    assert local.by == "local" and local.config.jobs.measure.timeout_min == 9
    assert (
        choose_launcher(launch, {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}).by == "here"
    )


@pytest.mark.parametrize(
    ("override", "by"),
    [
        ("launch=local", "here"),
        ("launch.parallel=2", "local"),
        ("launch.detach=true", "local"),
        ("launch.jobs.pretrain.tasks_per_node=2", "local"),
        ("launch=slurm", "slurm"),
    ],
)
def test_what_needs_processes_of_its_own_is_jobs(tmp_path: Path, override: str, by: str) -> None:
    (one,) = planned(tmp_path, override)
    assert choose_launcher(one.cell.cfg.launch).by == by


def test_batches_that_ranks_cannot_share_are_named_before_anything_is_submitted(tmp_path: Path, slurm: Path) -> None:
    (one,) = planned(tmp_path, "launch=slurm_cpu", "launch.jobs.pretrain.tasks_per_node=3", "probe.train.batch=6")
    problems = launch_problems(Launcher("slurm", one.cell.cfg.launch), [one.cell.cfg], tmp_path)
    assert len(problems) == 2
    assert problems[0].startswith("stages.base.train.batch = 2: is not divisible by the 3 ranks")
    assert problems[1].startswith("train.batch = 2: ")


def test_a_machine_without_slurm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (one,) = planned(tmp_path, "launch=slurm_cpu")
    (problem,) = launch_problems(Launcher("slurm", one.cell.cfg.launch), [one.cell.cfg], tmp_path)
    assert "no sbatch" in problem and "launch=local" in problem
    (nodes,) = launch_problems(
        choose_launcher(planned(tmp_path, "launch.jobs.probe.nodes=2")[0].cell.cfg.launch), [one.cell.cfg], tmp_path
    )
    assert nodes.startswith("launch.jobs.probe.nodes = 2")
