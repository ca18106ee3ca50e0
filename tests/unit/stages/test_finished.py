"""Finished VAEs in a grid: by name, folder or file; their channels, their rules, their identity."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import AutoencoderKLWan

from ssvae.config.compose import CONF, finished_vae, plain_name, resolve
from ssvae.config.data import DataConfig
from ssvae.config.problem import InputError
from ssvae.config.tree import Config
from ssvae.models.statistics import LatentStatistics
from ssvae.models.vae import VideoVAE
from ssvae.models.weights import save_vae
from ssvae.stages.finished import settle, shape_of
from ssvae.stages.init import weights_fingerprint
from ssvae.stages.plan import StagePlan, plan_cell
from tiny_runs import TINY_DATA

PROBED = ["measure", "latents", "dit", "probe"]


def content(data: DataConfig) -> str:
    return "content"


def plans(cfg: Config) -> dict[str, StagePlan]:
    return plan_cell(cfg, Path("/nowhere"), content)


def configs(*overrides: str) -> list[Config]:
    return [copy.deepcopy(cell.cfg) for cell in resolve((*TINY_DATA, *overrides))]


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A folder of ours: 5 channels, 2x2x2."""
    torch.manual_seed(0)
    vae = VideoVAE(
        channels=5, base_channels=4, multipliers=(1, 2), encoder_blocks=1, decoder_blocks=1, temporal_levels=(True,)
    )
    save_vae(tmp_path / "mine" / "vae", vae, LatentStatistics.unrecorded(vae))
    return tmp_path / "mine"


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    )
    network.save_pretrained(tmp_path / "wan")
    return tmp_path / "wan"


def test_a_path_in_place_of_a_choice_is_spelt_out() -> None:
    assert finished_vae(["vae=tiny", "seed=1"], CONF) == ["vae=tiny", "seed=1"]
    assert finished_vae(["vae=wan21"], CONF) == ["vae=wan21"]
    spelt = finished_vae(["vae=runs/stages/pretrain-0123/vae"], CONF)
    assert spelt == ["vae=weights", "vae.weights=runs/stages/pretrain-0123/vae", "vae.name=pretrain-0123"]
    assert finished_vae(["vae=my.ckpt"], CONF)[1] == "vae.weights=my.ckpt"
    # A slip of the pen stays a choice, which Hydra then refuses with what there is.
    assert finished_vae(["vae=wann21"], CONF) == ["vae=wann21"]
    assert plain_name("/a b/c=d.ckpt") == "c_d"


def test_channels_and_grid_are_the_vaes_own(ours: Path, wan: Path) -> None:
    (cfg,) = configs(f"vae={ours}", "stage=evaluate", "score.block=[2,4,4]", "probe.dit.patch=[1,2,2]")
    assert settle([cfg]) == []
    assert cfg.vae.channels == 5 and cfg.vae.name == "mine"
    (cfg,) = configs(f"vae={wan}", "stage=evaluate", "score.block=[2,4,4]", "probe.dit.patch=[3,2,2]")
    assert settle([cfg]) == []
    assert cfg.vae.channels == 4
    assert shape_of(str(wan))[1](9, 32, 32) == (3, 4, 4)


def test_one_command_line_takes_names_folders_and_files(ours: Path, wan: Path) -> None:
    cells = resolve((*TINY_DATA, f"vae=wan21,{ours},{wan}", "stage=measure"))
    assert [cell.cfg.vae.weights for cell in cells] == ["wan21", str(ours), str(wan)]


def test_different_weights_under_one_file_name_are_told_apart(wan: Path, tmp_path: Path) -> None:
    """Two exports are both called ``plain``; the same weights in two places stay one VAE."""
    torch.manual_seed(1)
    other = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    )
    places = [tmp_path / name / "plain" for name in "abc"]
    shutil.copytree(wan, places[0])
    shutil.copytree(wan, places[1])
    other.save_pretrained(places[2])
    sizes = ("stage=measure", "score.block=[2,4,4]")
    cells = configs(f"vae={','.join(map(str, places))}", *sizes)
    assert settle(cells) == []
    a, b, c = (cfg.vae.name for cfg in cells)
    assert a == b != c and all(name.startswith("plain-") for name in (a, b, c))
    assert settle(cells) == [] and [cfg.vae.name for cfg in cells] == [a, b, c], "once and for all"
    (alone,) = configs(f"vae={places[0]}", *sizes)
    assert settle([alone]) == [] and alone.vae.name == "plain"


def test_a_network_from_the_local_cache_counts_as_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    found = {"config.json": str(folder / "config.json"), "model.safetensors": str(folder / "model.safetensors")}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: found.get(file))
    weights_fingerprint.cache_clear()
    assert weights_fingerprint("networks.dinov2", "some/name") == weights_fingerprint("networks.dinov2", str(folder))
    found.clear()
    weights_fingerprint.cache_clear()
    absent = weights_fingerprint("networks.dinov2", "some/name")
    assert absent != weights_fingerprint("networks.dinov2", str(folder))
    assert absent != weights_fingerprint("networks.dinov2", "other/name")


def test_only_measuring_and_probing_are_planned(wan: Path) -> None:
    (cfg,) = configs(f"vae={wan}", "stage=all")
    assert list(plans(cfg)) == PROBED
    (cfg,) = configs(f"vae={wan}", "stage=measure")
    assert list(plans(cfg)) == ["measure"]


def test_identity_is_the_content_not_the_path(ours: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(ours, again)
    first, second = (plans(configs(f"vae={path}", "stage=evaluate")[0]) for path in (ours, again))
    assert {name: plan.id for name, plan in first.items()} == {name: plan.id for name, plan in second.items()}
    other = VideoVAE(
        channels=5, base_channels=4, multipliers=(1, 2), encoder_blocks=1, decoder_blocks=1, temporal_levels=(True,)
    )
    save_vae(tmp_path / "other" / "vae", other, LatentStatistics.unrecorded(other))
    third = plans(configs(f"vae={tmp_path / 'other'}", "stage=evaluate")[0])
    assert all(third[name].id != first[name].id for name in PROBED)


def test_identity_of_what_is_trained_here_does_not_know_of_finished_vaes() -> None:
    (cfg,) = configs("stage=pretrain")
    assert "weights" not in plans(cfg)["pretrain"].science["vae"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("vae=wan21", "stage=pretrain"), "stage=evaluate"),
        (("vae=wan21", "reg=lcr", "stage=measure"), "nothing is trained"),
        (("vae.weights=wan21",), "leave it out"),
        (("vae.base_channels=null",), "vae.base_channels"),
        (("vae=wan2", "stage=measure"), "did you mean wan2"),
        (("vae=wan21", "stage=measure", "channels=16,48"), "brings its own channels"),
    ],
)
def test_what_makes_no_sense_is_said(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve((*TINY_DATA, *overrides))
    assert said in " ".join(f"{problem.key} {problem.value} {problem.remedy}" for problem, _ in caught.value.problems)


def test_rules_of_a_vae_are_judged_before_anything_runs(wan: Path, tmp_path: Path) -> None:
    (cfg,) = configs(f"vae={wan}", "stage=measure", "resolution.frames=8")
    (problem,) = settle([cfg])
    assert "9" in problem.remedy and "resolution" in problem.key
    (cfg,) = configs(f"vae={wan}", "stage=probe", "probe.dit.patch=[2,2,2]")
    (problem,) = settle([cfg])
    assert problem.key == "probe.dit.patch"
    (cfg,) = configs(f"vae={tmp_path / 'absent.ckpt'}", "stage=measure")
    (problem,) = settle([cfg])
    assert problem.remedy == "no such file or folder"
