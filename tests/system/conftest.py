"""Roots for whole runs: the tiny data are rendered once and linked into each root."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssvae.config.compose import resolve
from ssvae.core.progress import Silent
from ssvae.stages.source import open_source
from tiny_runs import TINY, link_data, made_once


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that holds nothing but the rendered data."""

    def render(root: Path) -> None:
        (cell,) = resolve(TINY)
        open_source(cell.cfg.stages.pretrain.data, root, Silent())

    return made_once(tmp_path_factory, "tiny_data", render)


@pytest.fixture(scope="module")
def process_state() -> Iterator[None]:
    """A run in this process moves the command line and the SIGTERM handler: put both back."""
    argv, handler = sys.argv, signal.getsignal(signal.SIGTERM)
    yield
    sys.argv = argv
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def root(tmp_path: Path, tiny_data: Path, process_state: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with the tiny data, where runs in this process go."""
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path))
    # The run sets them to places under its root, which does not outlive the test.
    monkeypatch.setenv("MPLCONFIGDIR", str(tiny_data))
    monkeypatch.setenv("HF_HOME", str(tiny_data))
    return link_data(tiny_data, tmp_path)
