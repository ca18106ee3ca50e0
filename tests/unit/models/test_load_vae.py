"""``load_vae``: every accepted name or path, and one clear line for everything else."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import LocalEntryNotFoundError

from ssvae import load_vae
from ssvae.models.load import RELEASES, open_vae
from ssvae.models.statistics import RELEASED_48, LatentStatistics, read_statistics
from ssvae.models.vae import VideoVAE
from ssvae.models.weights import save_vae

GOLDEN = Path(__file__).parents[2] / "golden" / "official_tiny.ckpt"


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """The narrow golden model under the released file's name: 48 channels as well."""
    return Path(shutil.copy(GOLDEN, tmp_path / RELEASES["ssvae48"].file))


def small() -> VideoVAE:
    torch.manual_seed(0)
    model = VideoVAE(
        channels=3,
        base_channels=4,
        multipliers=(1, 2),
        encoder_blocks=1,
        decoder_blocks=1,
        temporal_levels=(True,),
    )
    model.set_latent_statistics(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.5, 2.5]))
    return model


def test_folder_and_stage_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vae = small()
    record = LatentStatistics.unrecorded(vae)
    save_vae(tmp_path / "stage" / "vae", vae, record)
    for place in (tmp_path / "stage", str(tmp_path / "stage" / "vae")):
        opened = open_vae(place)
        assert opened.statistics == record and opened.mask_token is None and not opened.unmeasured
        assert torch.equal(load_vae(place).latent_std, vae.latent_std)
    assert not caplog.records


def test_official_file_without_known_statistics(caplog: pytest.LogCaptureFixture) -> None:
    opened = open_vae(GOLDEN)
    assert opened.statistics is None and opened.mask_token is not None and opened.unmeasured
    with caplog.at_level(logging.WARNING):
        vae = load_vae(GOLDEN, dtype=torch.bfloat16)
    assert "python -m ssvae export" in caplog.text and "--data" in caplog.text
    assert vae.encoder.conv_in.weight.dtype == torch.bfloat16
    assert torch.equal(vae.latent_std, torch.ones(48)) and vae.latent_std.dtype == torch.float32
    assert not vae.training


def test_released_file_gets_the_published_statistics(released: Path, caplog: pytest.LogCaptureFixture) -> None:
    preset = read_statistics(RELEASED_48)
    opened = open_vae(released)
    assert opened.statistics == preset
    vae = load_vae(released)
    assert vae.latent_mean.tolist() == list(preset.mean) and vae.latent_std.tolist() == list(preset.std)
    assert not caplog.records


def test_other_channels_under_the_released_name(tmp_path: Path) -> None:
    from ssvae.models.official import save_official

    save_official(tmp_path / RELEASES["ssvae48"].file, small())
    assert open_vae(tmp_path / RELEASES["ssvae48"].file).unmeasured


def test_name_comes_from_the_cache(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda repo, file: asked.append((repo, file)) or str(released)
    )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args: pytest.fail("downloads what is there"))
    assert not open_vae("ssvae48").unmeasured
    assert asked == [("zai-org/SSVAE", "ch48_256p_15w_512p_5w.ckpt")]


def test_name_is_downloaded_once_it_is_not_cached(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args: str(released))
    assert open_vae("ssvae48").vae.channels == 48


@pytest.mark.parametrize("failure", [LocalEntryNotFoundError("offline"), ConnectionError("no route")])
def test_name_without_network(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> str:
        raise failure

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(ValueError, match=r"ch48_256p_15w_512p_5w\.ckpt of huggingface\.co/zai-org/SSVAE") as error:
        load_vae("ssvae48")
    assert "give its path" in str(error.value) and "\n" not in str(error.value)


def test_a_path_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_vae("ssvae48", small())
    assert load_vae("ssvae48").channels == 3


@pytest.mark.parametrize("given", ["nowhere", "ssvae49", "missing.ckpt"])
def test_unknown_names_list_what_is_accepted(given: str) -> None:
    with pytest.raises(ValueError, match=f"{given} is no VAE folder") as error:
        load_vae(given)
    said = str(error.value)
    assert all(word in said for word in ("config.json", "stage folder", ".ckpt", "ssvae48")) and "\n" not in said


def test_half_a_folder_and_a_lone_file(tmp_path: Path) -> None:
    save_vae(tmp_path, small())
    with pytest.raises(ValueError, match="give the folder that holds this file"):
        load_vae(tmp_path / "model.safetensors")
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        load_vae(tmp_path)
