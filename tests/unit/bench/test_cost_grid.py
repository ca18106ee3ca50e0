"""Which stages a grid computes, without data or weights: paths that are missing do not matter, other mistakes do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from ssvae.bench.cost_grid import TO_BE_GIVEN, TRAINED, GridStage, grid_stages, resolve_without_paths
from ssvae.config.compose import resolve
from ssvae.config.problem import InputError
from ssvae.config.tree import Config
from ssvae.core.identity import fingerprint
from ssvae.stages.plan import plain, plan_cell


def cells(*overrides: str) -> list[Config]:
    return [cell.cfg for cell in resolve_without_paths(overrides)[0]]


def shared(*overrides: str) -> list[tuple[str, tuple[int, ...], tuple[str, ...]]]:
    return [(stage.name, stage.cells, stage.regs) for stage in grid_stages(cells(*overrides))]


def identities(stages: list[GridStage]) -> dict[str, set[tuple[int, ...]]]:
    return {name: {stage.cells for stage in stages if stage.name == name} for name in TRAINED}


@pytest.mark.parametrize("exp", ["paper_256p", "paper_512p"])
def test_papers_experiments_need_no_path(exp: str) -> None:
    (cell,), absent = resolve_without_paths([f"exp={exp}"])
    assert {"data.path", "objective.lpips.vgg"} <= set(absent)
    stages = cell.cfg.stages
    for node in (stages.pretrain, stages.decoder_finetune):
        if node is not None:
            assert node.data.path == TO_BE_GIVEN and node.objective.lpips.vgg is not None


def test_only_paths_that_are_missing_change(tmp_path: Path) -> None:
    (tmp_path / "000000.tar").touch()
    given = (f"data.path={tmp_path}", f"objective.lpips.vgg={tmp_path / '000000.tar'}")
    expected = resolve(("exp=paper_256p", *given))
    assert resolve_without_paths(["exp=paper_256p", *given]) == (expected, ())
    (cell,), absent = resolve_without_paths(["exp=paper_256p", given[0]])
    assert absent == ("objective.lpips.vgg",)
    values, wanted = asdict(cell.cfg), asdict(expected[0].cfg)
    assert values["stages"]["pretrain"]["data"] == wanted["stages"]["pretrain"]["data"]
    for tree in (values, values["stages"]["pretrain"]):
        tree["objective"]["lpips"]["vgg"] = given[1].partition("=")[2]
    assert values == wanted


def test_lpips_that_is_off_stays_off() -> None:
    (cfg,) = cells("exp=paper_512p", "objective.lpips.vgg=null")
    assert cfg.stages.decoder_finetune is not None
    assert cfg.stages.pretrain.objective.lpips.vgg is None is cfg.stages.decoder_finetune.objective.lpips.vgg


def test_paths_of_another_machine() -> None:
    overrides = ["exp=paper_256p", "data.path=/no/tars", "data.image_path=/no/images",
                 "objective.lpips.vgg=/no/vgg.pth", "stages.pretrain.init=/no/vae"]  # fmt: skip
    (cell,), absent = resolve_without_paths(overrides)
    assert set(absent) == {text.partition("=")[0] for text in overrides[1:]}
    pretrain = cell.cfg.stages.pretrain
    assert pretrain.data.path not in (None, TO_BE_GIVEN) and pretrain.objective.lpips.vgg is not None


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["exp=paper_256p", "train.stepss=3"], ["train.stepss"]),
        (["exp=paper_256p", "train.lr=-1", "data.heldout_share=2"], ["train.lr", "data.heldout_share"]),
        # A second problem of the same key is not about the path, and two paths would be two stages.
        (["stages.pretrain.init=/no/vae"], ["stages.pretrain.init = /no/vae: pretrain continues stages.base"]),
        (["exp=paper_256p", "stages.pretrain.init=/no/a,/no/b"], ["/no/a", "/no/b"]),
    ],
)
def test_other_problems_are_all_named(overrides: list[str], said: list[str]) -> None:
    with pytest.raises(InputError) as error:
        resolve_without_paths(overrides)
    text = str(error.value)
    assert all(words in text for words in said) and "data.path" not in text and "vgg" not in text


def test_stages_that_cells_share() -> None:
    assert shared("reg=none,lcr") == [
        ("base", (0, 1), ("none",)),
        ("pretrain", (0,), ("none",)),
        ("pretrain", (1,), ("lcr",)),
        ("dit", (0,), ("none",)),
        ("dit", (1,), ("lcr",)),
    ]
    # noise acts in the second stage only
    assert shared("exp=cpu_finetune", "reg=none,noise")[:3] == [
        ("base", (0, 1), ("none",)),
        ("pretrain", (0, 1), ("none", "noise")),
        ("decoder_finetune", (0,), ("none",)),
    ]
    assert [stage[0] for stage in shared("stage=decoder_finetune", "exp=cpu_finetune")] == ["decoder_finetune"]
    assert [stage[0] for stage in shared("stage=pretrain", "exp=cpu_finetune")] == ["base", "pretrain"]
    assert len(shared("stage=pretrain", "stages.base=null", "seed=0,1,2")) == 3


def test_files_tell_stages_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    files = ",".join(str(tmp_path / name) for name in "ab")
    for overrides in ((f"stages.pretrain.init={files}", "stages.base=null"), (f"objective.lpips.vgg={files}",)):
        stages = identities(grid_stages(cells(*overrides, "channels=16")))
        assert stages["pretrain"] == {(0,), (1,)} == stages["dit"]


def test_sharing_is_that_of_the_runs() -> None:
    found = cells("exp=cpu_finetune", "reg=none,lcr,noise", "channels=16,48", "probe.train.steps=2,3")
    expected: dict[str, dict[str, list[int]]] = {name: {} for name in TRAINED}
    for place, cfg in enumerate(found):
        plans = plan_cell(cfg, Path(), lambda data: fingerprint(plain(data)))
        for name in set(TRAINED) - {"dit_base"}:
            expected[name].setdefault(plans[name].id, []).append(place)
    assert identities(grid_stages(found)) == {
        name: {tuple(places) for places in by_id.values()} for name, by_id in expected.items()
    }
