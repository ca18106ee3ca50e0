"""Which stages a grid computes, without data or weights: paths that are missing do not matter, other mistakes do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from ssvae.bench.cost_grid import (
    ELSEWHERE,
    TO_BE_GIVEN,
    TRAINED,
    GridStage,
    finished_shape,
    grid_stages,
    resolve_without_paths,
)
from ssvae.config.compose import resolve
from ssvae.config.problem import InputError
from ssvae.config.tree import Config
from ssvae.config.vae import architecture
from ssvae.core.identity import fingerprint
from ssvae.core.shapes import latent_grid
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


def test_networks_and_texts_of_another_machine() -> None:
    overrides = ["networks.i3d=/no/i3d.pt", "networks.fvd_frames=9", "networks.lpips_vgg=/no/vgg.pth",
                 "networks.lpips_alex=/no/alex.pth", "networks.dinov2=/no/dinov2", "resolution.height=64",
                 "resolution.width=64", "probe.text.model=/no/umt5", "probe.sample.prompts=/no/prompts.txt",
                 "reward=unified_v1", "reward.template=/no/template"]  # fmt: skip
    found, absent = resolve_without_paths(overrides)
    assert set(absent) == {"networks.i3d", "networks.lpips_vgg", "networks.lpips_alex", "probe.text.model",
                           "probe.sample.prompts"}  # fmt: skip
    assert [stage.name for stage in grid_stages([cell.cfg for cell in found])] == ["base", "pretrain", "dit"]


def test_text_encoder_need_not_be_named() -> None:
    (cell,), absent = resolve_without_paths(["probe.condition=text"])
    assert absent == ("probe.text.model",) and cell.cfg.stages.probe.probe.text.model == TO_BE_GIVEN
    (cell,), absent = resolve_without_paths(["probe.condition=text", "probe.text.model=/no/umt5"])
    assert absent == ("probe.text.model",) and cell.cfg.stages.probe.probe.text.model == ELSEWHERE


@pytest.mark.parametrize(
    ("name", "frames", "shape"),
    [("wan21", 9, (16, (3, 8, 8))), ("wan22", 9, (48, (3, 4, 4))), ("cogvideox", 9, (16, (3, 8, 8))),
     ("hunyuan", 9, (16, (3, 8, 8))), ("ltx", 9, (128, (2, 2, 2))), ("flux", 9, (16, (9, 8, 8))),
     ("ssvae48", 9, (48, (3, 4, 4)))],
)  # fmt: skip
def test_published_vaes_need_neither_network_nor_weights(
    name: str, frames: int, shape: tuple[int, tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    channels, grid_of = finished_shape(name)
    assert (channels, grid_of(frames, 64, 64)) == shape
    clip = (f"resolution.frames={frames}", "resolution.height=64", "resolution.width=64", "probe.dit.patch=[1,2,2]")
    (cell,), absent = resolve_without_paths([f"vae={name}", "stage=evaluate", *clip])
    assert absent == () and cell.cfg.vae.channels == shape[0]
    assert [(stage.name, stage.regs) for stage in grid_stages([cell.cfg])] == [("dit", (name,))]


def test_finished_vaes_that_do_not_fit_or_are_not_there() -> None:
    with pytest.raises(InputError, match=r"vae = /no/such\.ckpt: no such file or folder"):
        resolve_without_paths(["vae=/no/such.ckpt", "stage=evaluate"])
    with pytest.raises(InputError, match=r"probe\.dit\.patch=\[1,2,2\] does"):
        resolve_without_paths(["vae=wan22", "stage=evaluate", "probe.dit.patch=[2,2,2]"])


def test_architecture_of_the_release_is_that_of_the_full_one() -> None:
    (cfg,) = cells("vae=ssvae", "resolution=256", "probe.dit.patch=[1,2,2]", "stage=pretrain")
    assert finished_shape("ssvae48")[1](17, 256, 256) == latent_grid(17, 256, 256, *architecture(cfg.vae).ratios)


def test_what_only_scores_a_probe_trains_no_other_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    files = ",".join(str(tmp_path / name) for name in "ab")
    for key in ("probe.sample.prompts", "networks.i3d"):
        assert identities(grid_stages(cells(f"{key}={files}", "networks.fvd_frames=9")))["dit"] == {(0, 1)}
    assert identities(grid_stages(cells("probe.text.model=one,two")))["dit"] == {(0,), (1,)}


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
