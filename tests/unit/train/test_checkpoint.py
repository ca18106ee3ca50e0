"""Checkpoints: whole, newest only, loaded without executing anything."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from ssvae.train.state import CHECKPOINT, drop_checkpoint, load_checkpoint, save_checkpoint


def test_state_comes_back_and_the_newest_replaces_the_one_before(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 3, {"weights": torch.arange(3.0), "skipped": 1})
    save_checkpoint(tmp_path, 6, {"weights": torch.arange(3.0) * 2, "skipped": 2})
    state = load_checkpoint(tmp_path)
    assert state is not None
    assert (state["step"], state["skipped"], state["weights"].tolist()) == (6, 2, [0.0, 2.0, 4.0])
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    drop_checkpoint(tmp_path)
    drop_checkpoint(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", "cut"])
def test_a_file_that_is_none_of_ours_is_an_error_with_a_remedy(damage: bytes | str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 3, {"weights": torch.arange(1000.0)})
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1500] if isinstance(damage, str) else damage)
    with pytest.raises(ValueError, match=r"no checkpoint of ours.*remove it"):
        load_checkpoint(tmp_path)


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploded"),))


def test_loading_never_executes_what_a_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"step": 1, "bomb": Bomb()}, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="no checkpoint of ours"):
        load_checkpoint(tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(ValueError, match="no checkpoint of ours"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "exploded").exists()
