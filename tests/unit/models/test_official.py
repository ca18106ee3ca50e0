"""Official checkpoint files: every number arrives, whatever does not fit is refused by name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssvae.models.official import load_official, official_state_dict, save_official
from ssvae.models.official_layout import official_names
from ssvae.models.vae import VideoVAE

GOLDEN = Path(__file__).parents[2] / "golden" / "official_tiny.ckpt"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """The golden file as PyTorch itself reads it."""
    return torch.load(GOLDEN, weights_only=True)


@pytest.fixture
def state(whole: dict[str, Any]) -> State:
    return dict(whole["state_dict"])


def saved(tmp_path: Path, state: object) -> Path:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state, "epoch": 3}, path)
    return path


def assert_holds(vae: VideoVAE, state: State) -> None:
    """``vae`` has the tensors of ``state``, found by their official names."""
    names = official_names(vae)
    for name, value in vae.named_parameters():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[names[name]].float()), name


def test_every_number_arrives(state: State, caplog: pytest.LogCaptureFixture) -> None:
    loaded = load_official(GOLDEN)
    assert_holds(loaded.vae, state)
    assert loaded.mask_token is not None and torch.equal(loaded.mask_token, state["mask_token"])
    assert not loaded.vae.training
    assert torch.equal(loaded.vae.latent_std, torch.ones(48)) and not loaded.vae.latent_mean.any()
    assert not any(value.is_meta for value in loaded.vae.state_dict().values())
    assert not caplog.records  # plain tensors and numbers: nothing to tell


def test_bare_state_dict(tmp_path: Path, state: State) -> None:
    torch.save({name: value for name, value in state.items() if not name.startswith("loss.")}, tmp_path / "bare.pt")
    assert_holds(load_official(tmp_path / "bare.pt").vae, state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_floating_type_becomes_float32(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in state.items()}
    assert_holds(load_official(saved(tmp_path, state)).vae, state)


def test_shared_storage_views_and_parameters(tmp_path: Path, state: State) -> None:
    """As a trainer may leave them: pieces of one flat buffer, transposed views, parameters."""
    bent = dict(state)
    some = [name for name in state if name.startswith("decoder.up.1.")]
    flat = torch.cat([state[name].flatten() for name in some])
    for name, piece in zip(some, flat.split([state[name].numel() for name in some]), strict=True):
        bent[name] = piece.view(state[name].shape)
    name = "encoder.mid.1.to_qkv.weight"
    bent[name] = state[name].transpose(0, 1).contiguous().transpose(0, 1)
    bent["encoder.conv_in.conv.bias"] = torch.nn.Parameter(state["encoder.conv_in.conv.bias"])
    assert_holds(load_official(saved(tmp_path, bent)).vae, state)


def test_what_is_not_the_autoencoder_is_ignored(tmp_path: Path, state: State) -> None:
    state["loss.perceptual_loss.anything.weight"] = torch.zeros(2)
    assert_holds(load_official(saved(tmp_path, state)).vae, state)
    state = {name: value for name, value in state.items() if not name.startswith("loss.") and name != "mask_token"}
    assert load_official(saved(tmp_path, state)).mask_token is None


@pytest.mark.parametrize(
    "name",
    [
        "encoder.conv_in.conv.bias",
        "encoder.down.0.block.1.conv1.conv.weight",
        "encoder.down.2.downsample.conv.conv.bias",
        "encoder.mid.1.to_qkv.bias",
        "encoder.out.2.conv.weight",
        "decoder.conv_in.conv.weight",
        "decoder.up.3.upsample.conv.conv.weight",
        "decoder.out.0.gamma",
    ],
)
def test_missing_and_misshapen_tensors_are_named(tmp_path: Path, state: State, name: str) -> None:
    value = state.pop(name)
    with pytest.raises(ValueError, match="tensors 1 missing") as error:
        load_official(saved(tmp_path, state))
    assert f"({name})" in str(error.value) and "\n" not in str(error.value)
    state[name] = torch.zeros(*(size + 1 for size in value.shape))
    with pytest.raises(ValueError) as error:
        load_official(saved(tmp_path, state))
    bad = tuple(size + 1 for size in value.shape)
    assert str(error.value).endswith(f"{name} has shape {bad}, expected {tuple(value.shape)}")


@pytest.mark.parametrize(
    "name",
    ["encoder.down.0.attn.0.norm.gamma", "decoder.extra", "model_ema.decay", "module.encoder.conv_in", "two\nlines"],
)
def test_unknown_tensors_are_named(tmp_path: Path, state: State, name: str) -> None:
    state[name] = torch.zeros(1)
    with pytest.raises(ValueError, match="tensors 1 unknown") as error:
        load_official(saved(tmp_path, state))
    assert name.replace("\n", "\\n") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"decoder.out.2.conv.bias": [1.0, 2.0, 3.0]}, r"decoder\.out\.2\.conv\.bias in state_dict is no tensor"),
        ({"loss.logvar": None}, r"loss\.logvar in state_dict is no tensor"),
        ({7: torch.zeros(1)}, "a name that is no text: 7"),
        ({"decoder.out.2.conv.bias": torch.zeros(3, dtype=torch.int64)}, r"holds torch\.int64, not floating-point"),
        ({"mask_token": torch.zeros(1, 47, 1, 1, 1)}, r"mask_token has shape \(1, 47, 1, 1, 1\), expected \(1, 48"),
        ({"decoder.out.2.conv.bias": torch.zeros(1).expand(3)}, "does not fit into 1 stored numbers"),
    ],
)
def test_entries_that_are_no_weights(tmp_path: Path, state: State, change: dict[Any, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word) as error:
        load_official(saved(tmp_path, {**state, **change}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"state_dict": 3}, [1, 2], {"epoch": 1}, torch.zeros(3)])
def test_files_without_a_model(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"no checkpoint of a model|is no tensor"):
        load_official(tmp_path / "other.pt")


def test_another_model(tmp_path: Path) -> None:
    torch.save({"state_dict": torch.nn.Linear(2, 2).state_dict()}, tmp_path / "linear.ckpt")
    with pytest.raises(ValueError, match="no SSVAE autoencoder"):
        load_official(tmp_path / "linear.ckpt")


def test_an_architecture_that_does_not_work(tmp_path: Path) -> None:
    """Eight times the width at once: the shortcut of a downsampling in space has four positions to spread."""
    small = VideoVAE(
        channels=2,
        base_channels=2,
        multipliers=(1, 8),
        encoder_blocks=1,
        decoder_blocks=1,
        temporal_levels=(True,),
    )
    state = official_state_dict(small)
    for end in ("weight", "bias"):
        value = state.pop(f"encoder.down.0.downsample.conv.conv.{end}")
        state[f"encoder.down.0.downsample.conv.{end}"] = value[:, :, 0].clone() if value.ndim == 5 else value
    with pytest.raises(ValueError, match=r"model\.ckpt: vae\.multipliers"):
        load_official(saved(tmp_path, state))


def test_writing_gives_the_official_file_back(tmp_path: Path, state: State) -> None:
    loaded = load_official(GOLDEN)
    save_official(tmp_path / "again.ckpt", loaded.vae, loaded.mask_token)
    again = torch.load(tmp_path / "again.ckpt", weights_only=True)["state_dict"]
    expected = {name: value for name, value in state.items() if not name.startswith("loss.")}
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    save_official(tmp_path / "bare.ckpt", loaded.vae)
    assert torch.load(tmp_path / "bare.ckpt", weights_only=True)["state_dict"].keys() == expected.keys() - {
        "mask_token"
    }
    with pytest.raises(ValueError, match="mask_token must be"):
        official_state_dict(loaded.vae, torch.zeros(1, 3, 1, 1, 1))


def test_writing_from_half_precision_gives_float32() -> None:
    vae = load_official(GOLDEN).vae.to(torch.bfloat16)
    assert {value.dtype for value in official_state_dict(vae).values()} == {torch.float32}


def test_foreign_names_are_told_once(tmp_path: Path, state: State, caplog: pytest.LogCaptureFixture) -> None:
    content = {"state_dict": state, "hyper_parameters": [Path("a"), Path("b"), logging.getLogger("x")]}
    torch.save(content, tmp_path / "model.ckpt")
    assert_holds(load_official(tmp_path / "model.ckpt").vae, state)
    (record,) = caplog.records
    told = record.getMessage()
    assert told.count("pathlib.PosixPath") == 1 and "logging.getLogger" in told and "2 foreign names" in told
