"""The cluster itself: what the other tests rely on, seen with submitit alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from submitit import AutoExecutor
from submitit.helpers import TorchDistributedEnvironment

from slurm_cluster import SCRIPTS, Cluster, assert_fields, wait_until


class SumOverRanks:
    """Called on every rank: the sum of all ranks, over the network."""

    def __call__(self) -> tuple[str, int, float]:
        """Node, rank, and the sum of rank + 1 over the ranks."""
        import torch
        import torch.distributed as dist

        environment = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        dist.init_process_group("gloo")
        value = torch.tensor([environment.rank + 1.0])
        dist.all_reduce(value)
        dist.destroy_process_group()
        return os.environ["SLURMD_NODENAME"], environment.rank, value.item()


def _submitted(slurm: Cluster, place: Path, *options: str, script: str) -> str:
    path = place / "script.sh"
    path.write_text(f"#!/bin/bash\n#SBATCH --output={place}/%j.out --open-mode=append\n{script}\n")
    return slurm.run("sbatch", "--parsable", *options, str(path)).strip()


def test_four_ranks_on_two_nodes_find_each_other(logged_in: Cluster, place: Path) -> None:
    executor = AutoExecutor(place / "%j", cluster="slurm")
    executor.update_parameters(nodes=2, tasks_per_node=2, timeout_min=10, slurm_setup=["export OMP_NUM_THREADS=1"])
    job = executor.submit(_imported(SumOverRanks))
    logged_in.wait_for_state(job.job_id, "COMPLETED")
    assert_fields(logged_in.job(job.job_id), {"NumNodes": "2", "NumTasks": "4"})
    found = job.results()
    assert [(rank, total) for _, rank, total in found] == [(rank, 10.0) for rank in range(4)]
    assert len({node for node, _, _ in found}) == 2


def _imported(kind: type[SumOverRanks]) -> SumOverRanks:
    # Nodes unpickle by name only what they can import; this file they cannot.
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[kind.__module__])
    return kind()


def test_a_killed_rank_takes_the_others_along(slurm: Cluster, place: Path) -> None:
    job = _submitted(slurm, place, "-N2", "-n4", script="srun --kill-on-bad-exit=1 sleep 300; echo code $?; exit 9")
    wait_until(lambda: len(slurm.processes(job)) == 4, "four ranks")
    slurm.kill_rank(job, 3)
    assert slurm.wait_for_state(job) == "FAILED"
    assert "code 1" in (place / f"{job}.out").read_text()


def test_requeued_from_its_own_script_a_job_keeps_its_number_and_those_behind_it(slurm: Cluster, place: Path) -> None:
    script = (
        'echo "run ${SLURM_RESTART_COUNT:-0}"\n[[ $SLURM_RESTART_COUNT ]] || scontrol requeue $SLURM_JOB_ID\nsleep 1'
    )
    first = _submitted(slurm, place, script=script)
    second = _submitted(slurm, place, f"--dependency=afterok:{first}", "--kill-on-invalid-dep=yes", script="true")
    assert slurm.wait_for_state(second) == "COMPLETED"
    assert slurm.job(first)["Restarts"] == "1"
    lines = (place / f"{first}.out").read_text().splitlines()
    assert [line for line in lines if line.startswith("run")] == ["run 0", "run 1"]


def test_a_closed_partition_holds_jobs_until_it_opens(slurm: Cluster, place: Path) -> None:
    with slurm.closed():
        job = _submitted(slurm, place, script="true")
        time.sleep(1.5)
        assert slurm.states(job) == {job: "PENDING"}
    assert slurm.wait_for_state(job) == "COMPLETED"


def test_jobs_below_a_folder_are_cancelled_and_no_others(slurm: Cluster, place: Path) -> None:
    (place / "a").mkdir()
    (place / "b").mkdir()
    mine = _submitted(slurm, place / "a", script="sleep 300")
    other = _submitted(slurm, place / "b", script="sleep 300")
    slurm.cancel_under(place / "a")
    assert slurm.states(mine, other)[mine] == "CANCELLED"
    assert other in slurm.unfinished()


def test_a_job_outlives_its_node(slurm: Cluster, place: Path) -> None:
    node = slurm.nodes()[0]
    job = _submitted(slurm, place, "--nodelist", node, script="echo begun; [[ $SLURM_RESTART_COUNT ]] || sleep 300")
    wait_until(lambda: (place / f"{job}.out").exists(), "begin")
    slurm.kill_node(node)
    wait_until(lambda: slurm.job(job)["Restarts"] == "1", "requeue after a node failure")
    slurm.repair()
    assert slurm.wait_for_state(job) == "COMPLETED"


def test_nothing_is_left_of_a_cluster_whose_user_is_killed(slurm: Cluster, tmp_path: Path) -> None:
    code = (
        "import slurm_cluster as s, sys, time\nwith s.cluster() as c:\n print(c.folder, flush=True)\n time.sleep(300)"
    )
    user = subprocess.Popen([sys.executable, "-c", code], cwd=SCRIPTS.parent, stdout=subprocess.PIPE, text=True)
    assert user.stdout is not None
    folder = Path(user.stdout.readline().strip())
    pids = [int(path.read_text().split()[0]) for path in (folder / "run").glob("*.pid")]
    assert len(pids) == 6 and all(Path(f"/proc/{pid}").exists() for pid in pids)
    user.kill()
    user.wait()
    wait_until(lambda: not folder.exists(), "the end of its folder")
    assert not any(_running(pid) for pid in pids)


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
