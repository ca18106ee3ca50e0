"""Which weights are measured, what a decoder fine-tune may change, and training from other people's weights."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ssvae.cli.main import main as ssvae
from ssvae.core.files import read_json
from tiny_runs import records, run_here

pytestmark = pytest.mark.system
FINETUNE = ("exp=cpu_finetune", "stages.decoder_finetune.train.steps=4", "stages.decoder_finetune.train.batch=2")


def table(root: Path) -> list[dict[str, str]]:
    (path,) = (root / "results").glob("*/table.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


def weights(stage: Path, kind: str = "vae") -> dict[str, torch.Tensor]:
    return load_file(stage / kind / "model.safetensors")


def test_stage_and_kind_of_the_measured_weights_are_values_and_a_column(root: Path) -> None:
    sweep = ("score.trained=pretrain,decoder_finetune", "score.weights=raw,ema", "-m", "stage=all")
    averaged = ("train.ema_decay=0.5", "stages.decoder_finetune.train.ema_decay=0.5")
    assert run_here(*FINETUNE, "reg=noise", *sweep, *averaged) == 0
    rows = table(root)
    assert {row["weights"] for row in rows} == {
        "pretrain raw",
        "pretrain ema",
        "decoder_finetune raw",
        "decoder_finetune ema",
    }
    assert len({row["psnr_db"] for row in rows}) == 4, "four sets of weights, four measurements"
    by_weights = {row["weights"]: row for row in rows}
    # The fine-tune keeps the encoder that it started with: whatever is measured on latents alone stays.
    assert (
        by_weights["pretrain raw"]["local_correlation"]
        == by_weights["decoder_finetune raw"]["local_correlation"]
        == by_weights["decoder_finetune ema"]["local_correlation"]
        != by_weights["pretrain ema"]["local_correlation"]
    )
    stages = root / "runs" / "stages"
    (first,), (second,) = stages.glob("pretrain-*"), stages.glob("decoder_finetune-*")
    assert len(list((root / "runs" / "latents").glob("[0-9a-f]*"))) == 2, "raw and averaged encoder"
    before, after = weights(first), weights(second)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("decoder.") for name in moved - {"latent_mean", "latent_std"})


def test_training_goes_on_from_a_folder_and_from_an_official_file_alike(root: Path, tmp_path: Path) -> None:
    assert run_here("stage=pretrain") == 0
    (made,) = (root / "runs" / "stages").glob("pretrain-*")
    assert ssvae(["export", "--vae", str(made), "--out", str(tmp_path / "export")]) == 0
    given = shutil.copytree(made / "vae", tmp_path / "given")
    tuned = []
    for init in (given, tmp_path / "export" / "official.ckpt"):
        known = set((root / "runs" / "stages").iterdir())
        assert run_here("stage=pretrain", "reg=se", "stages.base=null", f"stages.pretrain.init={init}") == 0
        (stage,) = (
            path for path in set((root / "runs" / "stages").iterdir()) - known if path.name.startswith("pretrain-")
        )
        tuned.append(weights(stage))
    from_folder, from_file = tuned
    start = load_file(given / "model.safetensors")
    assert all(torch.equal(value, from_file[name]) for name, value in from_folder.items())
    moved = [float((from_folder[name] - start[name]).abs().max()) for name in start if name.startswith("encoder.")]
    assert 0 < max(moved) < 0.1, "a few updates away from where it began"


@pytest.mark.parametrize("vae", ["vae.base_channels=8", "channels=48"])
def test_weights_of_another_architecture_are_refused_before_anything_runs(
    vae: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("stage=pretrain", "seed=5") == 0
    (made,) = (root / "runs" / "stages").glob("pretrain-*")
    before = sorted((root / "runs").rglob("*"))
    capsys.readouterr()
    assert run_here("stage=pretrain", "stages.base=null", f"stages.pretrain.init={made}", vae) == 2
    said = capsys.readouterr().err
    assert "stages.pretrain.init" in said and vae.partition("=")[0].rpartition(".")[2] in said
    assert sorted((root / "runs").rglob("*")) == before


def test_a_second_stage_without_its_first_names_the_command_that_makes_it(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(*FINETUNE, "reg=lmr", "stage=decoder_finetune") == 2
    said = capsys.readouterr().err
    assert "needs base-" in said or "needs pretrain-" in said
    assert "python run.py stage=pretrain" in said and "exp=cpu_finetune" in said
    assert not (root / "runs" / "sweeps").exists()
    assert run_here(*FINETUNE, "reg=lmr", "stage=pretrain") == 0
    assert run_here(*FINETUNE, "reg=lmr", "stage=decoder_finetune") == 0
    last = [record for record in records(root) if "decoder_finetune" in record["stages"]]
    assert read_json(root / last[0]["stages"]["decoder_finetune"] / "done.json")


def test_terms_compose_on_the_command_line_and_the_row_says_so(root: Path) -> None:
    more = ("+reg/term@reg.terms.se=se", "reg.terms.kl.weight.value=0", "reg.terms.se.factors=[2]")
    assert run_here("reg=lcr_lmr", *more) == 0
    (row,) = table(root)
    assert row["reg"] == "lcr_lmr+se"
    (stage,) = (root / "runs" / "stages").glob("pretrain-*")
    logged = (stage / "steps.jsonl").read_text()
    assert all(f'"{name}"' in logged for name in ("kl", "lcr", "se", "lmr/masked_fraction", "kl/weight"))


@pytest.mark.parametrize("kind", ["lpips", "dinov2"])
def test_networks_from_outside_are_judged_before_anything_runs(
    kind: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "weights.pth"
    wrong.write_text("no weights")
    (tmp_path / "dinov2").mkdir()
    given = {
        "lpips": (f"objective.lpips.vgg={wrong}",),
        "dinov2": ("reg=vf", f"reg.terms.vf.model={tmp_path / 'dinov2'}"),
    }[kind]
    before = sorted((root / "runs").rglob("*"))
    assert run_here("stage=pretrain", *given) == 2
    said = capsys.readouterr().err
    assert str(tmp_path) in said and "Traceback" not in said
    assert sorted((root / "runs").rglob("*")) == before
