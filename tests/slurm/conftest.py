"""A real Slurm for the tests of this folder: one a worker, so that none sees another's dead nodes and full queues."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm_cluster import Cluster, cluster, missing_programs
from slurm_runs import Sweeps
from ssvae.config.compose import resolve
from ssvae.core.progress import Silent
from ssvae.stages.source import open_source
from tiny_runs import TINY, link_data, made_once

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A cluster of four nodes that is there for all tests of this process.

    Slurm not installed: the test skips and says so; where CI=true: the test fails.
    """
    missing = missing_programs()
    if missing:
        reason = f"Slurm is not installed ({', '.join(missing)} missing): see tests/slurm/README.md"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with cluster() as found:
        yield found


@pytest.fixture
def logged_in(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """This process can submit by itself, not only its children."""
    for name in os.environ.keys() - slurm.env.keys():
        monkeypatch.delenv(name)
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.env[name])
    return slurm


@pytest.fixture
def place(slurm: Cluster, tmp_path: Path) -> Iterator[Path]:
    """An empty folder that all nodes see. Jobs that write below it end with the test."""
    yield tmp_path
    slurm.cancel_under(tmp_path)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that holds nothing but the rendered data."""

    def render(root: Path) -> None:
        (cell,) = resolve(TINY)
        open_source(cell.cfg.stages.pretrain.data, root, Silent())

    return made_once(tmp_path_factory, "tiny_data", render)


@pytest.fixture
def root(place: Path, tiny_data: Path) -> Path:
    """A root with the tiny data in it."""
    return link_data(tiny_data, place)


@pytest.fixture
def sweeps(slurm: Cluster, root: Path) -> Sweeps:
    """Command lines of this project on the cluster."""
    return Sweeps(slurm, root)
