"""Asked to stop, both loops end behind the step, saved once, and go on as if nothing had been; samples are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_loops
import torch
from test_loops import CADENCE, STEPS, State, run_dit, run_vae, same

import dit_training
from ssvae.core.identity import fingerprint
from ssvae.core.seeds import torch_generator
from ssvae.core.stop import Interrupted, Stop
from ssvae.train import dit_loop, vae_loop

Run = Callable[..., tuple[State, Any]]
both_loops = pytest.mark.parametrize(("run", "module"), [(run_vae, vae_loop), (run_dit, dit_loop)], ids=["vae", "dit"])


class AskAt:
    """A progress that asks for the end right after an update, as a signal in the middle of it would."""

    def __init__(self, stop: Stop, step: int) -> None:
        self.stop, self.step = stop, step

    def start(self, what: str, total: int, done: int = 0) -> None:
        if done == self.step:
            self.stop.ask("signal SIGTERM")

    def advance(self, done: int, note: str = "") -> None:
        if done == self.step:
            self.stop.ask("signal SIGTERM")


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps of all checkpoints that are written."""
    steps: list[int] = []
    for module in (vae_loop, dit_loop):
        real = module.save_checkpoint

        def save(folder: Path, step: int, state: dict[str, Any], real: Callable[..., None] = real) -> None:
            steps.append(step)
            real(folder, step, state)

        monkeypatch.setattr(module, "save_checkpoint", save)
    return steps


def asked(run: Run, module: Any, step: int, monkeypatch: pytest.MonkeyPatch, folder: Path, **more: Any) -> State:
    """``run`` with a stop that is asked for behind ``step``."""
    stop, name = Stop(), "train_vae" if module is vae_loop else "train_dit"
    train = getattr(module, name)
    with monkeypatch.context() as patch:
        patch.setattr(test_loops, name, lambda **given: train(**{**given, "progress": AskAt(stop, step)}, stop=stop))
        return run(folder, **more)[0]


def records(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("steps.jsonl", "samples.jsonl")}


@both_loops
@pytest.mark.parametrize(
    ("stops", "saves"),
    [([1], [1, 2, 4, 6]), ([3], [2, 3, 4, 6]), ([2], [2, 4, 6]), ([0, 0], [2, 4, 6]), ([1, 3, 4], [1, 2, 3, 4, 6])],
    ids=str,
)
def test_stopped_by_the_flag_it_ends_as_if_never_stopped(
    run: Run, module: Any, stops: list[int], saves: list[int], saved: list[int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole, _ = run(tmp_path / "whole")
    assert saved == [2, 4, 6]
    saved.clear()
    for stop in stops:
        with pytest.raises(Interrupted, match="signal SIGTERM"):
            asked(run, module, stop, monkeypatch, tmp_path / "stopped")
        torch.randn(7)  # whatever else the process draws
    resumed, progress = run(tmp_path / "stopped")
    assert progress.begun_at == [stops[-1]], "not one step is lost"
    assert same(whole, resumed)
    assert records(tmp_path / "stopped") == records(tmp_path / "whole")
    assert saved == saves, "each state once, also where the cadence has just saved it"


@both_loops
def test_with_one_step_left_to_save_nothing_is_thrown_away(
    run: Run, module: Any, saved: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the last step there is nothing to stop: the stage finishes."""
    whole, _ = run(tmp_path / "whole")
    last = asked(run, module, STEPS, monkeypatch, tmp_path / "last")
    assert same(whole, last)
    assert records(tmp_path / "last") == records(tmp_path / "whole")


@pytest.mark.parametrize("alternate", [False, True])
def test_with_a_critic_too(alternate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = run_vae(tmp_path / "whole", critic=True, alternate=alternate)
    for step in (3, 5):
        with pytest.raises(Interrupted):
            asked(run_vae, vae_loop, step, monkeypatch, tmp_path / "stopped", critic=True, alternate=alternate)
    resumed, _ = run_vae(tmp_path / "stopped", critic=True, alternate=alternate)
    assert same(whole, resumed)
    assert records(tmp_path / "stopped") == records(tmp_path / "whole")


def samples(folder: Path) -> dict[int, str]:
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert all(line.keys() == {"step", "keys"} for line in lines)
    return {line["step"]: line["keys"] for line in lines}


def test_every_logged_step_names_what_it_saw(tmp_path: Path) -> None:
    run_vae(tmp_path, critic=True, alternate=True, cadence=test_loops.Cadence(2, 3))
    both = {
        step: [[f"{2 * step - 2}/{i}" for i in range(2)], [f"{2 * step - 1}/{i}" for i in range(2)]] for step in (3, 6)
    }
    expected = {1: [["0/0", "0/1"]], **both}  # the critic joins at the third update
    assert samples(tmp_path) == {step: fingerprint(turns, 12) for step, turns in expected.items()}


def test_a_transformer_names_the_rows_it_drew(tmp_path: Path) -> None:
    run_dit(tmp_path)
    for step, digest in samples(tmp_path).items():
        rows = torch.randint(5, (2,), generator=torch_generator(0, "dit", step - 1))
        assert digest == fingerprint(rows.tolist(), 12)
    assert len(set(samples(tmp_path).values())) > 1
    assert list(samples(tmp_path)) == list(range(1, STEPS + 1))


def test_kept_weights_are_there_when_a_stop_comes_behind_them(tmp_path: Path) -> None:
    stop = Stop()
    with pytest.raises(Interrupted):
        dit_training.train(tmp_path, keep=(2, 5), progress=AskAt(stop, 5), stop=stop)
    assert [path.name for path in sorted((tmp_path / "weights").iterdir())] == [
        "step_0000002.safetensors",
        "step_0000005.safetensors",
    ]
    assert CADENCE.checkpoint_every == 2, "5 is none of its steps"
