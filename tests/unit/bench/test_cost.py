"""From updates to a grid: shares of images and of the critic, memory, hours, and stages that count once."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest

from ssvae.bench.cost import DEVICES, ROOM, Assumed, default_device, grid_cost
from ssvae.bench.cost_grid import GridStage, grid_stages, resolve_without_paths
from ssvae.bench.cost_stage import Load, StageCost, cost_key, load_of, spread, stage_cost
from ssvae.bench.cost_step import ProbeUpdate, VaeUpdate
from ssvae.config.compose import CONF
from ssvae.config.reg import TrainedStage
from ssvae.config.tree import Config
from ssvae.core.progress import Silent

SMALL = ("stages.base=null", "resolution.height=16", "resolution.width=16", "vae.base_channels=4", "channels=16",
         "probe.dit.patch=[3,2,2]", "score.downsample=4", "score.block=[2,4,4]")  # fmt: skip
IMAGES = ("data=webdataset", "data.image_weight=1", "data.video_weight=3", "data.image_batch=16", "train.batch=8")


@cache
def cells(*overrides: str) -> list[Config]:
    return [cell.cfg for cell in resolve_without_paths((*SMALL, *overrides))[0]]


def stages(*overrides: str) -> dict[str, GridStage]:
    return {stage.name: stage for stage in grid_stages(cells(*overrides))}


def pretrain(*overrides: str, ranks: int = 1) -> StageCost:
    stage = stages(*overrides)["pretrain"]
    return stage_cost(stage, load_of(stage, ranks, one_clip=True))


class Told(Silent):
    def __init__(self) -> None:
        self.done: list[int] = []

    def advance(self, done: int, note: str = "") -> None:
        self.done.append(done)


def test_devices_that_share_a_batch() -> None:
    plain, mixed = stages("train.batch=8"), stages(*IMAGES, "train.batch=12")
    assert load_of(plain["pretrain"], None, one_clip=True) == Load(8, 8, 0, 0.0)
    assert load_of(plain["pretrain"], None, one_clip=False) == Load(1, 8, 0, 0.0)
    assert load_of(plain["pretrain"], 2, one_clip=True) == Load(2, 8, 0, 0.0)
    # As many as a run would accept: 12 clips and 16 images go to 4 devices.
    assert load_of(mixed["pretrain"], None, one_clip=True) == Load(4, 12, 16, 0.25)
    assert load_of(plain["dit"], None, one_clip=True) == Load(1, 16, 0, 0.0)
    assert load_of(plain["dit"], 2, one_clip=True) == Load(2, 16, 0, 0.0)
    assert [load_of(plain["dit"], ranks, one_clip=True, fewer=True).ranks for ranks in (3, 8, 32)] == [2, 8, 16]
    with pytest.raises(ValueError, match=r"--ranks 32: .* probe\.train\.batch = 16 of dit; these do: 1, 2, 4, 8, 16$"):
        load_of(plain["dit"], 32, one_clip=True)
    with pytest.raises(ValueError, match=r"--ranks 3: .* train\.batch = 8 of pretrain; these do: 1, 2, 4, 8"):
        load_of(plain["pretrain"], 3, one_clip=True)
    with pytest.raises(ValueError, match=r"data\.image_batch = 16 of pretrain; these do: 1, 2, 4$"):
        load_of(mixed["pretrain"], 12, one_clip=True)


def test_images_count_where_they_would_be_drawn() -> None:
    def images(*overrides: str) -> int:
        return load_of(stages(*IMAGES, *overrides)["pretrain"], 1, one_clip=True).images

    assert images() == 16, "no data named yet: as the weights say"
    assert images("data.path=/no/tars") == 0 and images("data.image_weight=0") == 0
    assert images("data.path=/no/tars", "data.image_path=/no/images") == 16


def test_arithmetic_of_a_stage() -> None:
    """Six updates, the critic in the last two, every fourth on 16 images, the others on 8 clips, on 2 devices."""
    overrides = (*IMAGES, "objective=l1_gan", "objective.critic.start_step=5", "train.steps=6")
    found = pretrain(*overrides, ranks=2)
    (cfg,) = cells(*overrides)
    update = VaeUpdate(cfg.vae, cfg.stages.pretrain, TrainedStage.pretrain)

    def flops(batch: int, frames: int, critic: bool) -> float:
        return update.count((batch, frames, 16, 16), critic=critic, checkpointing=False).flops

    expected = sum(
        steps * (0.75 * flops(8, 9, critic) + 0.25 * flops(16, 1, critic)) for steps, critic in ((4, False), (2, True))
    )
    assert found.flops == pytest.approx(expected, rel=1e-12) and found.steps == 6
    assert found.flops_step == found.flops / 6
    assert found.flops_clips == pytest.approx(flops(8, 9, True), rel=1e-12)
    assert found.parameters == update.parameters and found.trained == update.trained


def test_memory_of_a_device() -> None:
    plain, shared = pretrain("train.batch=8"), pretrain("train.batch=8", ranks=8)
    assert plain.recomputed is not None and plain.recomputed < plain.kept == plain.activations
    assert not plain.checkpointing and plain.flops == shared.flops
    assert 7 < plain.kept / shared.kept <= 8, "a clip each instead of eight"
    weights = sum(plain.parameters.values())
    assert plain.state == 4 * (weights + 3 * weights) and plain.memory == plain.state + plain.kept
    assert pretrain("train.ema_decay=0.9").state == 4 * (5 * weights - plain.parameters["likelihood"])
    half = pretrain("train.precision=bf16")
    assert half.state == plain.state + 2 * weights and half.kept < 0.65 * plain.kept  # with autocast's copies
    again = pretrain("train.gradient_checkpointing=true", "train.batch=8")
    assert (again.kept, again.recomputed, again.activations) == (plain.kept, plain.recomputed, plain.recomputed)
    assert again.flops > plain.flops
    # Images that take more than the clips of a device are what counts.
    mixed = pretrain(*IMAGES, "data.image_batch=160")
    assert mixed.kept == plain.kept and mixed.activations > mixed.kept


def test_frozen_parts_have_no_gradients() -> None:
    tuned = stages("exp=cpu_finetune", "stages.base=null")["decoder_finetune"]
    cost = stage_cost(tuned, load_of(tuned, 1, one_clip=True))
    encoder, decoder = cost.parameters["encoder"], cost.parameters["decoder"]
    assert cost.trained == decoder + 1 and cost.state == 4 * (encoder + 4 * (decoder + 1))


def test_regularizers_that_draw_a_size_are_averaged() -> None:
    found = pretrain("reg=se", "reg.terms.se.factors=[2,4]")
    (cfg,) = cells("reg=se", "reg.terms.se.factors=[2,4]")
    update = VaeUpdate(cfg.vae, cfg.stages.pretrain, TrainedStage.pretrain)
    counts = [update.count((8, 9, 16, 16), critic=False, checkpointing=False, draw=draw) for draw in (1, 2)]
    assert counts[0].flops < counts[1].flops
    assert found.flops_step == pytest.approx((counts[0].flops + counts[1].flops) / 2)
    assert found.kept == max(count.peak for count in counts)


def test_equal_costs_are_known_by_their_key() -> None:
    def keys(*overrides: str) -> Sequence[str]:
        return [cost_key(stage, load_of(stage, 1, one_clip=True)) for stage in grid_stages(cells(*overrides))]

    assert len(set(keys("stage=pretrain", "seed=0,1"))) == 1
    assert len(set(keys("stage=decoder_finetune", "exp=cpu_finetune", "stages.base=null", "reg=none,lcr"))) == 1
    assert len(set(keys("stage=pretrain", "channels=16,48", "reg=none,lcr", "train.batch=4,8"))) == 8
    assert len(set(keys("stage=pretrain", "train.precision=fp32,bf16", "train.steps=1,2"))) == 4
    assert len(set(keys("stage=probe", "probe.dit.depth=1,2", "reg=none,lcr"))) == 2
    (dit,) = grid_stages(cells("stage=probe"))
    assert len({cost_key(dit, load_of(dit, ranks, one_clip=True)) for ranks in (1, 2, 4)}) == 3


def probe(*overrides: str, ranks: int = 1) -> StageCost:
    stage = stages("stage=probe", *overrides)["dit"]
    return stage_cost(stage, load_of(stage, ranks, one_clip=True))


def test_transformer_is_counted_with_and_without_recomputing() -> None:
    kept, again = probe(), probe("probe.dit.gradient_checkpointing=true")
    assert (kept.kept, kept.recomputed) == (again.kept, again.recomputed) and again.recomputed < 0.7 * again.kept
    assert (kept.checkpointing, again.checkpointing) == (False, True)
    assert (kept.activations, again.activations) == (kept.kept, again.recomputed) and kept.flops < again.flops


def test_transformer_on_several_devices() -> None:
    alone, shared = probe(), probe(ranks=8)
    assert shared.load.ranks == 8 and shared.state == alone.state
    assert shared.flops == pytest.approx(alone.flops, rel=1e-12) and 4 < alone.kept / shared.kept <= 8


def test_transformer_that_does_not_fit_is_spread() -> None:
    stage, alone = stages("stage=probe")["dit"], probe()
    assert spread(stage, alone, alone.memory) is alone
    fewest = spread(stage, alone, alone.memory - 1)
    assert fewest.load.ranks == 2 and fewest == probe(ranks=2)
    found = spread(stage, alone, (room := probe(ranks=8).memory))
    assert found.load.ranks == 8 and found.memory <= room < probe(ranks=4).memory
    assert spread(stage, alone, 0.0) is alone


def test_devices_of_transformers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(ranks: int | None, *overrides: str) -> list[str]:
        found = grid_cost(cells("train.batch=32", *overrides), Assumed("h100", 0.35, ranks=ranks), (), Silent())
        return [note for note in found.notes if "transformer" in note]

    (note,) = said(32)
    assert "batch 16" in note and "counted on 16 devices" in note and "a run on 32 stops there" in note
    assert said(8) == said(None) == []
    with pytest.raises(ValueError, match=r"--ranks 32: does not divide the probe\.train\.batch = 16 of dit"):
        said(32, "stage=probe")
    monkeypatch.setitem(ROOM, "h100", probe(ranks=4).memory)
    (note,) = said(None, "stage=probe")
    assert "counted on 4 devices, the fewest" in note
    monkeypatch.setitem(ROOM, "h100", 0.0)
    (note,) = said(None, "stage=probe")
    assert "does not fit in the 0 GB of a device, on any number" in note and "gradient_checkpointing=true" in note
    assert "on 2 devices" in said(2, "stage=probe")[0]


PRESETS = {"0.75b": 745_867_328, "1.3b": 1_321_255_104, "4b": 4_013_668_032, "b2": 131_301_312, "l2": 459_679_936,
           "s2": 33_063_744, "xl2": 677_199_360, "tiny": 1_509_616}  # fmt: skip


def test_every_preset_is_known() -> None:
    assert {path.stem for path in (CONF / "probe").glob("*.yaml")} == PRESETS.keys()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_of_the_probe_can_be_counted(name: str) -> None:
    """Parameters as its file states them; an update of two of its blocks, for the others are the same."""
    small = ("probe.dit.patch=[1,2,2]",) if name != "tiny" else ()
    (cell,), absent = resolve_without_paths(
        ["stage=probe", "channels=48", f"probe={name}", "probe.train.batch=4", *small]
    )
    (stage,) = grid_stages([cell.cfg])
    assert absent == (("probe.text.model",) if name.endswith("b") else ())
    settings = stage.cfg.stages.probe.probe
    assert ProbeUpdate(settings, channels=48, grid=(3, 2, 2)).parameters == {"DiT": PRESETS[name]}
    settings.dit.depth = 2
    found = stage_cost(stage, load_of(stage, 2, one_clip=True))
    assert found.flops > 0 and found.recomputed <= found.kept and found.load.ranks == 2
    assert found.checkpointing is name.endswith("b")


def test_hours() -> None:
    cost = replace(pretrain(), flops=3.6e18, precision="bf16")
    assert Assumed("h100", 0.5).hours(cost) == pytest.approx(1e3 / (989 * 0.5))
    assert Assumed("a100", 1.0).hours(replace(cost, precision="fp32")) == pytest.approx(1e3 / 156)
    assert Assumed("h200", 0.35).hours(cost) == Assumed("h100", 0.35).hours(cost)
    assert Assumed("cpu", 0.35).hours(cost) is None
    assert Assumed("cpu", 0.25, tflops=2.0).hours(cost) == pytest.approx(2000.0)


@pytest.mark.parametrize(
    ("values", "option"),
    [({"utilization": 0.0}, "--utilization 0"), ({"utilization": 1.5}, "--utilization 1.5"),
     ({"utilization": math.nan}, "--utilization nan"), ({"tflops": 0.0}, "--tflops 0"),
     ({"tflops": math.inf}, "--tflops inf"), ({"ranks": 0}, "--ranks 0")],
)  # fmt: skip
def test_senseless_assumptions(values: dict[str, float], option: str) -> None:
    with pytest.raises(ValueError, match=option):
        Assumed(**{"device": "h100", "utilization": 0.35, **values})  # type: ignore[arg-type]


def test_a_grid_counts_shared_stages_once() -> None:
    overrides = ("exp=cpu_finetune", "stages.base=null", "reg=none,noise", "probe.train.steps=3")
    told = Told()
    found = grid_cost(cells(*overrides), Assumed("h100", 0.35, ranks=2), ("data.path",), told)
    counted = [(row.stage.name, len(row.stage.cells)) for row in found.rows]
    # Another decoder trains no other transformer.
    assert counted == [("pretrain", 2), *[("decoder_finetune", 1)] * 2, ("dit", 2)]
    assert told.done == [1, 2, 3, 4] and found.cells == 2
    assert found.flops == math.fsum(row.cost.flops for row in found.rows)
    assert found.hours == pytest.approx(found.flops / (494.5e12 * 0.35 * 3600))
    report = json.loads(json.dumps(found.to_json()))
    assert report["total"] == {"flops": found.flops, "device_hours": found.hours} and report["estimate"] is True
    first = report["stages"][0]
    assert (first["stage"], first["regs"], first["cells"]) == ("pretrain", ["none", "noise"], 2)
    assert first["load"] == {"ranks": 2, "clips": 8, "images": 0, "share": 0.0}
    assert first["memory"] == first["state"] + first["activations"] and first["device_hours"] == found.rows[0].hours
    assert sum(stage["device_hours"] for stage in report["stages"]) == pytest.approx(found.hours)
    assert any("data.path" in note for note in found.notes) and any("LPIPS is not" in note for note in found.notes)
    assert "0.35" in found.notes[0] and "494.5" in found.notes[0]


def test_without_a_peak_there_are_no_hours() -> None:
    found = grid_cost(cells("stage=pretrain"), Assumed("cpu", 0.35), (), Silent())
    assert found.hours is None and found.flops > 0 and found.rows[0].cost.load.ranks == 1
    assert "without hours" in found.notes[0]
    assert found.to_json()["total"]["device_hours"] is None


def test_default_device() -> None:
    assert default_device(cells()) == "cpu"
    paper = [replace(cell, exp="paper_256p") for cell in cells()]
    assert default_device(paper) == default_device([*cells(), *paper]) == "h100"
    assert {"h100", "cpu"} <= DEVICES.keys() and ROOM.keys() == DEVICES.keys() - {"cpu"}
