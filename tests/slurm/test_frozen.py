"""What was submitted is what runs: configs and code that are edited while jobs wait change nothing."""

from __future__ import annotations

from pathlib import Path

import yaml

from slurm_cluster import Cluster
from slurm_runs import ONE_JOB, Sweeps, working_copy
from tiny_runs import artefacts, link_data, run_apart


def test_edits_while_queued_change_nothing(slurm: Cluster, root: Path, tiny_data: Path, tmp_path: Path) -> None:
    project = working_copy(tmp_path / "project")
    sweeps = Sweeps(slurm, root, project)
    with slurm.closed():
        sweeps.run(*ONE_JOB, "launch.detach=true")
        (job,) = sweeps.jobs()
        # All that a job could read: a value in YAML, the loop that it runs, the file that starts it.
        schedule = project / "conf" / "train" / "cpu.yaml"
        values = yaml.safe_load(schedule.read_text())
        schedule.write_text(yaml.safe_dump({**values, "lr": 10 * values["lr"]}))
        for name in ("train/vae_loop.py", "sweep/job.py", "sweep/after_job.py"):
            code = project / "src" / "ssvae" / name
            code.write_text(f'{code.read_text()}\nraise RuntimeError("edited: {name}")\n')
        slurm.run("scontrol", "update", f"JobId={job.scheduler_id}", "Comment=edited")
    assert slurm.wait_for_state(str(job.scheduler_id), timeout=90) == "COMPLETED"
    found = [folder.name for folder in (root / "runs" / "code").iterdir() if not folder.name.startswith(".")]
    assert found == [Path(job.code).name]
    # The same cell of the tree as it was (this one), on this machine: the same stage, byte by byte.
    other = link_data(tiny_data, tmp_path / "other")
    done = run_apart(other, "stage=pretrain", "stages.base=null")
    assert done.returncode == 0, done.stderr
    assert artefacts(root) == artefacts(other)
    # The edits were such as to be noticed.
    assert "edited: " in sweeps.run(*ONE_JOB, "seed=1", "launch=local", code=1)
