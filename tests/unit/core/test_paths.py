"""Where libraries keep their files, and what counts as a path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssvae.core.paths import looks_like_path, prepare_environment


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path / "root"))
    for name in ("XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # so that it is restored, whatever is set below
        monkeypatch.delenv(name)
    return tmp_path / "home"


def test_nothing_is_written_to_a_home_without_a_cache(home: Path, tmp_path: Path) -> None:
    prepare_environment()
    assert os.environ["HF_HOME"] == str(tmp_path / "root" / "runs" / ".cache" / "huggingface")
    assert not home.exists()


def test_a_cache_that_the_user_has_is_used(home: Path) -> None:
    """What ``hf download`` has fetched must be found by its name."""
    (home / ".cache" / "huggingface").mkdir(parents=True)
    prepare_environment()
    assert "HF_HOME" not in os.environ


def test_what_the_user_has_set_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/mine")
    prepare_environment()
    assert os.environ["HF_HOME"] == "/mine"


def test_paths_and_names() -> None:
    assert all(looks_like_path(text) for text in ("a/b", "./a", "~/a", "a.ckpt", "a.safetensors", "a.pt"))
    assert not any(looks_like_path(text) for text in ("wan22", "ssvae48", "tiny"))
