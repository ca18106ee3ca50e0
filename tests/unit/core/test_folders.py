"""``whole_folder``: the new content or the old, never half of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssvae.core.folders import whole_folder


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_new_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with whole_folder(target) as content:
        (content / "file").write_text("new")
        assert not target.exists()
    assert (target / "file").read_text() == "new"
    assert names(tmp_path) == ["a", "a/b", "a/b/file"]


def test_old_content_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("old")
    with whole_folder(tmp_path / "b") as content:
        (content / "new").mkdir()
        assert names(tmp_path / "b") == ["old"]
    assert names(tmp_path) == ["b", "b/new"]


def test_error_leaves_everything_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("old")
    with pytest.raises(OSError, match="disk full"), whole_folder(tmp_path / "b") as content:
        (content / "half").write_text("x")
        raise OSError("disk full")
    assert names(tmp_path) == ["b", "b/old"]


def test_old_content_comes_back_when_the_last_step_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("old")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError("refused")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="refused"), whole_folder(tmp_path / "b"):
        pass
    assert names(tmp_path) == ["b", "b/old"]
