"""Weights of a DiT: another grid goes on from them, anything else is named where it differs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssvae.core.seeds import torch_generator
from ssvae.models.condition import BlankTexts
from ssvae.models.dit import VideoDiT
from ssvae.models.dit_weights import load_dit_weights, read_base_grid, save_dit_weights
from ssvae.models.ema import EMA


def make(seed: int = 0, **changes: object) -> VideoDiT:
    torch.manual_seed(seed)
    arguments: dict = {"channels": 4, "grid": (3, 4, 4), "width": 24, "depth": 2, "heads": 2} | changes
    model = VideoDiT(**arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.eval()


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    model, other = make(), make(seed=1)
    save_dit_weights(tmp_path / "a" / "dit.safetensors", model)
    load_dit_weights(other, tmp_path / "a" / "dit.safetensors")
    x, t = torch.randn(2, 4, 3, 4, 4, generator=torch_generator(0, "x")), torch.rand(2)
    assert torch.equal(model(x, t), other(x, t))


def test_averages_are_written_in_place_of_the_weights(tmp_path: Path) -> None:
    model = make()
    ema = EMA(model, 0.5)
    with torch.no_grad():
        model.head.bias += 1.0
    save_dit_weights(tmp_path / "ema.safetensors", model, ema.shadow)
    found = load_file(tmp_path / "ema.safetensors")
    assert found.keys() == model.state_dict().keys()
    torch.testing.assert_close(found["head.bias"] + 1.0, model.head.bias.detach())


def test_a_larger_grid_goes_on_from_a_smaller_one(tmp_path: Path) -> None:
    """Positions are stretched: a token in place of a trained one gets the trained coordinate."""
    small = make()
    save_dit_weights(tmp_path / "small.safetensors", small)
    base = read_base_grid(tmp_path / "small.safetensors")
    assert base == (3, 4, 4)
    large = make(seed=1, grid=(3, 8, 8), base_grid=base)
    load_dit_weights(large, tmp_path / "small.safetensors")
    assert torch.equal(large.head.weight, small.head.weight)
    torch.testing.assert_close(large.positions.reshape(3, 4, 4, 24)[:, ::2, ::2], small.positions.reshape(3, 2, 2, 24))
    assert large(torch.randn(1, 4, 3, 8, 8), torch.rand(1)).shape == (1, 4, 3, 8, 8)
    # However often it goes on, what the weights know stays the grid of the first training.
    save_dit_weights(tmp_path / "large.safetensors", large)
    assert read_base_grid(tmp_path / "large.safetensors") == (3, 4, 4)


def test_a_file_without_a_header_loads_and_says_no_grid(tmp_path: Path) -> None:
    save_file(make().state_dict(), tmp_path / "plain.safetensors")
    load_dit_weights(make(seed=1), tmp_path / "plain.safetensors")
    assert read_base_grid(tmp_path / "plain.safetensors") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 36}, "width 24, this model has 36"),
        ({"depth": 3}, "depth 2, this model has 3"),
        ({"heads": 4}, "heads 2, this model has 4"),
        ({"channels": 5}, r"channels x patch\) 16, this model has 20"),
        ({"patch": (3, 2, 2)}, "patch 1x2x2, this model has 3x2x2"),
        ({"patch": (1, 4, 1)}, "patch 1x2x2, this model has 1x4x1"),
        ({"condition": "none"}, "condition caption, this model has none"),
        ({"condition": "class", "classes": 3}, "condition caption, this model has class"),
        ({"condition": "text", "texts": BlankTexts(8, 4)}, "condition caption, this model has text"),
        ({"input_skip": True}, "input_skip false, this model has true"),
        ({"vocabulary": 100}, r"conditioner.tokens.weight has shape \(512, 24\), this model \(100, 24\)"),
    ],
)
def test_what_differs_is_named_and_nothing_is_loaded(changes: dict, message: str, tmp_path: Path) -> None:
    save_dit_weights(tmp_path / "dit.safetensors", make())
    other = make(seed=1, **changes)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_dit_weights(other, tmp_path / "dit.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_widths_of_text_encoders_and_numbers_of_classes_are_named(tmp_path: Path) -> None:
    save_dit_weights(tmp_path / "text.safetensors", make(condition="text", texts=BlankTexts(8, 4)))
    with pytest.raises(ValueError, match="text encoder 8, this model has 16"):
        load_dit_weights(make(condition="text", texts=BlankTexts(16, 4)), tmp_path / "text.safetensors")
    save_dit_weights(tmp_path / "class.safetensors", make(condition="class", classes=3))
    with pytest.raises(ValueError, match="classes 3, this model has 5"):
        load_dit_weights(make(condition="class", classes=5), tmp_path / "class.safetensors")


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no weights of a diffusion transformer at"):
        load_dit_weights(make(), tmp_path / "nowhere.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="damaged"):
        load_dit_weights(make(), tmp_path / "torn.safetensors")
    with pytest.raises(ValueError, match="no safetensors file"):
        read_base_grid(tmp_path / "torn.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "vae.safetensors")
    with pytest.raises(ValueError, match=r"its tensors are \['weight'\]"):
        load_dit_weights(make(), tmp_path / "vae.safetensors")
    bad = make()
    with torch.no_grad():
        bad.head.bias[0] = float("nan")
    save_dit_weights(tmp_path / "bad.safetensors", bad)
    with pytest.raises(ValueError, match=r"head\.bias is not finite"):
        load_dit_weights(make(), tmp_path / "bad.safetensors")
