"""A throw-away Slurm for the tests: real daemons on this machine, gone when the tests are, however these end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent / "slurm"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
SIZE = {"nodes": 4, "gpus": 8, "cpus": 112, "mem": 2_000_000, "accounting": "shim"}
"""Numbers of an H100 cluster, so that its presets are accepted as they are; they cost nothing."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "OUT_OF_MEMORY")


def missing_programs() -> list[str]:
    """Programs of Slurm that are not installed here."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


@dataclass
class Cluster:
    """Four nodes, partitions ``main`` and ``high`` (which pre-empts main). folder: where its logs and settings are."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """This process's environment, as somebody has it who is logged in to the cluster."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH_", "SRUN_"))
        }
        path = os.pathsep.join([str(self.folder / "bin"), inherited.get("PATH", "")])
        return {**inherited, "SLURM_CONF": str(self.folder / "etc" / "slurm.conf"), "PATH": path}

    def run(self, *words: str, check: bool = True) -> str:
        """One of Slurm's programs; returns its output. AssertionError with its words where it fails."""
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or not check, f"{' '.join(words)}: {done.stderr or done.stdout}"
        return done.stdout

    def jobs(self, *ids: str) -> list[dict[str, str]]:
        """``scontrol show job`` as dictionaries, one a job or array element; elements not split yet are one."""
        shown = [self.run("scontrol", "show", "job", "-o", one) for one in ids or ("",)]
        return [_fields(line) for text in shown for line in text.splitlines() if line.startswith("JobId=")]

    def job(self, job_id: str) -> dict[str, str]:
        """The one job (or array element) of that id."""
        (found,) = self.jobs(job_id)
        return found

    def states(self, *ids: str) -> dict[str, str]:
        """Id (``123`` or ``123_4``) -> state, ended jobs included."""
        wanted = ["-j", ",".join(ids)] if ids else []
        shown = self.run("squeue", "--noheader", "--array", "--states=all", "--format=%i %T", *wanted)
        return dict(line.split() for line in shown.splitlines())

    def unfinished(self) -> list[str]:
        """Ids of jobs that wait or run."""
        return [one for one, state in self.states().items() if state not in ENDED]

    def wait_for_state(self, job_id: str, *states: str, timeout: float = 60) -> str:
        """Until the job is in one of ``states`` (default: ended); returns it. AssertionError when time is up."""
        wanted = states or ENDED

        def reached() -> str | None:
            state = self.states(job_id)[job_id]
            return state if state in wanted else None

        return str(wait_until(reached, f"job {job_id} in {wanted}", timeout))

    def processes(self, job_id: str, rank: int | None = None) -> list[int]:
        """Pids of a running job's tasks: the outermost process of each (of one rank, where given)."""
        wanted = {"SLURM_CONF": self.env["SLURM_CONF"], "SLURM_JOB_ID": self.job(job_id)["JobId"]}
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            known = _environment(folder)
            if "SLURM_PROCID" not in known or any(known.get(name) != value for name, value in wanted.items()):
                continue
            if rank is None or known["SLURM_PROCID"] == str(rank):
                found[int(folder.name)] = folder
        parents = {pid: _parent(folder) for pid, folder in found.items()}
        # srun and the batch script carry the variable of the first rank, and are no tasks.
        tasks = [pid for pid in found if _name(parents[pid]).startswith("slurmstepd") and not _is_batch(found[pid])]
        return sorted(tasks)

    def kill_rank(self, job_id: str, rank: int, number: int = signal.SIGKILL) -> None:
        """A signal to one rank's process, as the kernel or an administrator sends it."""
        pids = self.processes(job_id, rank)
        assert pids, f"job {job_id} has no process of rank {rank}"
        for pid in pids:
            os.kill(pid, number)

    def kill_node(self, name: str) -> None:
        """Power off: the node's daemon and all that runs there are gone at once, and the controller notices."""
        os.kill(int((self.folder / "run" / f"{name}.pid").read_text().split()[0]), signal.SIGKILL)
        # It would notice by itself 30 to 50 s later.
        self.run("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=power")

    def repair(self) -> None:
        """Start again whatever is dead, and wait until all nodes answer."""
        up(self.folder)

    def nodes(self) -> list[str]:
        """Names of the nodes."""
        return self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N").split()

    @contextmanager
    def closed(self, partition: str = "main") -> Iterator[None]:
        """Jobs that are submitted meanwhile wait."""
        self.run("scontrol", "update", f"PartitionName={partition}", "State=DOWN")
        try:
            yield
        finally:
            self.run("scontrol", "update", f"PartitionName={partition}", "State=UP")

    def cancel_under(self, folder: Path) -> None:
        """Cancel the jobs that write below ``folder``, and wait until they are gone."""

        def unfinished() -> list[str]:
            mine = [one for one in self.jobs() if folder in Path(one.get("StdOut", "")).parents]
            return [one["JobId"] for one in mine if one["JobState"] not in ENDED]

        if ids := unfinished():
            self.run("scancel", *ids, check=False)
            wait_until(lambda: not unfinished(), f"end of jobs {ids}")


def up(folder: Path) -> None:
    """Start a cluster in ``folder``, or what is dead of one. AssertionError with the script's words where it fails."""
    options = [word for name, value in SIZE.items() for word in (f"--{name}", str(value))]
    command = [str(SCRIPTS / "slurm-up.sh"), str(folder), *options]
    # Into files: daemons would keep a pipe open.
    with tempfile.TemporaryFile("w+") as said:
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=180, check=False)
        said.seek(0)
        assert code.returncode == 0, said.read()


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster for as long as this process lives, also where it is killed: a guardian waits for the end of a pipe."""
    # Short: UNIX sockets have room for 107 characters. Private: the cluster's key lies in it.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    script = 'cat >/dev/null; "$0" "$1"; rm -rf "$1"'
    guardian = subprocess.Popen(
        ["bash", "-c", script, str(SCRIPTS / "slurm-down.sh"), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the tests
    )
    assert guardian.stdin is not None
    try:
        up(folder)
        yield Cluster(folder)
    finally:
        guardian.stdin.close()
        guardian.wait(timeout=90)


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 60, every: float = 0.2) -> Any:
    """The first true value of ``condition``, asked ``every`` so many seconds. AssertionError when time is up."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(every)
    raise AssertionError(f"waited {timeout:.0f} s in vain: {what}")


def _fields(line: str) -> dict[str, str]:
    # Values may hold blanks, and names colons and slashes.
    found = dict(re.findall(r"([A-Z][\w:/]*)=(.*?)(?=\s+[A-Z][\w:/]*=|\s*$)", line))
    # While a job waits, its number of nodes is shown as a range, of one number here.
    least, _, most = found.get("NumNodes", "").partition("-")
    return {**found, "NumNodes": least} if least == most else found


def _environment(folder: Path) -> dict[str, str]:
    try:
        text = (folder / "environ").read_bytes().decode(errors="replace")
    except OSError:  # gone, or another user's
        return {}
    return dict(part.split("=", 1) for part in text.split("\0") if "=" in part)


def _parent(folder: Path) -> int:
    try:
        return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _is_batch(folder: Path) -> bool:
    return "SLURM_STEP_ID" not in _environment(folder)


def assert_fields(found: dict[str, str], wanted: dict[str, str]) -> None:
    """``wanted`` are among the fields of ``scontrol show job``; all that differ are named at once."""
    wrong = {name: (found.get(name), value) for name, value in wanted.items() if found.get(name) != value}
    assert not wrong, f"(is, should be): {wrong}"
