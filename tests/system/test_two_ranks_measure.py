"""Two ranks measure, train and score what one does: each clip once, sums merged before anything is divided."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import Dinov2Config, Dinov2Model

from reward_server import MODEL, Reaction, RewardServer, v2_answer
from tiny_i3d import write_tiny_i3d
from tiny_runs import run_cell

pytestmark = pytest.mark.system
ODD = ("score.clips=5", "probe.sample.clips=5", "probe.checkpoints=[2]", "score.batch=2")
"""More clips than the ranks share evenly."""


def cell(root: Path, ranks: int, *overrides: str) -> None:
    run_cell(root, ranks, *ODD, *overrides)


def metrics(root: Path, stage: str) -> dict[str, dict[str, Any]]:
    (folder,) = (root / "runs" / "stages").glob(f"{stage}-*")
    return {row["name"]: row for row in json.loads((folder / "metrics.json").read_text())}


@pytest.fixture
def networks(tmp_path: Path) -> tuple[str, ...]:
    small = Dinov2Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(small).save_pretrained(tmp_path / "dinov2")
    write_tiny_i3d(tmp_path / "i3d.pt")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"a {colour} circle moves up\n" for colour in ("red", "green", "blue", "white", "cyan")))
    paths = (f"networks.dinov2={tmp_path / 'dinov2'}", f"networks.i3d={tmp_path / 'i3d.pt'}", "networks.fvd_frames=9")
    return (*paths, "reward=unified_v2", f"reward.model={MODEL}", f"probe.sample.prompts={prompts}")


def test_two_equal_one(tmp_path: Path, networks: tuple[str, ...]) -> None:
    cell(tmp_path / "one", 1, "stage=pretrain", "reg=lmr")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    with RewardServer(lambda asked: Reaction(v2_answer(2 + asked.frames().mean() / 255, 3, 4))) as server:
        for name, ranks in (("one", 1), ("two", 2)):
            before = len(server.answered)
            cell(tmp_path / name, ranks, "stage=evaluate", "reg=lmr", *networks, f"reward.endpoint={server.url}")
            # 5 clips, each also with a wrong prompt, at the checkpoint and at the end.
            assert len(server.answered) - before == 20
    folders = [{path.name for path in (tmp_path / name / "runs" / "stages").iterdir()} for name in ("one", "two")]
    assert folders[0] == folders[1]
    for stage, close in (("measure", 1e-4), ("probe", 2e-2)):
        one, two = metrics(tmp_path / "one", stage), metrics(tmp_path / "two", stage)
        assert one.keys() == two.keys()
        for name, row in one.items():
            # Distances of 5 clips cancel large terms; features of a transformer whose sums ran in another order differ.
            slack = {"rel": close, "abs": close * 0.1}
            assert two[name]["value"] == pytest.approx(row["value"], **slack), name
            assert (two[name]["n"], two[name]["protocol"]) == (row["n"], row["protocol"]), name
    measured, scored = metrics(tmp_path / "two", "measure"), metrics(tmp_path / "two", "probe")
    assert measured["psnr_db"]["n"] >= 2 and {"rfdd", "rfvd", "viv", "psnr_token_masked_0.5_db"} <= measured.keys()
    assert {"fdd", "fvd", "fdd_reconstruction", "reward_mean", "reward_prompt_gap", "diffusion_loss"} <= scored.keys()
    assert scored["reward_mean"]["n"] >= 1 and not list((tmp_path / "two").rglob("0*.npy"))
