"""The probe end to end: scores at checkpoints, what is scored again and what is not, texts, and a second clip size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import Dinov2Config, Dinov2Model

from reward_server import MODEL, Asked, Reaction, RewardServer, v2_answer
from ssvae.stages import scoring
from text_encoders import save_encoder
from tiny_runs import records, run_here

pytestmark = pytest.mark.system
KEPT = "probe.checkpoints=[2]"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"a {colour} circle moves up\n" for colour in ("red", "green", "blue", "white")))
    return f"probe.sample.prompts={path}"


def stage(root: Path, name: str) -> Path:
    (folder,) = (root / "runs" / "stages").glob(f"{name}-*")
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def values(folder: Path) -> dict[str, float]:
    return {row["name"]: row["value"] for row in read(folder / "metrics.json")}


def test_scores_at_checkpoints_are_those_of_their_weights(root: Path) -> None:
    assert run_here(KEPT) == 0
    probe, dit = stage(root, "probe"), stage(root, "dit")
    curves, final = read(probe / "curves.json"), values(probe)
    for name in ("diffusion_loss", "probe_fd", "probe_reward"):
        curve = curves[f"by_step/{name}"]
        assert curve["x"] == [2, 4] and curve["y"][-1] == final[name] and curve["direction"] in ("up", "down")
        assert curve["y"][0] != curve["y"][1]
    assert not [name for name in curves if "gaussian" in name], "what has no better side is no curve"
    kept = load_file(dit / "weights" / "step_0000002.safetensors")
    assert kept.keys() == load_file(dit / "dit.safetensors").keys()
    loss = curves["diffusion_loss_by_time"]
    assert loss["x"] == [0.5] and loss["y"] == [pytest.approx(final["diffusion_loss"])], "one draw, one bin"
    assert (next((root / "results").iterdir()) / "convergence.md").exists()


def test_a_checkpoints_score_is_the_final_one_of_a_training_that_stops_there(root: Path) -> None:
    constant = "probe.train.curve=constant"  # any other curve depends on the length
    assert run_here(KEPT, constant) == 0
    (longer,) = (root / "runs" / "stages").glob("probe-*")
    assert run_here("probe.checkpoints=[]", "probe.train.steps=2", constant) == 0
    (shorter,) = set((root / "runs" / "stages").glob("probe-*")) - {longer}
    curves = read(longer / "curves.json")
    for name in ("diffusion_loss", "probe_fd", "probe_reward"):
        assert curves[f"by_step/{name}"]["y"][0] == values(shorter)[name], name


def test_another_guidance_scores_again_and_trains_nothing(root: Path) -> None:
    assert run_here(KEPT) == 0
    assert run_here(KEPT, "probe.sample.guidance=2") == 0
    (again,) = [record for record in records(root) if len(record["reused"]) == 5]
    assert set(again["reused"]) == {"base", "pretrain", "measure", "latents", "dit"}


def failing(after: int) -> Callable[[Asked], Reaction]:
    """Breaks for good from the request number ``after`` on."""
    return lambda asked: Reaction(status=400) if asked.number >= after else Reaction(v2_answer(3, 3, 3))


def test_a_reward_server_that_dies_costs_no_answer_no_sample_and_no_score(
    root: Path, prompts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = (KEPT, prompts, "reward=unified_v2", f"reward.model={MODEL}", "reward.concurrency=1", "reward.frames=2")
    with RewardServer(failing(after=11)) as server:
        # 4 clips with right and wrong prompts: 8 answers a checkpoint. The last one breaks after three.
        assert run_here(*asking, f"reward.endpoint={server.url}") == 1
        probe = stage(root, "probe")
        scored = {path.name for path in (probe / "scores").iterdir()}
        assert scored == {"step_0000002.json", "step_0000002_reward.json", "step_0000004.json"}
        assert not (probe / "metrics.json").exists() and (probe / "shown" / "step_0000004" / "complete").exists()
        answered = len(server.answered)
        server.react = lambda asked: Reaction(v2_answer(3, 3, 3))
        monkeypatch.setattr(scoring.Scoring, "generate", lambda *given: pytest.fail("clips are sampled again"))
        assert run_here(*asking, f"reward.endpoint={server.url}") == 0
        good = [asked for asked in server.answered if asked.number < 11 or asked.number >= answered]
        assert len(good) == 16, "what was answered is not asked again"
    found = values(probe)
    assert found["reward_mean"] == 3 and found["reward_prompt_gap"] == 0 and found["reward_unparsed"] == 0
    assert read(probe / "curves.json")["by_step/reward_mean"]["y"] == [3, 3]
    assert not list((probe / "shown").iterdir())


def test_a_reward_server_that_is_not_there_is_said_before_anything_runs(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("reward=unified_v2", "reward.endpoint=http://127.0.0.1:9", "reward.retries=0") == 2
    assert "http://127.0.0.1:9" in capsys.readouterr().err
    assert not (root / "runs" / "stages").exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("probe.condition=none",), "without a prompt"),
        (("one prompt",), "no wrong prompt is left"),
    ],
)
def test_clips_that_no_reward_model_can_judge_are_said_before_anything_is_trained(
    overrides: tuple[str, ...], said: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "one.txt"
    alone.write_text("a red circle moves up\n")
    given = [f"probe.sample.prompts={alone}" if text == "one prompt" else text for text in overrides]
    with RewardServer(lambda asked: Reaction(v2_answer(3, 3, 3))) as server:
        reward = ("reward=unified_v2", f"reward.model={MODEL}", f"reward.endpoint={server.url}")
        assert run_here(*reward, *given) == 2
        assert said in capsys.readouterr().err and not server.asked
    assert not (root / "runs" / "stages").exists()


def test_statistics_of_real_clips_are_made_once_for_all_cells(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Dinov2Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(small).save_pretrained(tmp_path / "dinov2")
    made: list[int] = []
    real = scoring.feature_statistics

    def counted(*given: Any) -> Any:
        made.append(1)
        return real(*given)

    monkeypatch.setattr(scoring, "feature_statistics", counted)
    assert run_here("-m", "reg=none,lcr", f"networks.dinov2={tmp_path / 'dinov2'}") == 0
    assert len(made) == 1 and len(list((root / "runs" / "cache" / "features").glob("*.safetensors"))) == 1
    folders = list((root / "runs" / "stages").glob("probe-*"))
    assert len(folders) == 2
    for folder in folders:
        found = values(folder)
        assert found["fdd"] > 0 and found["fdd_reconstruction"] > 0


def test_texts_are_embedded_once(root: Path, tmp_path: Path) -> None:
    told = ("probe.condition=text", f"probe.text.model={save_encoder(tmp_path / 't5', 't5')}")
    assert run_here(*told) == 0
    embedded = {path: path.stat().st_mtime_ns for path in (root / "runs" / "cache" / "text").rglob("*.safetensors")}
    assert len(embedded) > 2
    assert run_here(*told, "seed=1") == 0
    assert embedded == {
        path: path.stat().st_mtime_ns for path in (root / "runs" / "cache" / "text").rglob("*.safetensors")
    }
    weights = load_file(next((root / "runs" / "stages").glob("dit-*")) / "dit.safetensors")
    assert any(name.startswith("conditioner.tokens") for name in weights)


def test_a_probe_goes_on_at_another_clip_size(root: Path) -> None:
    """With a learning rate of 0 the second part keeps what the first one learned."""
    large = ("resolution.height=32", "resolution.width=32")  # the first part stays at 16
    first = ("+probe@stages.probe_base.probe=tiny", *(f"stages.probe_base.probe.{text}" for text in (
        "dit.depth=1", "dit.width=32", "dit.heads=2", "train.steps=3", "train.batch=4", "sample.clips=4",
    )))  # fmt: skip
    still = ("probe.train.lr=1e-30", "probe.train.lr_end=0", "probe.train.ema_decay=null")
    assert run_here("exp=cpu_continue", *first, *large, *still) == 0
    before, after = (load_file(stage(root, name) / "dit.safetensors") for name in ("dit_base", "dit"))
    assert all((value - after[name]).abs().max() < 1e-7 for name, value in before.items())
    assert values(stage(root, "dit_base")) == {} and values(stage(root, "probe"))["diffusion_loss"] > 0
