"""The whole preflight: a line a check, everything that fails named, the same verdict on every rank."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from preflight_jobs import QUICK, config, job

from ssvae.core.ranks import ALONE, Ranks
from ssvae.preflight import run
from ssvae.preflight.base import Facts, PreflightError
from ssvae.preflight.run import meet, preflight

NAMES = ["world", "versions", "gpu", "speed", "conv3d", "writable", "data", "disk", "networks", "tracker", "shared",
         "all_reduce"]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("root")


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "SLURM_PROCID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_NODELIST"):
        monkeypatch.delenv(name, raising=False)


def lines(said: list[str]) -> dict[str, str]:
    return {line.split()[1]: line.split(maxsplit=2)[2] for line in said[:-1]}


def over_ranks(root: Path, world: int, **changes: Any) -> tuple[list[str], dict[int, PreflightError | None]]:
    """The preflight of several ranks, each a thread: what the first said, and what each raised."""
    store, said = dist.HashStore(), []
    raised: dict[int, PreflightError | None] = {}

    def one(rank: int) -> None:
        try:
            preflight(job(root, **changes), Ranks(rank, world), said.append, store)
            raised[rank] = None
        except PreflightError as error:
            raised[rank] = error

    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return said, raised


def test_a_good_machine_passes_with_a_line_a_check(root: Path) -> None:
    said: list[str] = []
    preflight(job(root), ALONE, said.append)
    found = lines(said)
    assert list(found) == NAMES
    assert {line.split()[0] for line in found.values()} <= {"ok", "skipped", "warning"}, said
    assert said[-1].startswith("preflight: 12 checks in ") and "none failed" in said[-1]
    assert all("\n" not in line for line in said)
    assert list(root.rglob(".preflight*")) == [], "nothing is left behind"


def test_every_failure_is_named_and_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    cfg = config("stages.base=null")
    cfg.stages.pretrain.init = str(tmp_path / "gone")
    said: list[str] = []
    needs = job(tmp_path, cfg, world=8, gpus=8, disk_bytes=2**60)
    with pytest.raises(PreflightError) as caught:
        preflight(needs, ALONE, said.append)
    found = lines(said)
    assert list(found) == NAMES, "all are tried"
    failed = [name for name in NAMES if found[name].startswith("FAILED")]
    assert failed == ["world", "gpu", "writable", "data", "disk", "networks", "shared"] == list(caught.value.failed)
    assert caught.value.said and "7 FAILED: world, gpu" in said[-1]
    text = str(caught.value)
    for name, remedy in (("world", "torchrun or srun"), ("disk", "SSVAE_ROOT"), ("writable", "SSVAE_ROOT")):
        assert f"{name}: " in text and remedy in text
        assert remedy in found[name]


def test_a_check_that_breaks_is_a_failure_of_its_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Facts:
        raise RuntimeError("CUDA error: an illegal memory access\nlong story")

    monkeypatch.setattr(run, "measure_speed", broken)
    said: list[str] = []
    with pytest.raises(PreflightError) as caught:
        preflight(job(root), ALONE, said.append)
    assert caught.value.failed == ("speed",)
    assert lines(said)["speed"].startswith("FAILED  RuntimeError: CUDA error: an illegal memory access; the log")


def test_a_warning_stops_nothing(root: Path) -> None:
    cfg = config()
    cfg.track.enabled = True
    said: list[str] = []
    preflight(job(root, cfg, tracking="http://127.0.0.1:9"), ALONE, said.append)
    assert lines(said)["tracker"].startswith("warning http://127.0.0.1:9 does not answer")
    assert "none failed, 1 with a warning" in said[-1]


def test_all_ranks_hear_the_same_verdict_and_one_speaks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = run.measure_data

    def other_files(needs: Any, rank: int) -> Facts:
        facts = real(needs, rank)
        if rank == 2:
            for told in facts["sets"].values():
                told["content"] = "f" * 32
        return facts

    monkeypatch.setattr(run, "measure_data", other_files)
    said, raised = over_ranks(root, 3)
    assert len(said) == 13
    assert {str(error) for error in raised.values()} == {str(raised[0])} and len(raised) == 3
    assert raised[0] is not None and raised[0].failed == ("data",)
    assert "the content differs between ranks" in str(raised[0]) and "ffffffffffff on rank 2" in str(raised[0])


def test_three_good_ranks_pass(root: Path) -> None:
    said, raised = over_ranks(root, 3)
    assert raised == dict.fromkeys(range(3)), said
    assert "seen by all ranks" in lines(said)["shared"]


def test_a_problem_of_one_rank_is_named_with_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = run.measure_writable

    def full(runs: Path, rank: int) -> Facts:
        return {"problems": [["/tmp is full", "empty it"]]} if rank == 1 else real(runs, rank)

    monkeypatch.setattr(run, "measure_writable", full)
    said, raised = over_ranks(root, 2)
    assert all(error is not None and error.failed == ("writable",) for error in raised.values())
    assert lines(said)["writable"].startswith("FAILED  rank 1 (") and "/tmp is full; empty it" in said[5]


def test_a_rank_that_falls_silent_is_named_and_the_rest_is_still_tried(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(needs: Any, rank: int) -> Facts:
        if rank == 1:
            time.sleep(4)
        return {"sets": {}, "seconds": [], "problems": []}

    monkeypatch.setattr(run, "measure_data", hangs)
    said, raised = over_ranks(root, 2, limits=replace(QUICK, patience_s=1, reading_s=1, visible_s=0.2))
    found = lines(said)
    assert list(found) == NAMES
    assert found["data"].startswith("FAILED  no answer from rank 1 (")
    assert "leave a bad node out" in found["data"]
    assert found["all_reduce"].startswith("skipped not with ranks that are missing: 1")
    assert raised[0] is not None and raised[0].failed == ("data",)
    assert str(raised[1]) == str(raised[0]), "it hears of it when it comes back"


def test_absent_ranks_fail_and_the_others_are_checked(root: Path) -> None:
    said: list[str] = []
    with pytest.raises(PreflightError) as caught:
        preflight(job(root, limits=replace(QUICK, roll_call_s=0.2)), Ranks(0, 3), said.append, dist.HashStore())
    assert said[0].startswith("preflight: ranks      FAILED  ranks 1-2 of 3 did not sign in within 0.2 s")
    assert [line.split()[1] for line in said[1:-1]] == NAMES
    assert caught.value.failed[0] == "ranks"


def test_meeting_before_the_group_names_who_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(meet(ALONE, 1), dist.HashStore)
    monkeypatch.setattr(run, "meeting_point", lambda ranks, seconds: dist.HashStore())
    with pytest.raises(PreflightError, match="rank 1 of 2 did not sign in"):
        meet(Ranks(0, 2), 0.1)


def test_what_a_hundred_ranks_say_is_shortened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [[f"fault {number}", "mend it"] for number in range(9)]
    monkeypatch.setattr(run, "measure_writable", lambda runs, rank: {"problems": many})
    said: list[str] = []
    with pytest.raises(PreflightError):
        preflight(job(root), ALONE, said.append)
    assert lines(said)["writable"].endswith("fault 3; mend it | and 5 more")
