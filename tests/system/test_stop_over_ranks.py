"""Two ranks, one of which is asked to stop, or fails: both end behind the same step, and none is left waiting."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from rank_stages import Request, run_stages
from ssvae.core.files import read_json
from ssvae.core.stop import ELSEWHERE
from tiny_runs import artefacts, link_data

pytestmark = pytest.mark.system
CELL = (
    "stages.base=null",
    "reg=lcr_lmr",
    "objective=l1_gan",
    "objective.critic.start_step=2",
    "objective.critic.width=4",
    "objective.critic.alternate=true",
    "train.steps=6",
    "train.ema_decay=0.9",
    "probe.train.steps=6",
    "runtime.checkpoint_every=2",
    "runtime.workers=1",
)
STAGES = ("pretrain", "latents", "dit")
ASKS = [("pretrain", 1, 1), ("pretrain", 3, 0), ("pretrain", 4, 1), ("dit", 1, 0), ("dit", 4, 1)]
"""Between two checkpoints, and (4) where one was just written; on one rank only."""
PATIENCE_S = 150.0
"""Far below the 12 hours for which ranks would wait for each other."""


def met(root: Path, rank: int) -> list[str]:
    found = read_json(root / f"met_{rank}.json")
    assert isinstance(found, list)
    return found


def test_a_stop_of_one_rank_stops_both_and_nothing_shows_afterwards(tmp_path: Path, tiny_data: Path) -> None:
    whole, stopped = (link_data(tiny_data, tmp_path / name) for name in ("whole", "stopped"))
    done = run_stages(Request(str(whole), CELL, STAGES), 2)
    assert done.returncode == 0, done.stderr[-3000:]
    done = run_stages(Request(str(stopped), CELL, STAGES, ASKS), 2)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        reasons = [text.removeprefix("Interrupted: ") for text in met(stopped, rank) if "Interrupted" in text]
        assert reasons == ["signal SIGTERM" if asked[2] == rank else ELSEWHERE for asked in ASKS]
    (dit,) = (stopped / "runs" / "stages").glob("dit-*")
    assert read_json(dit / "progress.json")["what"] == "train DiT", "where it stopped can be seen"
    assert not list(stopped.rglob("error.txt")), "a stop is no error"
    done = run_stages(Request(str(stopped), CELL, STAGES), 2)
    assert done.returncode == 0, done.stderr[-3000:]
    wanted, found = artefacts(whole), artefacts(stopped)
    assert wanted.keys() == found.keys()
    assert sum(name.endswith("samples.jsonl") and "stages/" in name for name in wanted) == 2
    assert [name for name in wanted if wanted[name] != found[name]] == []
    attempts = {path.parent.name.split("-")[0]: read_json(path)["attempts"] for path in stopped.rglob("run.json")}
    assert (attempts["pretrain"], attempts["dit"]) == (4, 3)
    assert not list(stopped.rglob("progress.json")), "a stage that is done gives no sign of life"


@pytest.mark.parametrize(
    ("stage", "what", "overrides", "expected"),
    [
        ("pretrain", "batches", (), "ValueError: data: this rank cannot read its clips"),
        ("pretrain", "batches", ("runtime.workers=0",), "ValueError: data: this rank cannot read its clips"),
        ("measure", "windows", (), None),
        ("pretrain", None, ("train.batch=3",), "ValueError: train.batch = 3: is not divisible by the 2 ranks"),
        ("dit", None, ("probe.train.batch=5",), "ValueError: probe.train.batch = 5: is not divisible by the 2 ranks"),
    ],
    ids=["batches of a worker", "batches", "windows", "uneven batch", "uneven batch of latents"],
)
def test_what_one_rank_meets_ends_all_of_them(
    stage: str, what: str | None, overrides: tuple[str, ...], expected: str | None, tmp_path: Path, tiny_data: Path
) -> None:
    root = link_data(tiny_data, tmp_path / "root")
    begun = time.monotonic()
    if stage == "measure":
        assert run_stages(Request(str(root), (*CELL, "train.steps=1"), ("pretrain",)), 2).returncode == 0
    request = Request(str(root), (*CELL, "train.steps=1", *overrides) if stage == "measure" else (*CELL, *overrides),
                      (stage,), fails=None if what is None else (what, 1))  # fmt: skip
    done = run_stages(request, 2, timeout=PATIENCE_S)
    assert done.returncode != 0
    assert time.monotonic() - begun < PATIENCE_S
    if expected is None:
        # A pass has no place where all meet: the rank dies of it, and the launcher ends the others.
        assert "ValueError: data: this rank cannot read its clips" in done.stderr
        return
    for rank in (0, 1):
        (text,) = met(root, rank)
        assert text.startswith(expected)
    if what is None:
        assert not list((root / "runs").glob("stages/*")), "found before anything is written"
    else:
        (steps,) = (root / "runs").glob("stages/pretrain-*/steps.jsonl")
        assert [json.loads(line)["step"] for line in steps.read_text().splitlines()] == [1]
