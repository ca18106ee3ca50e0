"""kill -9, again and again: the same command goes on and ends with the bytes of a run that was never stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ssvae.core.files import read_json
from tiny_runs import artefacts, command, environment, link_data, made_once, run_apart

STEPS = 12
LONG = (
    "reg=lcr_lmr",
    f"stages.base.train.steps={STEPS}",
    f"train.steps={STEPS}",
    f"probe.train.steps={STEPS}",
    "train.ema_decay=0.9",
    "score.weights=ema",
    "runtime.checkpoint_every=3",
)
Reached = Callable[[Path], bool]

pytestmark = pytest.mark.system


def step_logged(stage: str, step: int) -> Reached:
    """True once ``steps.jsonl`` of the stage has reached ``step``."""

    def reached(root: Path) -> bool:
        for path in (root / "runs" / "stages").glob(f"{stage}-*/steps.jsonl"):
            return path.read_bytes().count(b"\n") >= step
        return False

    return reached


def begun(pattern: str) -> Reached:
    """True once something matches ``pattern`` below ``runs/``."""
    return lambda root: any((root / "runs").glob(pattern))


def kill_when(root: Path, reached: Reached, *overrides: str) -> None:
    """Start the command and send SIGKILL as soon as ``reached``; it must not have ended by itself."""
    with (root / "output.txt").open("a") as output:
        process = subprocess.Popen(
            command(*LONG, *overrides), env=environment(root), stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + 120
    while process.poll() is None and not reached(root):
        assert time.monotonic() < deadline, (root / "output.txt").read_text()
        time.sleep(0.001)
    assert process.poll() is None, f"ended before it was killed: {(root / 'output.txt').read_text()}"
    # Only the main process, as the out-of-memory killer would; loader workers find out by themselves.
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def random_kills(seed: int) -> list[Reached]:
    """Kills in the order in which a run reaches them, two of them in one stage."""
    draw = random.Random(seed)
    first, second = sorted(draw.sample(range(1, STEPS + 1), 2))
    return [
        step_logged("base", first),
        step_logged("base", second),
        step_logged("pretrain", draw.randint(1, STEPS)),
        begun("stages/measure-*/run.json"),
        step_logged("dit", draw.randint(1, STEPS)),
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """A root in which the cell was run in one go."""

    def run(root: Path) -> None:
        done = run_apart(link_data(tiny_data, root), *LONG)
        assert done.returncode == 0, done.stdout + done.stderr

    return made_once(tmp_path_factory, "undisturbed", run)


def assert_same_as(undisturbed: Path, root: Path) -> None:
    wanted, found = artefacts(undisturbed), artefacts(root)
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if wanted[name] != found[name]] == []
    tables = [next(place.glob("results/*/table.csv")).read_bytes() for place in (undisturbed, root)]
    assert tables[0] == tables[1]


def assert_tidy(root: Path) -> None:
    """Nothing temporary and no checkpoint is left in a finished stage."""
    for folder in [*(root / "runs" / "stages").glob("[!.]*"), *(root / "runs" / "latents").glob("[!.]*")]:
        assert (folder / "done.json").exists()
        assert not (folder / "checkpoint.pt").exists()
        assert [str(path) for path in folder.rglob(".*")] == []


def attempts(root: Path) -> dict[str, int]:
    return {path.parent.name.split("-")[0]: read_json(path)["attempts"] for path in root.glob("runs/stages/*/run.json")}


def test_artefacts_cover_what_must_not_differ(undisturbed: Path) -> None:
    names = set(artefacts(undisturbed))
    ends = ("vae/model.safetensors", "vae_ema/model.safetensors", "dit.safetensors", "steps.jsonl", "latents.npy")
    for end in (*ends, "metrics.json", "curves.json"):
        assert any(name.endswith(end) for name in names), end
    assert sum(name.endswith("steps.jsonl") for name in names) == 3


def test_killed_at_random_steps_it_ends_bit_identically(undisturbed: Path, tmp_path: Path, tiny_data: Path) -> None:
    root = link_data(tiny_data, tmp_path)
    for reached in random_kills(seed=1):
        kill_when(root, reached)
    done = run_apart(root, *LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_as(undisturbed, root)
    assert_tidy(root)
    assert attempts(root) == {"base": 3, "pretrain": 2, "measure": 2, "dit": 2, "probe": 1}


def test_with_loader_workers_and_another_cadence_too(undisturbed: Path, tmp_path: Path, tiny_data: Path) -> None:
    """Neither the number of workers nor when checkpoints are written may be seen in the result."""
    root = link_data(tiny_data, tmp_path)
    kill_when(root, step_logged("base", 5), "runtime.workers=2", "runtime.checkpoint_every=2")
    kill_when(root, step_logged("pretrain", 8), "runtime.workers=1", "runtime.checkpoint_every=4")
    done = run_apart(root, *LONG, "runtime.workers=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_as(undisturbed, root)
    assert_tidy(root)


def test_killed_while_data_are_rendered_or_cached(undisturbed: Path, tmp_path: Path) -> None:
    kill_when(tmp_path, begun("data/.synthetic-*-*"))
    assert not begun("data/synthetic-*")(tmp_path), "half a data set must not look like one"
    kill_when(tmp_path, begun("latents/[!.]*/.train-*"))
    done = run_apart(tmp_path, *LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_as(undisturbed, tmp_path)
    assert_tidy(tmp_path)
    assert [path.name for path in (tmp_path / "runs" / "data").glob(".synthetic-*-*")] == []
