"""Batches that ranks cannot share are named by their key, for the stage that trains with them, and for no other."""

from __future__ import annotations

import pytest

from ssvae.config.compose import resolve
from ssvae.config.tree import Config
from ssvae.stages.plan import NAMES
from ssvae.stages.shared_batch import uneven_batches
from tiny_runs import TINY


def config(*overrides: str) -> Config:
    (cell,) = resolve((*TINY, *overrides))
    return cell.cfg


@pytest.mark.parametrize("world", [1, 2, 4])
def test_what_divides_is_fine(world: int) -> None:
    cfg = config("exp=cpu_finetune", "train.batch=4", "stages.base.train.batch=8", "probe.train.batch=4")
    assert [uneven_batches(cfg, stage, world) for stage in NAMES if stage != "decoder_finetune"] == [[]] * (
        len(NAMES) - 1
    )


@pytest.mark.parametrize(
    ("stage", "world", "key"),
    [
        ("pretrain", 3, "train.batch = 4"),
        ("base", 3, "stages.base.train.batch = 2"),
        ("dit", 8, "probe.train.batch = 4"),
        ("measure", 3, None),
        ("latents", 3, None),
        ("probe", 3, None),
        ("dit_base", 3, None),
    ],
)
def test_each_stage_has_its_own_batch(stage: str, world: int, key: str | None) -> None:
    found = uneven_batches(config("train.batch=4", "probe.train.batch=4"), stage, world)
    if key is None:
        assert found == []
        return
    (text,) = found
    assert text.startswith(f"{key}: is not divisible by the {world} ranks")
    assert f"a multiple of {world}" in text


def test_images_count_where_there_are_some(tmp_path: object) -> None:
    without = config("train.batch=4", "data.image_batch=3")
    assert uneven_batches(without, "pretrain", 2) == []
    without.stages.pretrain.data.image_path = str(tmp_path)
    (text,) = uneven_batches(without, "pretrain", 2)
    assert "data.image_batch = 3: is not divisible by the 2 ranks" in text
