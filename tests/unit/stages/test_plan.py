"""Identity: which value belongs to which stage, what a call then reuses, and what never matters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from ssvae.config.compose import resolve
from ssvae.config.data import DataConfig
from ssvae.config.run import StageName
from ssvae.config.tree import Config
from ssvae.stages import plan as planning
from ssvae.stages.plan import COMPUTED, NAMES, StagePlan, cell_id, plan_cell
from ssvae.sweep.schedule import decide
from text_encoders import save_encoder
from tiny_runs import TINY

EVERYTHING = set(NAMES) - {"decoder_finetune", "latents_base", "dit_base"}  # of the plain default
MEASURED = ["measure", "latents", "dit", "probe"]
TRAINED = {"pretrain", *MEASURED}
PROBED = {"dit", "probe"}
ENCODED = {"latents", *PROBED}
NOTHING: set[str] = set()


def content(data: DataConfig) -> str:
    """As if every data set had the same clips, wherever it lies."""
    return "content"


def config(*overrides: str) -> Config:
    (cell,) = resolve((*TINY, *overrides))
    return copy.deepcopy(cell.cfg)


def ids(cfg: Config) -> dict[str, str]:
    return {name: plan.id for name, plan in plan_cell(cfg, Path("/nowhere"), content).items()}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def differing(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """As :func:`changed`, of the stages that both have."""
    return {name for name in before.keys() & after.keys() if before[name] != after[name]}


def finish(plans: dict[str, StagePlan]) -> None:
    for plan in plans.values():
        plan.folder.mkdir(parents=True, exist_ok=True)
        (plan.folder / "done.json").write_text('{"seconds": 1.0}')


# One named value of each kind, and the stages that a call after the change computes.
ONE_VALUE = [
    ("probe.dit.depth=2", PROBED),
    ("probe.train.lr=0.0123", PROBED),
    ("probe.sample.guidance=4.7", {"probe"}),
    ("probe.flow.shift=2.3", PROBED),
    ("probe.checkpoints=[2]", PROBED),
    ("probe.sample.batch=3", NOTHING),
    ("latents.batch=3", NOTHING),
    ("score.batch=3", NOTHING),
    ("probe.sample.clips=5", ENCODED),  # also how many held-out windows the cache holds
    ("latents.windows=2", ENCODED),
    ("score.noise=[0.37]", {"measure"}),
    ("score.clips=5", {"measure"}),
    ("train.lr=0.0123", TRAINED),
    ("reg=lcr", TRAINED),
    ("reg=lmr", TRAINED),
    ("reg=se", TRAINED),
    ("reg=predictive", TRAINED),
    ("objective=l1_gan", EVERYTHING),
    ("train.gradient_checkpointing=true", NOTHING),
    ("train.rank_statistics=per_rank", TRAINED),
    ("stages.base.train.steps=5", EVERYTHING),
    ("vae.base_channels=8", EVERYTHING),
    ("vae.initial_logvar=-5.3", EVERYTHING),
    ("channels=48", EVERYTHING),
    ("objective.initial_logscale=0.53", EVERYTHING),
    ("resolution.width=32", EVERYTHING),
    ("data.split_seed=17", EVERYTHING),
    ("seed=17", EVERYTHING),
    ("resolution.lmr.probabilities=[0.4,0.2,0.2,0.2]", NOTHING),  # what LMR would do, in a cell without it
    ("strength.lcr=0.5", NOTHING),  # how strong LCR would be, in a cell without it
    ("track=mlflow", NOTHING),
    ("track.experiment=other", NOTHING),
    ("track.samples=7", NOTHING),
    ("runtime.workers=2", NOTHING),
    ("runtime.checkpoint_every=3", NOTHING),
    ("runtime.log_every=7", NOTHING),
    ("sweep.name=mine", NOTHING),
    ("train.name=other", NOTHING),
    ("resolution.fps=8.0", NOTHING),  # 8.0 is 8
]


@pytest.mark.parametrize(("override", "computed"), ONE_VALUE, ids=[case[0] for case in ONE_VALUE])
def test_a_changed_value_recomputes_exactly_what_depends_on_it(
    override: str, computed: set[str], tmp_path: Path
) -> None:
    finish(plan_cell(config("track=none"), tmp_path, content))
    plans = plan_cell(config("track=none", override), tmp_path, content)
    (decisions,) = decide([plans], [NAMES])
    assert {name for name, decision in decisions.items() if decision == "compute"} == computed
    assert {name for name, decision in decisions.items() if decision == "reuse"} == EVERYTHING - computed


FRAMES = ("fdd_frames", "fvd_frames")
"""Count where the network that looks at them is there."""


def is_node(kind: type, name: str) -> bool:
    """Is the field an optional config node?"""
    return any(is_dataclass(candidate) for candidate in get_args(get_type_hints(kind)[name]))


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any, str]]:
    """(dotted key, owner, field name) of every value."""
    for field in fields(node):
        value, name = getattr(node, field.name), f"{key}.{field.name}" if key else field.name
        if is_dataclass(value):
            yield from leaves(value, name)
        elif value is None and is_node(type(node), field.name):
            continue  # a part that is absent: ONE_VALUE puts some in
        else:
            yield name, node, field.name


def other(value: Any, path: Path) -> Any:
    """Another value of the same kind."""
    if isinstance(value, Enum):
        return next((member for member in type(value) if member is not value), None)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, other(value[-1], path)]
    return f"{value}x" if isinstance(value, str) else str(path)


def expected(key: str) -> set[str]:
    """Which identities a leaf of the tree belongs to, in an experiment without a decoder fine-tune."""
    words = key.split(".")
    if words[-1] == "checkpoints":
        return NOTHING  # those of the default lie beyond the few updates of these cells; ONE_VALUE has one that counts
    if words[-1] == "batch" and words[-2] != "train":
        return NOTHING  # how many clips pass at once without gradients
    if words[-1] in ("stages", "gradient_checkpointing"):
        return NOTHING  # where else a term is present; how a number is computed
    if (words[-1] in ("name", "path", "image_path", "kind") and words[-2] != "flow") or "synthetic" in words:
        return NOTHING  # what data are is in their fingerprint
    if key == "vae.weights":
        return set(MEASURED)  # nothing is trained then
    if words[0] in ("vae", "seed"):
        return EVERYTHING
    if words[0] != "stages":
        return NOTHING  # shared groups count through the stages that point to them
    stage, group = words[1], words[2]
    if group == "resolution" and words[3] == "lmr":
        return TRAINED if stage == "pretrain" else NOTHING  # counts where LMR is used
    if stage == "base":
        return EVERYTHING
    if stage == "pretrain":
        return TRAINED
    if stage == "measure":
        # A decoder's fine-tune leaves the latents as they are.
        scored = {"weights": {*MEASURED}, "trained": {"measure", "probe"}}
        if group == "networks":
            return scored["trained"] - {"probe"} if words[-1] not in FRAMES else NOTHING
        return scored.get(words[-1], {"measure"})
    if group == "networks":
        return {"probe"} if words[-1] not in FRAMES else NOTHING
    if key.startswith(("stages.probe.probe.sample", "stages.probe.probe.validation_draws")):
        return {"probe"} if words[-1] != "clips" else ENCODED
    return PROBED if group == "probe" else ENCODED


def expected_with_finetune(key: str) -> set[str]:
    """The same where a decoder is fine-tuned on what pre-training made, and its weights are measured."""
    words = key.split(".")
    tuned = {"decoder_finetune", "measure", "probe"}
    if words[:2] == ["stages", "decoder_finetune"]:
        if words[-1] in ("name", "path", "image_path", "kind", "gradient_checkpointing"):
            return NOTHING
        if words[-1] == "stages":
            return NOTHING if words[4] == "lmr" else tuned  # the change makes the other terms present here
        if "synthetic" in words or (words[2] == "reg" and words[4] in ("kl", "lcr")):
            return NOTHING  # terms on the posterior are not present there
        return tuned
    if key == "stages.measure.score.trained":
        return {"measure", "probe"}
    if key == "stages.measure.score.weights":
        return {"measure", "probe"}
    without = expected(key)
    return without | {"decoder_finetune"} if "pretrain" in without else without


@pytest.mark.parametrize(
    ("exp", "right"), [("cpu", expected), ("cpu_finetune", expected_with_finetune)], ids=["one stage", "two stages"]
)
def test_every_single_value_of_the_tree_belongs_to_the_right_identities(
    exp: str, right: Callable[[str], set[str]], tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    cfg = config("reg=lcr_lmr", f"exp={exp}")
    before = ids(cfg)
    checked = 0
    for key, owner, name in leaves(cfg):
        old = getattr(owner, name)
        new = other(old, weights)
        if new is None or key == "stage" or key.endswith("probe.text.model"):
            continue  # test_a_text_encoder_counts_by_content
        setattr(owner, name, new)
        assert differing(before, ids(cfg)) == right(key), key
        setattr(owner, name, old)
        checked += 1
    assert checked > 150
    assert ids(cfg) == before


def test_content_counts_and_place_does_not(tmp_path: Path) -> None:
    cfg = config()
    same = plan_cell(cfg, Path("/elsewhere"), content)
    assert {name: plan.id for name, plan in same.items()} == ids(cfg)
    other_clips = plan_cell(cfg, Path("/nowhere"), lambda data: "other content")
    assert changed(ids(cfg), {name: plan.id for name, plan in other_clips.items()}) == EVERYTHING


def test_a_text_encoder_counts_by_content(tmp_path: Path) -> None:
    for name, kind, seed in (("a", "t5", 0), ("b", "t5", 0), ("c", "t5", 1)):
        save_encoder(tmp_path / name, kind, seed)
    plain, a, b, c = (
        ids(config(*([] if name is None else ["probe.condition=text", f"probe.text.model={tmp_path / name}"])))
        for name in (None, "a", "b", "c")
    )
    assert changed(a, b) == NOTHING
    assert changed(a, c) == changed(plain, a) == PROBED


def test_what_scores_a_transformer_does_not_train_it_again(tmp_path: Path) -> None:
    """Another guidance, prompt file, reward model or network: the same training, other scores."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red square\n")
    i3d = tmp_path / "i3d.pt"
    i3d.write_bytes(b"network")
    before = ids(config())
    reward = ("reward=unified_v2", "reward.endpoint=http://localhost:1")
    given = (("probe.sample.guidance=2",), (f"probe.sample.prompts={prompts}",), reward)
    for overrides in given:
        assert changed(before, ids(config(*overrides))) == {"probe"}, overrides
    assert changed(before, ids(config(f"networks.i3d={i3d}", "networks.fvd_frames=9"))) == {"measure", "probe"}
    asked = ids(config(*reward))
    for override in ("reward.endpoint=http://localhost:2", "reward.concurrency=3", "reward.retries=1"):
        assert changed(asked, ids(config(*reward, override))) == NOTHING, override
    assert changed(asked, ids(config(*reward, "reward.frames=5"))) == {"probe"}


