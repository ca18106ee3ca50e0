"""Every sample once, however many ranks: training draws one sequence, measuring and scoring leave none out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rank_stages import Request, run_stages
from tiny_runs import link_data

pytestmark = pytest.mark.system
STAGES = ("pretrain", "measure", "latents", "dit", "probe")
CELL = (
    "stages.base=null",
    "reg=lmr",
    "data.heldout_share=0.4",
    "train.batch=6",
    "probe.train.batch=6",
    "train.steps=3",
    "probe.train.steps=3",
    "probe.checkpoints=[]",
    "score.batch=1",
    "probe.sample.batch=1",
)
MANY, FEW = ("score.clips=7", "probe.sample.clips=7"), ("score.clips=2", "probe.sample.clips=2")
"""Windows that 2 and 3 ranks cannot share evenly, and fewer than 3 ranks."""


def run(root: Path, data: Path, ranks: int, *overrides: str) -> Path:
    done = run_stages(Request(str(link_data(data, root)), (*CELL, *overrides), STAGES), ranks)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def read(root: Path, stage: str, name: str) -> Any:
    (folder,) = (root / "runs" / "stages").glob(f"{stage}-*")
    return json.loads((folder / name).read_text())


def values(root: Path, stage: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in read(root, stage, "metrics.json")}


@pytest.mark.parametrize(("ranks", "clips"), [(2, MANY), (3, MANY), (3, FEW)], ids=["2", "3", "3 for 2 clips"])
def test_any_number_of_ranks_sees_what_one_sees(
    ranks: int, clips: tuple[str, ...], tmp_path: Path, tiny_data: Path
) -> None:
    alone, shared = run(tmp_path / "alone", tiny_data, 1, *clips), run(tmp_path / "shared", tiny_data, ranks, *clips)
    for stage in ("pretrain", "dit"):
        one, several = ([*root.glob(f"runs/stages/{stage}-*/samples.jsonl")] for root in (alone, shared))
        assert several[0].read_bytes() == one[0].read_bytes(), "the same samples in the same order, in every step"
        assert len(one[0].read_text().splitlines()) == 3
    rows = [read(root, "measure", "clips.json") for root in (alone, shared)]
    # A line a window, in the order of ranks: every one that one process measures, each once.
    keys = [sorted(row["key"] for row in table) for table in rows]
    assert keys[0] == keys[1]
    for name in ("psnr_db", "ssim"):
        ordered = [sorted((row["key"], row[name]) for row in table if name in row) for table in rows]
        for (key, value), (other, found) in zip(*ordered, strict=True):
            assert (key, pytest.approx(value, rel=1e-3)) == (other, found)
    for stage in ("measure", "probe"):
        one_rank, several_ranks = values(alone, stage), values(shared, stage)
        assert one_rank.keys() == several_ranks.keys()
        assert {name: row["n"] for name, row in several_ranks.items()} == {
            name: row["n"] for name, row in one_rank.items()
        }
    # Latents and held-out losses are those of the same clips; only the order of sums differs.
    loss = [values(root, "probe")["diffusion_loss"]["value"] for root in (alone, shared)]
    assert loss[1] == pytest.approx(loss[0], rel=1e-2)
