"""``python -m ssvae preflight``: lines, exit codes, and how tasks of a plain srun find each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssvae.cli.main import main
from ssvae.cli.preflight import first_host, slurm_ranks
from tiny_runs import TINY

TASK = {
    "SLURM_JOB_ID": "70123",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "n[03-04]",
}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path))
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_machine_that_is_fit(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preflight", *TINY]) == 0
    said = capsys.readouterr()
    found = said.out.splitlines()
    assert [line.split()[1] for line in found[:3]] == ["world", "versions", "gpu"] and "none failed" in found[-1]
    assert said.err == ""
    assert {path.name for path in (root / "runs").iterdir()} <= {"data", ".cache"}, "no stage was begun"


def test_what_fails_is_said_once_with_its_remedy(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preflight", "--gpus", "64", "--ranks", "32", *TINY]) == 1
    said = capsys.readouterr()
    assert said.err == "" and said.out.count("FAILED  ") == 2
    assert "of the 64 GPUs that the job asked for are there" in said.out
    assert "the job asked for 32 ranks, but 1 rank found each other; start every rank with torchrun" in said.out
    assert "2 FAILED: world, gpu" in said.out.splitlines()[-1]


def test_data_that_are_missing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = [text for text in TINY if not text.startswith("data.synthetic")]
    folder = root / "clips"
    folder.mkdir()
    (folder / "000000.tar").write_bytes(b"x" * 2048)
    assert main(["preflight", *small, "data=webdataset", f"data.path={folder}"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("preflight: data ")]
    assert "FAILED" in line and str(folder) in line


def test_problems_of_the_overrides_are_those_of_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preflight", "train.stepss=3", "train.lr=-1"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "train.stepss" in said.err and "train.lr" in said.err
    assert list(root.iterdir()) == []
    assert main(["preflight", "--wait", "0", *TINY]) == 2
    assert "--wait 0" in capsys.readouterr().err


def test_a_rank_that_nobody_joins_ends_and_names_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert main(["preflight", "--wait", "0.3", *TINY]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("preflight: ranks: ranks 1-2 of 3 did not sign in within 0.3 s (signed in: ")
    assert "look at their logs" in said.err


def test_tasks_of_a_plain_srun_are_told_who_they_are() -> None:
    assert slurm_ranks(TASK) == {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "n03",
        "MASTER_PORT": "20123",
    }
    assert slurm_ranks({**TASK, "RANK": "0"}) == {}, "of torchrun, or of our own jobs"
    assert slurm_ranks({**TASK, "SLURM_STEP_NUM_TASKS": "1"}) == {}
    assert slurm_ranks({"SLURM_STEP_NUM_TASKS": "4"}) == {} == slurm_ranks({})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[03-07,9],m1", "n03"), ("gpu-a[12,14]-ib,x", "gpu-a12-ib"), ("n[5]", "n5")],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first