def test_a_probe_that_goes_on_has_its_first_part_as_a_parent() -> None:
    plans = plan_cell(config("exp=cpu_continue"), Path("/x"), content)
    assert [name for name in plans if name not in ("base", "pretrain", "measure")] == [
        "latents_base", "dit_base", "latents", "dit", "probe",
    ]  # fmt: skip
    assert plans["dit"].parents == {"latents": plans["latents"].id, "dit_base": plans["dit_base"].id}
    assert plans["dit"].id != ids(config())["dit"] and plans["latents"].id == ids(config())["latents"]
    # What only the scores of the second part use does not reach the first.
    other = plan_cell(config("exp=cpu_continue", "probe.sample.guidance=2"), Path("/x"), content)
    assert {name for name in plans if plans[name].id != other[name].id} == {"probe"}


def test_weight_files_count_by_content(tmp_path: Path) -> None:
    for name, text in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(text)
    a, b, c = (ids(config(f"objective.lpips.vgg={tmp_path / name}")) for name in "abc")
    assert changed(a, b) == NOTHING
    assert changed(a, c) == EVERYTHING


@pytest.mark.parametrize("stage", sorted(EVERYTHING))
def test_a_bumped_version_recomputes_its_stage_and_what_follows(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config()
    before = ids(cfg)
    monkeypatch.setitem(planning.VERSIONS, stage, {**planning.VERSIONS[stage], "new": 1})
    follow = {"base": EVERYTHING, "pretrain": TRAINED, "latents": ENCODED, "dit": PROBED}
    assert changed(before, ids(cfg)) == follow.get(stage, {stage})


def test_cells_share_a_base_where_only_what_follows_differs() -> None:
    none, lcr, wide, seeded = (ids(config(text)) for text in ("reg=none", "reg=lcr", "channels=48", "seed=1"))
    assert none["base"] == lcr["base"]
    assert none["pretrain"] != lcr["pretrain"]
    assert len({none["base"], wide["base"], seeded["base"]}) == 3


@pytest.mark.parametrize(
    ("stage", "planned", "computed"),
    [
        ("pretrain", ["base", "pretrain"], ["base", "pretrain"]),
        ("measure", ["base", "pretrain", "measure"], ["measure"]),
        ("probe", ["base", "pretrain", "latents", "dit", "probe"], ["latents", "dit", "probe"]),
        ("evaluate", ["base", "pretrain", *MEASURED], MEASURED),
        ("all", ["base", "pretrain", *MEASURED], ["base", "pretrain", *MEASURED]),
    ],
)
def test_stage_chooses_what_is_computed(stage: str, planned: list[str], computed: list[str]) -> None:
    cfg = config(f"stage={stage}")
    assert list(plan_cell(cfg, Path("/nowhere"), content)) == planned
    assert [name for name in planned if name in COMPUTED[StageName(stage)]] == computed
    # The stages themselves are the same ones, whichever call asks for them.
    assert all(ids(config())[name] == plan.id for name, plan in plan_cell(cfg, Path("/nowhere"), content).items())


def test_without_a_base_training_starts_from_scratch_under_another_identity() -> None:
    scratch = plan_cell(config("stages.base=null"), Path("/nowhere"), content)
    assert list(scratch) == ["pretrain", *MEASURED]
    assert scratch["pretrain"].id != ids(config())["pretrain"]
    assert scratch["pretrain"].parents == {}


def test_a_plan_names_folders_parents_and_lock() -> None:
    plans = plan_cell(config(), Path("/somewhere"), content)
    assert plans["pretrain"].folder == Path(f"/somewhere/runs/stages/pretrain-{plans['pretrain'].id}")
    assert plans["latents"].folder == Path(f"/somewhere/runs/latents/{plans['latents'].id}")
    assert plans["dit"].parents == {"latents": plans["latents"].id}
    assert plans["probe"].parents == {name: plans[name].id for name in ("pretrain", "latents", "dit")}
    assert plans["probe"].lock.parent == plans["probe"].folder.parent
    assert plans["probe"].lock.name.startswith(".")


def test_cell_id_follows_the_stages() -> None:
    first, again, another = (plan_cell(config(text), Path("/x"), content) for text in ("seed=0", "seed=0", "seed=1"))
    assert cell_id(first) == cell_id(again) != cell_id(another)


def test_a_second_stage_finds_the_first_one_of_another_experiment_although_resolution_and_reg_differ() -> None:
    paper = ("objective.lpips.vgg=null", "data.path=/", "reg=lcr_lmr")

    def plans(*overrides: str) -> dict[str, StagePlan]:
        cell = compose_unchecked(*overrides)
        return plan_cell(cell, Path("/nowhere"), content)

    first = plans("exp=paper_256p", *paper)
    both = plans("exp=paper_512p", *paper)
    alone = plans("exp=paper_512p", "stage=decoder_finetune", *paper)
    assert first["pretrain"].id == both["pretrain"].id == alone["pretrain"].id
    assert list(alone) == ["pretrain", "decoder_finetune"]
    assert both["decoder_finetune"].parents == {"pretrain": first["pretrain"].id}
    science = both["decoder_finetune"].science
    assert science["resolution"]["height"] == 512 and first["pretrain"].science["resolution"]["height"] == 256
    assert set(science["reg"]) == {"lmr"} and science["reg"]["lmr"]["block"] == [2, 2, 2]
    assert first["pretrain"].science["reg"]["lmr"]["block"] == [1, 1, 1]
    assert both["measure"].parents == {"decoder_finetune": both["decoder_finetune"].id}
    assert both["latents"].parents == {"pretrain": first["pretrain"].id}, "its encoder is that of the first stage"


def compose_unchecked(*overrides: str) -> Config:
    """A resolved config whose data need not be there."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from ssvae.config.compose import CONF
    from ssvae.config.tree import register

    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = OmegaConf.to_object(compose("config", overrides=list(overrides)))
    assert isinstance(cfg, Config)
    return cfg


def test_cells_that_differ_in_the_second_stage_only_share_the_first() -> None:
    plain, noisy, masked = (ids(config("exp=cpu_finetune", f"reg={reg}")) for reg in ("none", "noise", "lmr"))
    assert plain["pretrain"] == noisy["pretrain"] != masked["pretrain"]
    assert plain["latents"] == noisy["latents"]
    assert len({cell["decoder_finetune"] for cell in (plain, noisy, masked)}) == 3


def test_ranks_count_where_each_takes_its_own_statistics() -> None:
    apart = config("train.rank_statistics=per_rank")
    for cfg, same in ((config(), True), (apart, False)):
        one, two = (plan_cell(cfg, Path("/x"), content, worlds=lambda stage, world=world: world) for world in (1, 2))
        assert (one["pretrain"].id == two["pretrain"].id) == same


def test_initial_weights_count_by_content(tmp_path: Path) -> None:
    for name, text in (("a.ckpt", b"one"), ("b.ckpt", b"one"), ("c.ckpt", b"two")):
        (tmp_path / name).write_bytes(text)
    cells = [
        ids(config("stages.base=null", f"stages.pretrain.init={tmp_path / name}.ckpt")) for name in ("a", "b", "c")
    ]
    assert changed(cells[0], cells[1]) == NOTHING
    assert changed(cells[0], cells[2]) == TRAINED
