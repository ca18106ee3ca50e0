"""A cell on real clips with real images mixed in: the documented way to use one's own data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssvae.cli.run import main
from ssvae.core.files import read_json
from tiny_runs import TINY_WORK, records

pytestmark = [pytest.mark.system, pytest.mark.example_data]


def test_a_cell_trains_measures_and_generates_on_real_clips(root: Path, example_data: Path) -> None:
    own = ("data=webdataset", f"data.path={example_data / 'video'}", f"data.image_path={example_data / 'image'}")
    code = main([*TINY_WORK, *own, "data.image_weight=1", "data.video_weight=1", "data.image_batch=3", "train.steps=8"])
    assert code == 0
    (record,) = records(root)
    assert record["status"] == "finished"
    pretrain = root / record["stages"]["pretrain"]
    data = read_json(pretrain / "data.json")
    assert data["train_clips"] + 2 <= 10
    assert data["rejected"] == {}
    lines = [json.loads(line) for line in (pretrain / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    # The likelihood is a sum over a clip's values: an image of one frame has a ninth of a clip's.
    sizes = {round(line["nll"] / line["l1"] / (3 * 16 * 16)) for line in lines if abs(line["logscale"]) < 1e-2}
    assert sizes >= {1, 9}, "both images and clips were trained on"
    metrics = {value["name"]: value for value in read_json(root / record["stages"]["probe"] / "metrics.json")}
    assert "diffusion_loss" in metrics
    assert "not calibrated" in metrics["probe_fd"]["protocol"]
    assert len(list((root / record["stages"]["measure"] / "samples").glob("*.mp4"))) == 1
