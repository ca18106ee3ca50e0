"""Pictures and videos: names that MLflow's pages group, the right steps, the same names every time."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from ssvae.data.video_file import write_video
from ssvae.track.media import Unreadable, grid_name, media_step, uploads

_GRID = re.compile(r"([^+%]+)\+step\+(\d+)\+timestamp\+(\d+)\+([0-9a-f-]{36})(\+compressed)?\.(png|webp)")
"""How MLflow's page takes a name apart (MLflow 3.17)."""


def picture(path: Path, size: tuple[int, int] = (64, 32), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path)
    return path


def stage(root: Path, name: str, parents: dict[str, str] | None = None, steps: int | None = None) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"created_ms": 1000, "parents": parents or {}}))
    if steps is not None:
        (folder / "steps.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(1, steps + 1)))
    return folder


def test_names_are_those_that_mlflow_itself_writes(tmp_path: Path) -> None:
    """Beside a picture that MLflow's client has logged."""
    client = MlflowClient(f"sqlite:///{tmp_path}/m.db")
    run = client.create_run(client.create_experiment("e", (tmp_path / "files").as_uri())).info.run_id
    client.log_image(run, Image.new("RGB", (8, 8)), key="measure/panels", step=7, timestamp=1007)
    theirs = sorted(path.name for path in (tmp_path / "files").rglob("images/*"))
    name = grid_name("measure/panels", 7, 1007, "x")
    ours = [f"{name}+compressed.webp", f"{name}.png"]
    for one, two in zip(theirs, ours, strict=True):
        mine, other = _GRID.fullmatch(one), _GRID.fullmatch(two)
        assert mine is not None
        assert other is not None
        assert [group for index, group in enumerate(mine.groups()) if index != 3] == [
            group for index, group in enumerate(other.groups()) if index != 3
        ]


def test_every_picture_comes_with_its_small_copy_and_keeps_its_name(tmp_path: Path) -> None:
    folder = stage(tmp_path, "pretrain-ab", steps=12)
    picture(folder / "panels.png", (600, 300))
    picture(folder / "figures" / "loss (log).png", (10, 400), "RGBA")
    picture(folder / "samples" / "clip_step_000004.png", mode="L")
    (folder / "figures" / ".hidden.png").write_bytes(b"half")
    found = uploads("pretrain", folder, 1000)
    names = [_GRID.fullmatch(one.name) for one in found if one.where == "images"]
    told = [(match.group(1), match.group(2), match.group(3), match.group(6)) for match in names if match is not None]
    assert len(told) == len(names) == 6
    assert sorted(told) == sorted(
        (key, step, str(1000 + int(step)), ending)
        for key, step in (("pretrain~panels", "12"), ("pretrain~loss _log_", "12"), ("pretrain~clip", "4"))
        for ending in ("png", "webp")
    )
    assert uploads("pretrain", folder, 1000) == found
    assert len({match.group(4) for match in names if match is not None}) == 3
    for one in found:
        if one.make is not None:
            one.make(one.source, tmp_path / "made")
            with Image.open(tmp_path / "made") as small, Image.open(one.source) as large:
                assert small.format == "WEBP"
                assert max(small.size) == 256
                assert small.width / small.height == pytest.approx(large.width / large.height, rel=0.1)


def test_videos_play_by_step_and_show_a_still(tmp_path: Path) -> None:
    dit, parents = stage(tmp_path, "dit-cd", steps=30), {"latents": "xx", "dit": "cd"}
    folder = stage(tmp_path, "probe-ef", parents)
    assert dit.exists()
    write_video(folder / "samples" / "generated_0.mp4", torch.linspace(-1, 1, 5 * 3 * 256).view(3, 5, 16, 16), 8.0)
    found = {f"{one.where}/{one.name}": one for one in uploads("probe", folder, 1000)}
    assert "videos/probe/generated_0/step_00000030.mp4" in found
    stills = [one for name, one in found.items() if name.startswith("images/probe~generated_0+step+30+timestamp+1030")]
    assert [one.name.rpartition(".")[2] for one in stills] == ["png", "webp"]
    for one in stills:
        assert one.make is not None
        one.make(one.source, tmp_path / "made")
        with Image.open(tmp_path / "made") as shown:
            assert shown.format == one.name.rpartition(".")[2].upper()


def test_what_cannot_be_opened_says_so(tmp_path: Path) -> None:
    folder = stage(tmp_path, "measure-ab")
    for name in ("samples/x.mp4", "panels.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"rubbish")
    made = [one for one in uploads("measure", folder, 0) if one.make is not None]
    assert len(made) == 3
    for one in made:
        assert one.make is not None
        with pytest.raises(Unreadable, match=one.source.name):
            one.make(one.source, tmp_path / "made")


@pytest.mark.parametrize(
    ("parents", "step"),
    [
        ({"pretrain": "aa"}, 5),
        ({"decoder_finetune": "bb"}, 7),
        ({"pretrain": "aa", "dit": "cc"}, 9),
        ({"pretrain": "gone"}, 0),
        ({}, 0),
    ],
)
def test_pictures_of_a_score_have_the_step_of_what_it_scores(
    tmp_path: Path, parents: dict[str, str], step: int
) -> None:
    for name, steps in (("pretrain-aa", 5), ("decoder_finetune-bb", 7), ("dit-cc", 9)):
        stage(tmp_path, name, steps=steps)
    assert media_step(stage(tmp_path, "measure-dd", parents)) == step
    assert media_step(tmp_path / "nosuch") == 0


def test_texts_of_a_stage_are_kept_by_stage(tmp_path: Path) -> None:
    folder = stage(tmp_path, "pretrain-ab")
    for name in ("config.yaml", "metrics.json", "error.txt", "weights.safetensors"):
        (folder / name).write_text("x")
    assert [(one.where, one.name) for one in uploads("pretrain", folder, 0)] == [
        ("stages/pretrain", "config.yaml"), ("stages/pretrain", "metrics.json"), ("stages/pretrain", "error.txt"),
    ]  # fmt: skip
