"""The DiT's loop beside what both loops share: paths, kept weights, and draws that ranks could share."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dit_training import SETTINGS, train
from ssvae.core.ranks import Ranks
from ssvae.flow.path import RectifiedFlow
from ssvae.models.dit import VideoDiT
from ssvae.models.dit_weights import load_dit_weights, read_base_grid
from ssvae.train.dit_loop import _share, kept_weights


class Stop(Exception):
    """A kill: raised from the progress, at the end of an update."""


class StopAt:
    def __init__(self, step: int) -> None:
        self.step = step

    def start(self, what: str, total: int, done: int = 0) -> None:
        return None

    def advance(self, done: int, note: str = "") -> None:
        if done == self.step:
            raise Stop


def same(a: VideoDiT, b: VideoDiT) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def files(folder: Path) -> dict[str, str]:
    found = sorted((folder / "weights").iterdir())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.parametrize("decay", [0.5, None], ids=["averaged", "plain"])
def test_kept_weights_are_those_of_a_training_that_ended_there(decay: float | None, tmp_path: Path) -> None:
    train(tmp_path / "whole", ema_decay=decay)
    assert list(files(tmp_path / "whole")) == ["step_0000002.safetensors", "step_0000005.safetensors"]
    for step in (2, 5):
        # decay_steps fixes the schedule, which otherwise follows the length.
        dit, ema = train(tmp_path / f"to_{step}", steps=step, decay_steps=SETTINGS.steps, ema_decay=decay, keep=())
        expected = dit.state_dict() if ema is None else ema.shadow
        found = load_file(kept_weights(tmp_path / "whole", step))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert not (tmp_path / f"to_{step}" / "weights").exists()
        load_dit_weights(dit, kept_weights(tmp_path / "whole", step))
        assert read_base_grid(kept_weights(tmp_path / "whole", step)) == (3, 4, 4)


@pytest.mark.parametrize("stops", [[1], [2], [3], [5], [6], [1, 2, 3, 4, 5, 6]], ids=str)
def test_stopped_anywhere_the_same_files_are_kept(stops: list[int], tmp_path: Path) -> None:
    """The stop comes before the update's weights are written, as a kill in between would."""
    whole, _ = train(tmp_path / "whole")
    for stop in stops:
        with pytest.raises(Stop):
            train(tmp_path / "stopped", progress=StopAt(stop))
    resumed, _ = train(tmp_path / "stopped")
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert same(whole, resumed)


def test_keeping_changes_no_weight_and_the_last_update_may_be_kept_too(tmp_path: Path) -> None:
    without, _ = train(tmp_path / "without", keep=())
    kept, ema = train(tmp_path / "with", keep=(1, 2, 3, 6, 99))
    assert same(without, kept)
    assert list(files(tmp_path / "with")) == [f"step_000000{step}.safetensors" for step in (1, 2, 3, 6)]
    assert ema is not None
    last = load_file(kept_weights(tmp_path / "with", 6))
    assert all(torch.equal(last[name], value) for name, value in ema.shadow.items())


def test_the_path_reaches_the_updates(tmp_path: Path) -> None:
    v, _ = train(tmp_path / "v")
    flow, _ = train(tmp_path / "flow", flow=RectifiedFlow(distribution="logit_normal", shift=2.0))
    assert not torch.equal(v.head.weight, flow.head.weight)


def test_a_batch_is_shared_in_equal_parts_or_refused() -> None:
    parts = [_share(12, Ranks(rank, 3)) for rank in range(3)]
    assert [list(range(12))[part] for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    with pytest.raises(ValueError, match=r"train\.batch = 4: is not divisible by the 3 ranks"):
        _share(4, Ranks(0, 3))
