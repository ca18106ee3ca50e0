"""Both training loops: stopped anywhere they go on bit-identically; bad updates are skipped; logs say what happened."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssvae.build import build_accelerator
from ssvae.config.train import Precision
from ssvae.core.seeds import seed_everything, torch_generator
from ssvae.flow.path import RectifiedFlow
from ssvae.models.critic import PatchCritic
from ssvae.models.dit import VideoDiT
from ssvae.models.ema import EMA
from ssvae.models.vae import VideoVAE
from ssvae.objective.adversary import Adversary
from ssvae.objective.nll import NegativeLogLikelihood
from ssvae.objective.weighting import Weight
from ssvae.regularizers.kl import KL
from ssvae.regularizers.lcr import LCR
from ssvae.regularizers.lmr import LMR
from ssvae.train.dit_loop import train_dit
from ssvae.train.guard import NonFiniteLoss
from ssvae.train.settings import Cadence, TrainSettings
from ssvae.train.vae_loop import train_vae

STEPS = 6
SETTINGS = TrainSettings(
    steps=STEPS,
    batch=2,
    optimizer="adamw",
    lr=0.002,
    betas=(0.9, 0.95),
    weight_decay=0.01,
    curve="one_cycle",
    warmup=2,
    lr_start=0.0005,
    lr_end=0.0001,
    decay_steps=None,
    grad_clip=1.0,
    ema_decay=0.9,
    precision="fp32",
    nonfinite_limit=0,
)
CADENCE = Cadence(checkpoint_every=2, log_every=1)
State = dict[str, Tensor]
LATENTS = torch.randn((5, 4, 3, 4, 4), generator=torch.Generator().manual_seed(0))


class Stop(Exception):
    """A kill: raised from the progress, at the end of an update."""


class StopAt:
    """A progress that stops the run right after update ``step`` (None: never)."""

    def __init__(self, step: int | None) -> None:
        self.step = step
        self.begun_at: list[int] = []

    def start(self, what: str, total: int, done: int = 0) -> None:
        self.begun_at.append(done)

    def advance(self, done: int, note: str = "") -> None:
        if done == self.step:
            raise Stop


@dataclass
class Batch:
    video: Tensor
    drawn: list[str]


def batches(numbers: Sequence[int]) -> Iterator[Batch]:
    """A batch is a function of its number; every third is images."""
    for step in numbers:
        frames = 1 if step % 3 == 2 else 9
        video = torch.rand((2, 3, frames, 16, 16), generator=torch_generator(0, "clip", step)) * 2 - 1
        yield Batch(video, [f"{step}/{slot}" for slot in range(2)])


def adversary(changes: dict[str, object]) -> Adversary | None:
    """A small critic that joins at the third update, where ``critic`` is asked for."""
    if not changes.pop("critic", False):
        return None
    seed_everything(0, "critic")
    return Adversary(
        PatchCritic(width=4, levels=2, temporal_levels=1),
        start_step=3,
        lr=1e-3,
        betas=(0.5, 0.9),
        weight=Weight("grad_ratio", 0.3),
        largest=1e4,
        alternate=bool(changes.pop("alternate", False)),
    )


def run_vae(
    folder: Path,
    stop: int | None = None,
    cadence: Cadence = CADENCE,
    train_encoder: bool = True,
    gradient_checkpointing: bool = False,
    **changes: object,
) -> tuple[State, StopAt]:
    seed_everything(0, "vae")
    vae = VideoVAE(
        channels=4, base_channels=4, multipliers=[1, 2, 2], encoder_blocks=1, decoder_blocks=1,
        temporal_levels=[True, True], initial_logvar=-4.0,
    )  # fmt: skip
    seed_everything(0, "regularizers")
    regularizers = {"kl": KL(), "lcr": LCR(), "lmr": LMR(4, ratios=(0.5,), probabilities=(1.0,))}
    opponent = adversary(changes)
    progress = StopAt(stop)
    ema = train_vae(
        vae=vae,
        regularizers=regularizers,
        weights={"kl": Weight("fixed", 1e-3), "lcr": Weight("grad_ratio", 0.1)},
        nll=NegativeLogLikelihood(initial_logscale=0.0, perceptual=None, perceptual_weight=0.0),
        adversary=opponent,
        batches=changes.pop("batches", batches),  # type: ignore[arg-type]
        settings=replace(SETTINGS, **changes),  # type: ignore[arg-type]
        cadence=cadence,
        folder=folder,
        seed=0,
        accelerator=build_accelerator(Precision.fp32),
        progress=progress,
        train_encoder=train_encoder,
        gradient_checkpointing=gradient_checkpointing,
    )
    critics = {f"critic/{name}": value for name, value in opponent.critic.state_dict().items()} if opponent else {}
    return {**vae.state_dict(), **critics, **averaged(ema)}, progress


def run_dit(
    folder: Path, stop: int | None = None, cadence: Cadence = CADENCE, **changes: object
) -> tuple[State, StopAt]:
    seed_everything(0, "dit")
    dit = VideoDiT(channels=4, grid=(3, 4, 4), width=24, depth=1, heads=2, input_skip=True)
    progress = StopAt(stop)
    ema = train_dit(
        dit=dit,
        latents=changes.pop("latents", LATENTS),  # type: ignore[arg-type]
        conditions=["a red circle", "a blue square", None, "a green star", "a circle"],
        condition_dropout=0.5,
        flow=RectifiedFlow(distribution="logit_normal", shift=1.0),
        settings=replace(SETTINGS, **changes),  # type: ignore[arg-type]
        cadence=cadence,
        folder=folder,
        seed=0,
        accelerator=build_accelerator(Precision.fp32),
        progress=progress,
    )
    return {**dit.state_dict(), **averaged(ema)}, progress


def averaged(ema: EMA | None) -> State:
    return {} if ema is None else {f"ema/{name}": value for name, value in ema.shadow.items()}


Run = Callable[..., tuple[State, StopAt]]
both_loops = pytest.mark.parametrize("run", [run_vae, run_dit], ids=["vae", "dit"])


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@both_loops
@pytest.mark.parametrize("stops", [[1], [2], [3], [5], [6], [1, 2, 3, 4, 5, 6], [3, 3, 3]], ids=str)
def test_stopped_anywhere_it_ends_as_if_never_stopped(run: Run, stops: list[int], tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole")
    folder = tmp_path / "stopped"
    for stop in stops:
        with pytest.raises(Stop):
            run(folder, stop)
        torch.randn(7)  # whatever else the process draws
    resumed, progress = run(folder)
    # A stop in update n comes before its checkpoint: the newest is of the last even update before it.
    assert progress.begun_at == [max((stop - 1) // 2 * 2 for stop in stops)]
    assert same(whole, resumed)
    assert (folder / "steps.jsonl").read_bytes() == (tmp_path / "whole" / "steps.jsonl").read_bytes()


@pytest.mark.parametrize("alternate", [False, True], ids=["one forward for both", "alternating"])
def test_with_a_critic_too(alternate: bool, tmp_path: Path) -> None:
    whole, _ = run_vae(tmp_path / "whole", critic=True, alternate=alternate)
    with pytest.raises(Stop):
        run_vae(tmp_path / "stopped", 5, critic=True, alternate=alternate)
    resumed, _ = run_vae(tmp_path / "stopped", critic=True, alternate=alternate)
    assert any(name.startswith("critic/") for name in whole)
    assert same(whole, resumed)


def test_the_critic_joins_at_its_step_and_then_pulls(tmp_path: Path) -> None:
    without, _ = run_vae(tmp_path / "without", steps=2)
    before, _ = run_vae(tmp_path / "before", steps=2, critic=True)
    assert all(torch.equal(value, before[name]) for name, value in without.items()), "it starts at update 3"
    later, _ = run_vae(tmp_path / "later", critic=True)
    plain, _ = run_vae(tmp_path / "plain")
    assert not all(torch.equal(value, later[name]) for name, value in plain.items())
    lines = [json.loads(line) for line in (tmp_path / "later" / "steps.jsonl").read_text().splitlines()]
    assert ["generator" in line for line in lines] == [False, False, True, True, True, True]
    assert all(line["generator/weight"] > 0 for line in lines[2:])


def test_alternating_players_take_turns_on_batches_of_their_own(tmp_path: Path) -> None:
    """The generator draws every even batch; the critic the odd ones, once it plays."""
    seen: list[int] = []

    def noted(numbers: Sequence[int]) -> Iterator[Batch]:
        seen.extend(numbers)
        yield from batches(numbers)

    run_vae(tmp_path, critic=True, alternate=True, batches=noted)
    assert seen == [0, 2, 4, 5, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("critic", [False, True])
def test_a_frozen_encoder_does_not_move(critic: bool, tmp_path: Path) -> None:
    one, _ = run_vae(tmp_path / "one", train_encoder=False, critic=critic, steps=1)
    all_of_it, _ = run_vae(tmp_path / "all", train_encoder=False, critic=critic)
    moved = {name for name in one if not name.startswith("ema/") and not torch.equal(one[name], all_of_it[name])}
    assert moved
    assert not any(name.startswith("encoder.") for name in moved)
    assert any(name.startswith("decoder.") for name in moved)


def test_gradient_checkpointing_changes_no_number(tmp_path: Path) -> None:
    plain, _ = run_vae(tmp_path / "plain", critic=True)
    saved, _ = run_vae(tmp_path / "saved", critic=True, gradient_checkpointing=True)
    assert same(plain, saved)


@both_loops
def test_a_finished_loop_changes_nothing_when_called_again(run: Run, tmp_path: Path) -> None:
    whole, _ = run(tmp_path)
    log = (tmp_path / "steps.jsonl").read_bytes()
    again, progress = run(tmp_path)
    assert progress.begun_at == [STEPS]
    assert same(whole, again)
    assert (tmp_path / "steps.jsonl").read_bytes() == log


@both_loops
def test_neither_logging_nor_saving_changes_the_weights(run: Run, tmp_path: Path) -> None:
    often, _ = run(tmp_path / "a", cadence=Cadence(1, 1))
    rarely, _ = run(tmp_path / "b", cadence=Cadence(100, 100))
    assert same(often, rarely)


@pytest.mark.parametrize(
    ("run", "change"),
    [
        *((run, change) for run in (run_vae, run_dit) for change in ({"lr": 0.003}, {"ema_decay": 0.5}, {"warmup": 3})),
        (run_dit, {"batch": 3}),  # the VAE's batches come from outside
        (run_vae, {"grad_clip": 0.01}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_settings_reach_the_updates(run: Run, change: dict[str, object], tmp_path: Path) -> None:
    plain, _ = run(tmp_path / "a")
    other, _ = run(tmp_path / "b", **change)
    assert not same(plain, other)


@both_loops
def test_the_log_has_finite_numbers_for_every_update(run: Run, tmp_path: Path) -> None:
    run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert all(isinstance(value, int | float) and abs(value) < 1e9 for line in lines for value in line.values())
    assert lines[0]["lr"] == pytest.approx(SETTINGS.lr_start)
    assert max(line["lr"] for line in lines) == pytest.approx(SETTINGS.lr)


@both_loops
def test_an_average_starts_at_the_weights_and_lags_behind(run: Run, tmp_path: Path) -> None:
    state, _ = run(tmp_path / "a")
    names = [name for name in state if f"ema/{name}" in state]
    assert names
    assert any(not torch.equal(state[name], state[f"ema/{name}"]) for name in names)
    without, _ = run(tmp_path / "b", ema_decay=None)
    assert not any(name.startswith("ema/") for name in without)
    assert all(torch.equal(without[name], state[name]) for name in names), "averaging must not touch the weights"


def spoiled(bad: set[int]) -> Callable[[Sequence[int]], Iterator[Batch]]:
    def source(numbers: Sequence[int]) -> Iterator[Batch]:
        for step, batch in zip(numbers, batches(numbers), strict=True):
            yield Batch(batch.video * float("nan"), batch.drawn) if step + 1 in bad else batch

    return source


def test_a_bad_update_is_skipped_counted_and_leaves_no_nan(tmp_path: Path) -> None:
    state, _ = run_vae(tmp_path, batches=spoiled({3}), nonfinite_limit=1)
    assert all(bool(torch.isfinite(value).all()) for value in state.values())
    lines = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0, 0, 1, 1, 1, 1]


def test_above_the_limit_training_stops_and_a_retry_stops_again(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(NonFiniteLoss, match="step 5"):
            run_vae(tmp_path, batches=spoiled({3, 5}), nonfinite_limit=1)


def test_the_count_of_bad_updates_survives_a_stop(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run_vae(tmp_path, stop=5, batches=spoiled({3, 6}), nonfinite_limit=1)
    with pytest.raises(NonFiniteLoss, match="step 6"):
        run_vae(tmp_path, batches=spoiled({3, 6}), nonfinite_limit=1)


def test_bad_latents_are_skipped_and_counted_across_a_stop(tmp_path: Path) -> None:
    latents = LATENTS.clone()
    latents[0] = float("nan")
    whole, _ = run_dit(tmp_path / "whole", latents=latents, nonfinite_limit=STEPS)
    with pytest.raises(Stop):
        run_dit(tmp_path / "stopped", stop=5, latents=latents, nonfinite_limit=STEPS)
    resumed, _ = run_dit(tmp_path / "stopped", latents=latents, nonfinite_limit=STEPS)
    assert all(bool(torch.isfinite(value).all()) for value in whole.values())
    assert same(whole, resumed)
    texts = [(tmp_path / name / "steps.jsonl").read_text() for name in ("whole", "stopped")]
    assert texts[0] == texts[1]
    assert 0 < json.loads(texts[0].splitlines()[3])["skipped"] < STEPS, "some were drawn before the stop"
    with pytest.raises(NonFiniteLoss):
        run_dit(tmp_path / "strict", latents=latents)
