"""Whole runs of the smallest size that still has every part: helpers for tests that plan, train or kill cells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssvae.cli.run import main
from ssvae.config.compose import PROJECT, resolve
from ssvae.core.files import exclusive, read_json
from ssvae.core.progress import Silent
from ssvae.stages.plan import StagePlan, plan_cell
from ssvae.stages.source import open_source
from ssvae.sweep.record import resolved_values

TINY_DATA = (
    "data.synthetic.clips=12",
    "data.synthetic.frames=12",
    "data.synthetic.size=16",
    "data.synthetic.shard_size=6",
)
TINY_WORK = (
    "channels=16",
    "vae.base_channels=4",
    "vae.multipliers=[1,2,2]",
    "resolution.height=16",
    "resolution.width=16",
    "stages.base.train.steps=4",
    "stages.base.train.batch=2",
    "train.steps=4",
    "train.batch=2",
    "score.clips=4",
    "latents.windows=1",
    "probe.dit.depth=1",
    "probe.dit.width=32",
    "probe.dit.heads=2",
    "probe.train.steps=4",
    "probe.train.batch=4",
    "probe.validation_draws=1",
    "probe.sample.clips=4",
    "probe.sample.steps=2",
    "runtime.checkpoint_every=2",
    "runtime.log_every=1",
    "track=none",
    "track.samples=1",
)
TINY = (*TINY_WORK, *TINY_DATA)
"""A second or two a cell. Changes the size of everything and nothing else."""


def run_here(*overrides: str) -> int:
    """``python run.py TINY overrides`` in this process (its root is $SSVAE_ROOT); returns the exit code."""
    return main([*TINY, *overrides])


def command(*overrides: str) -> list[str]:
    """The same as a command of its own."""
    return [sys.executable, str(PROJECT / "run.py"), *TINY, *overrides]


def environment(root: Path, **more: str) -> dict[str, str]:
    """For :func:`command`: results under ``root``, one thread."""
    return {**os.environ, "SSVAE_ROOT": str(root), "OMP_NUM_THREADS": "1", "COLUMNS": "160", **more}


def run_apart(root: Path, *overrides: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run :func:`command` to its end."""
    return subprocess.run(
        command(*overrides), env=environment(root), capture_output=True, text=True, timeout=timeout, check=False
    )


def run_cell(root: Path, ranks: int, *overrides: str) -> None:
    """``ssvae cell`` on the resolved config of ``TINY overrides``, under torchrun where there are several ranks."""
    (found,) = resolve((*TINY, *overrides))
    root.mkdir(parents=True, exist_ok=True)
    config = root / "cell.yaml"
    config.write_text(yaml.safe_dump(resolved_values(found)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    done = subprocess.run(
        [*(launcher if ranks > 1 else launcher[:1]), "-m", "ssvae", "cell", str(config)],
        env={**environment(root), "TORCHELASTIC_ERROR_FILE": os.devnull},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that all workers of this test run share, filled by the one that comes first."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, mark = base / name, base / f"{name}.made"
    with exclusive(base / f"{name}.lock", wait=True):
        if not mark.exists():
            make(folder)
            mark.touch()
    return folder


def link_data(tiny_data: Path, root: Path) -> Path:
    """Make ``root`` a root with the tiny data in it."""
    shutil.copytree(tiny_data / "runs" / "data", root / "runs" / "data", copy_function=os.link)
    return root


def plans_of(root: Path, *overrides: str) -> list[dict[str, StagePlan]]:
    """The stages of every cell of a command line, planned but not run."""
    cells = resolve((*TINY, *overrides))
    return [plan_cell(cell.cfg, root, lambda data: open_source(data, root, Silent()).fingerprint) for cell in cells]


def records(root: Path) -> list[dict[str, Any]]:
    """What the sweeps under ``root`` say of their cells, by label."""
    found = [read_json(path) for path in (root / "runs" / "sweeps").glob("*/cells/*.json")]
    return sorted(found, key=lambda record: (record["label"], record["cell_id"]))


def artefacts(root: Path) -> Mapping[str, bytes]:
    """Bytes of everything that must not depend on how often a run was stopped: weights, latents, curves, metrics."""
    records = ("steps.jsonl", "samples.jsonl", "metrics.json", "curves.json", "config.yaml", "normalizer.json")
    names = ("*.safetensors", "*.npy", *records)
    folders = [root / "runs" / "stages", root / "runs" / "latents"]
    paths = [path for folder in folders for name in names for path in folder.rglob(name)]
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(paths)}
