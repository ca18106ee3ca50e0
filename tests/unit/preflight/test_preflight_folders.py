"""Folders that cannot be written, files that others do not see, locks that do not hold."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from preflight_jobs import QUICK, together

from ssvae.core.files import Busy, exclusive
from ssvae.preflight import folders
from ssvae.preflight.base import Facts
from ssvae.preflight.board import Board
from ssvae.preflight.folders import judge_shared, measure_shared, measure_writable


def shared(places: list[Path]) -> dict[int, Facts]:
    """The check on a rank for each of ``places``."""

    def work(board: Board) -> Facts:
        crew = board.roll_call(5)
        return measure_shared(places[board.ranks.rank], board, crew, QUICK)

    return together(len(places), work)


def test_what_is_written_is_removed_again(tmp_path: Path) -> None:
    (tmp_path / "runs" / "stages").mkdir(parents=True)
    before = set(tmp_path.rglob("*"))
    facts = measure_writable(tmp_path / "runs", 0)
    assert facts["problems"] == [] and "(2 folders)" in facts["note"]
    assert set(tmp_path.rglob("*")) == before


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    ((what, remedy),) = measure_writable(tmp_path / "runs", 0)["problems"]
    assert what == f"{tmp_path / 'runs'} cannot be made (File exists)" and "SSVAE_ROOT" in remedy


def test_a_file_system_that_takes_no_files() -> None:
    ((what, remedy),) = measure_writable(Path("/proc/1/runs"), 0)["problems"]
    assert what.startswith("/proc/1/runs cannot be made (") and "SSVAE_ROOT" in remedy


def test_one_folder_of_several(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "latents").symlink_to("/proc")
    ((what, _),) = measure_writable(runs, 0)["problems"]
    assert what.startswith(f"{runs / 'latents'} cannot be written (")


def test_a_disk_that_is_full_and_one_that_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "fsync", full)
    problems = measure_writable(tmp_path / "runs", 0)["problems"]
    assert [what for what, _ in problems] == [
        f"{tmp_path / 'runs'} cannot be written (No space left on device)",
        f"{tmp_path} cannot be written (No space left on device)",
    ]
    assert "TMPDIR" in problems[1][1]
    monkeypatch.undo()
    monkeypatch.setattr(Path, "read_text", lambda path: "")
    problems = measure_writable(tmp_path / "runs", 0)["problems"]
    assert "what was read is not what was written" in problems[0][0]


def test_ranks_that_share_a_folder(tmp_path: Path) -> None:
    found = shared([tmp_path] * 3)
    assert [facts["problems"] for facts in found.values()] == [[]] * 3
    assert list(tmp_path.iterdir()) == []
    crew = together(3, lambda board: board.roll_call(5))[0]
    assert judge_shared(found, crew).note.endswith("s, locks hold")


def test_alone_a_lock_holds_against_oneself(tmp_path: Path) -> None:
    assert shared([tmp_path]) == {0: {"problems": []}}


def test_a_rank_with_a_folder_of_its_own(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    found = shared([here, here, there])
    assert found[1]["problems"] == []
    ((what, remedy),) = found[2]["problems"]
    assert what == f"a file that the first rank wrote in {there} is not seen within 1 s"
    assert "file system that all nodes share" in remedy


def test_locks_that_do_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS with local locks: everybody gets every lock."""
    monkeypatch.setattr(folders, "_takes", lambda lock: True)
    found = shared([tmp_path, tmp_path])
    assert found[0]["problems"][0][0] == f"{tmp_path}: one process holds the same file lock twice"
    ((what, remedy),) = found[1]["problems"]
    assert "a file lock that the first rank holds was given to a second one" in what
    assert "-o flock" in remedy and "nolock" in remedy


def test_taking_a_lock_that_is_held(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    with exclusive(lock, wait=False):
        assert not folders._takes(lock)
        with pytest.raises(Busy), exclusive(lock, wait=False):
            pass
    assert folders._takes(lock)


def test_a_first_rank_that_cannot_write_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    found = shared([tmp_path / "runs"] * 2)
    ((what, _),) = found[0]["problems"]
    assert "takes no lock or file" in what
    assert found[1] == {"skipped": "the first rank could not write"}
