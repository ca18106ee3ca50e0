"""Code is frozen whole, named by content, and speaks of the tree it was taken from."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ssvae.core.identity import git_state
from ssvae.core.paths import PROJECT
from ssvae.sweep.freeze import freeze_code


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small checkout with a link and with things that are no code."""
    folder = tmp_path / "project"
    for name in ("src/ssvae/a.py", "conf/config.yaml", "sweeps/one.yaml", "run.py", "pyproject.toml"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    (folder / "conf" / "sweep").symlink_to("../sweeps")
    (folder / "src" / "ssvae" / "__pycache__").mkdir()
    (folder / "src" / "ssvae" / "__pycache__" / "a.pyc").write_text("x")
    (folder / "runs").mkdir()
    (folder / "runs" / "big.bin").write_text("x")
    return folder


def test_a_copy_holds_the_code_and_nothing_else(project: Path, tmp_path: Path) -> None:
    copy = freeze_code(project, tmp_path / "root")
    names = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert {"src/ssvae/a.py", "conf/config.yaml", "conf/sweep/one.yaml", "sweeps/one.yaml", "run.py"} <= names | {
        "conf/sweep/one.yaml" if (copy / "conf" / "sweep" / "one.yaml").is_file() else ""
    }
    assert not any("__pycache__" in name or name.startswith("runs") for name in names)


def test_equal_code_is_one_copy_and_an_edit_is_another(project: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    first = freeze_code(project, root)
    assert freeze_code(project, root) == first
    (project / "src" / "ssvae" / "a.py").write_text("# edited\n")
    other = freeze_code(project, root)
    assert other != first
    assert (first / "src" / "ssvae" / "a.py").read_text() == "# src/ssvae/a.py\n"


@pytest.mark.parametrize("copied_first", [False, True])
def test_an_edit_while_it_is_copied_goes_under_the_name_of_what_was_copied(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied_first: bool
) -> None:
    source = project / "src" / "ssvae" / "a.py"
    before, copy2 = freeze_code(project, tmp_path / "other").name, shutil.copy2

    def edited(path: Path, target: Path, *, follow_symlinks: bool) -> None:
        if path == source and not copied_first:
            source.write_text("# edited\n")
        copy2(path, target, follow_symlinks=follow_symlinks)
        if path == source and copied_first:
            source.write_text("# edited\n")

    root = tmp_path / "root"
    monkeypatch.setattr(shutil, "copy2", edited)
    copy = freeze_code(project, root)
    monkeypatch.undo()
    assert (copy.name == before) == copied_first
    assert (copy / "src" / "ssvae" / "a.py").read_text() == ("# src/ssvae/a.py\n" if copied_first else "# edited\n")
    assert (freeze_code(project, root) == copy) == (not copied_first), "named by what it holds"


def test_a_copy_that_was_changed_is_not_used_again(project: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    copy = freeze_code(project, root)
    (copy / "src" / "ssvae" / "__pycache__").mkdir()
    (copy / "src" / "ssvae" / "__pycache__" / "a.pyc").write_text("made by running it")
    assert freeze_code(project, root) == copy
    (copy / "run.py").unlink()
    with pytest.raises(ValueError, match="is no longer the code that was put there; remove it"):
        freeze_code(project, root)


def test_several_at_once_make_one_whole_copy(project: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        copies = set(pool.map(lambda _: freeze_code(project, tmp_path / "root"), range(16)))
    assert len(copies) == 1
    assert [path.name for path in (tmp_path / "root" / "runs" / "code").iterdir()] == [copies.pop().name]


def test_a_copy_tells_commit_and_dirt_of_its_tree_not_of_a_repository_around_it(project: Path, tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)

    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    state = git_state(project)
    assert state["commit"] and state["dirty"] is False
    # The copy lies inside the repository, whose state changes later.
    copy = freeze_code(project, project)
    (project / "src" / "ssvae" / "b.py").write_text("")
    assert git_state(copy) == state
    dirty = freeze_code(project, project)
    assert git_state(dirty) == {"commit": state["commit"], "dirty": True}


def test_a_folder_without_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no src/ to submit"):
        freeze_code(tmp_path, tmp_path)


def test_the_projects_own_copy_can_be_imported(tmp_path: Path) -> None:
    import os
    import sys

    copy = freeze_code(PROJECT, tmp_path)
    code = "import ssvae.core.paths as p, ssvae.config.compose as c; print(p.PROJECT, c.CONF.is_dir())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONSAFEPATH": "1"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(copy), "True"]
