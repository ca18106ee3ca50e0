"""A saved VAE comes back whole; a damaged folder is refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssvae.models.statistics import LatentStatistics
from ssvae.models.vae import VideoVAE
from ssvae.models.weights import folder_statistics, load_vae_folder, save_vae


@pytest.fixture
def vae() -> VideoVAE:
    torch.manual_seed(0)
    model = VideoVAE(
        channels=5,
        base_channels=4,
        multipliers=(1, 2),
        encoder_blocks=1,
        decoder_blocks=2,
        temporal_levels=(True,),
        decoder_mid_attention=(False,),
    )
    model.set_latent_statistics(torch.randn(5), torch.rand(5) + 0.5)
    return model.eval()


def test_round_trip(tmp_path: Path, vae: VideoVAE) -> None:
    save_vae(tmp_path / "a" / "b", vae)
    loaded = load_vae_folder(tmp_path / "a" / "b")
    video = torch.rand(1, 3, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded.encode(video).mean, vae.encode(video).mean)
        latent = torch.randn(1, 5, 2, 4, 4)
        assert torch.equal(loaded.decode(latent), vae.decode(latent))
        assert torch.equal(loaded.normalize(latent), vae.normalize(latent))
    assert loaded.config == vae.config
    assert not loaded.training
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["config.json", "model.safetensors"]


def test_half_precision_load_keeps_statistics_exact(tmp_path: Path, vae: VideoVAE) -> None:
    save_vae(tmp_path, vae)
    loaded = load_vae_folder(tmp_path, dtype=torch.bfloat16)
    assert loaded.encoder.conv_in.weight.dtype == torch.bfloat16
    assert torch.equal(loaded.latent_mean, vae.latent_mean)


def test_saving_again_replaces(tmp_path: Path, vae: VideoVAE) -> None:
    save_vae(tmp_path, vae)
    with torch.no_grad():
        vae.decoder.conv_out.bias.fill_(7.0)
    save_vae(tmp_path, vae)
    assert torch.equal(load_vae_folder(tmp_path).decoder.conv_out.bias, torch.full((3,), 7.0))


def test_missing_file_is_named(tmp_path: Path, vae: VideoVAE) -> None:
    save_vae(tmp_path, vae)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        load_vae_folder(tmp_path)


def test_unknown_key_is_named(tmp_path: Path, vae: VideoVAE) -> None:
    save_vae(tmp_path, vae)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "double_z": True}))
    with pytest.raises(ValueError, match="double_z"):
        load_vae_folder(tmp_path)


def test_tensor_that_does_not_match_is_named(tmp_path: Path, vae: VideoVAE) -> None:
    save_vae(tmp_path, vae)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "decoder.conv_out.bias": torch.zeros(4)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"decoder\.conv_out\.bias has shape \(4,\)"):
        load_vae_folder(tmp_path)
    del tensors["decoder.conv_out.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"decoder\.conv_out\.bias"):
        load_vae_folder(tmp_path)


def test_statistics_that_are_no_statistics_are_refused(tmp_path: Path, vae: VideoVAE) -> None:
    save_vae(tmp_path, vae)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "latent_std": torch.zeros(5)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="latent std must be positive"):
        load_vae_folder(tmp_path)


def test_the_record_travels_with_the_weights(tmp_path: Path, vae: VideoVAE) -> None:
    record = LatentStatistics.unrecorded(vae)
    save_vae(tmp_path, vae, record)
    assert folder_statistics(tmp_path) == record
    assert torch.equal(load_vae_folder(tmp_path).latent_mean, vae.latent_mean)
    save_vae(tmp_path, vae)
    assert folder_statistics(tmp_path) is None and not (tmp_path / "latent_statistics.json").exists()


def test_a_record_of_other_numbers_is_refused(tmp_path: Path, vae: VideoVAE) -> None:
    other = LatentStatistics(mean=(0.0,) * 5, std=(1.0,) * 5, protocol="p", data="d")
    with pytest.raises(ValueError, match="recorded latent mean"):
        save_vae(tmp_path / "new", vae, other)
    assert not (tmp_path / "new").exists()
    save_vae(tmp_path, vae)
    (tmp_path / "latent_statistics.json").write_text(json.dumps(other.to_json()))
    with pytest.raises(ValueError, match=rf"{tmp_path}: the recorded latent mean is not what the weights hold"):
        load_vae_folder(tmp_path)


def test_damaged_weights_are_refused(tmp_path: Path, vae: VideoVAE) -> None:
    save_vae(tmp_path, vae)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_vae_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"channels": "5"}, "channels must be int"),
        ({"channels": True}, "channels must be int"),
        ({"multipliers": 2}, "multipliers must be a list of int"),
        ({"temporal_levels": [1]}, "temporal_levels must be a list of bool"),
        ({"channels": 0}, "vae.channels must be at least 1"),
    ],
)
def test_ill_typed_entries_are_named(tmp_path: Path, vae: VideoVAE, change: dict[str, object], word: str) -> None:
    save_vae(tmp_path, vae)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=word) as error:
        load_vae_folder(tmp_path)
    assert "config.json" in str(error.value)
