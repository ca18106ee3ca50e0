"""Published VAEs by folder and by name: found, read and fingerprinted, and what is refused. No network."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from published_vaes import FACTS, clip, make, save
from ssvae import load_vae
from ssvae.models.load import NAMES, load_video_vae, open_vae
from ssvae.models.statistics import PUBLISHED
from ssvae.models.zoo import PublishedVAE
from ssvae.models.zoo_source import INDEX_FILE, PRESETS, WEIGHTS_FILE, describe, is_published, published_fingerprint


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, offline."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def put_into_cache(cache: Path, name: str) -> Path:
    """As the hub's own client lays out a snapshot; returned is its vae/."""
    repository = cache / f"models--{PRESETS[name].repository.replace('/', '--')}"
    commit = "0123456789" * 4
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return save(name, repository / "snapshots" / commit / "vae")


@pytest.mark.parametrize("name", FACTS)
@torch.no_grad()
def test_a_folder_gives_what_was_saved(name: str, tmp_path: Path) -> None:
    folder = save(name, tmp_path / "pipeline" / "vae")
    channels, space, time, (frames, _) = FACTS[name]
    told = describe(folder)
    assert (told.channels, told.spatial_ratio, told.temporal_ratio) == (channels, space, time)
    vae = load_vae(folder.parent)  # the pipeline's folder
    assert isinstance(vae, PublishedVAE) and vae.layout == told and not vae.training
    for key, value in make(name).state_dict().items():
        assert torch.equal(value, vae.network.state_dict()[key]), key
    video = clip(frames, size=2 * space)
    assert vae.encode(video).mean.shape == (1, channels, *vae.latent_grid(frames, 2 * space, 2 * space))


def test_what_travels_with_the_weights(tmp_path: Path) -> None:
    opened = open_vae(save("ltx", tmp_path / "mine"))
    assert opened.statistics is not None and opened.mask_token is None and not opened.unmeasured
    assert (opened.statistics.protocol, opened.statistics.data) == (PUBLISHED, "AutoencoderKLLTXVideo of mine")
    opened.statistics.check(opened.vae)
    assert opened.statistics.mean == tuple(torch.linspace(-1, 1, 6).tolist())


def test_shards(tmp_path: Path) -> None:
    whole = save("hunyuan", tmp_path / "whole")
    sharded = save("hunyuan", tmp_path / "sharded", max_shard_size="60KB")
    assert (sharded / INDEX_FILE).is_file() and len(list(sharded.glob("*.safetensors"))) > 2
    one, other = load_vae(whole).state_dict(), load_vae(sharded).state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    first = sorted(sharded.glob("*.safetensors"))[0]
    before = published_fingerprint(sharded)
    content = load_file(first)
    save_file({key: value + 1 for key, value in content.items()}, first, metadata={"format": "pt"})
    assert published_fingerprint(sharded) != before
    first.unlink()
    with pytest.raises(ValueError, match=f"{first.name} is missing"):
        load_vae(sharded)
    index = json.loads((sharded / INDEX_FILE).read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../whole/diffusion_pytorch_model.safetensors")
    (sharded / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"is no \.safetensors file of this folder"):
        load_vae(sharded)


def test_weights_in_half_precision_become_float32(tmp_path: Path) -> None:
    folder = tmp_path / "half"
    make("ltx").to(torch.bfloat16).save_pretrained(folder)
    vae = load_vae(folder)
    assert {parameter.dtype for parameter in vae.parameters()} == {torch.float32}
    assert load_vae(folder, dtype=torch.bfloat16).latent_mean.dtype == torch.float32


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    folder = save("wan21", tmp_path / "a")
    found = published_fingerprint(folder)
    assert len(found) == 32
    copied = Path(shutil.copytree(folder, tmp_path / "b"))
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "_diffusers_version": "9.9", "_name_or_path": "x"}))
    assert published_fingerprint(copied) == published_fingerprint(str(copied)) == found
    (copied / "config.json").write_text(json.dumps({**config, "latents_mean": [0.0] * 4}))
    assert published_fingerprint(copied) != found
    shutil.copy(folder / "config.json", copied)
    tensors = load_file(copied / WEIGHTS_FILE)
    tensors["quant_conv.bias"][0] += 1e-3
    save_file(tensors, copied / WEIGHTS_FILE)
    assert published_fingerprint(copied) != found


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("wan21", (16, 8, 4)),
        ("wan22", (48, 16, 4)),
        ("cogvideox", (16, 8, 4)),
        ("hunyuan", (16, 8, 4)),
        ("ltx", (128, 32, 8)),
        ("flux", (16, 8, 1)),
    ],
)
def test_names_without_network_and_cache(name: str, facts: tuple[int, int, int], cache: Path) -> None:
    assert is_published(name)
    told = describe(name)
    assert (told.channels, told.spatial_ratio, told.temporal_ratio) == facts
    assert told.repository == PRESETS[name].repository
    for ask in (load_vae, published_fingerprint):
        with pytest.raises(ValueError, match="is not in the local cache and could not be downloaded") as error:
            ask(name)
        said = str(error.value)
        assert said.startswith(f"{name}: vae/ of huggingface.co/{told.repository} ")
        assert "hf download" in said and "\n" not in said


def test_a_name_is_found_in_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put_into_cache(cache, "flux")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("downloads what is there"))
    assert describe("flux").channels == 4, "what counts is the config in the cache"
    opened = open_vae("flux")
    assert opened.vae.channels == 4 and opened.statistics is not None
    assert opened.statistics.data == f"AutoencoderKL of {PRESETS['flux'].repository}"
    assert published_fingerprint("flux") == published_fingerprint(folder)
    assert isinstance(opened.vae, PublishedVAE)
    assert opened.vae.layout.repository == PRESETS["flux"].repository


def test_half_a_snapshot_is_not_taken_for_a_whole_one(cache: Path) -> None:
    (put_into_cache(cache, "flux") / WEIGHTS_FILE).unlink()
    assert describe("flux").channels == 4
    with pytest.raises(ValueError, match="not in the local cache and could not be downloaded"):
        load_vae("flux")


@pytest.mark.parametrize("failure", [LocalEntryNotFoundError("offline"), ConnectionError("no route")])
def test_what_is_asked_of_the_hub(failure: Exception, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fails(repository: str, **options: Any) -> str:
        asked.append((repository, options["allow_patterns"]))
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(ValueError, match=type(failure).__name__):
        load_vae("wan22")
    assert asked[0][0] == "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
    assert all(pattern.startswith("vae/") and not pattern.endswith((".bin", "*")) for pattern in asked[0][1])


def test_a_path_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save("ltx", Path("flux"))
    assert describe("flux").repository is None
    assert open_vae("flux").vae.channels == 6


def test_other_sources(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"format": "ssvae-vae/1"}))
    for source in (tmp_path, "ssvae48", "nowhere", tmp_path / "config.json"):
        assert not is_published(source)
        with pytest.raises(ValueError, match="neither a folder in diffusers' format nor one of wan21"):
            describe(source)
    with pytest.raises(ValueError, match="one of ssvae48, wan21, wan22, cogvideox, hunyuan, ltx, flux"):
        load_vae("nowhere")
    assert NAMES[0] == "ssvae48"


def test_what_needs_our_architecture_refuses_them(tmp_path: Path) -> None:
    for source in ("wan21", save("flux", tmp_path / "theirs")):
        with pytest.raises(ValueError, match="neither trained nor exported"):
            load_video_vae(source)


class Bomb:
    """Unpickling it would leave a file behind."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("exploded",)


def test_pickles_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save("flux", tmp_path / "theirs")
    (folder / WEIGHTS_FILE).unlink()
    torch.save(Bomb(), folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.bin is a pickle, which may run code"):
        load_vae(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"is a pickle|config\.json is missing"):
        load_vae(folder)
    assert not Path("exploded").exists()


def damage(folder: Path, case: str) -> None:
    config, weights = folder / "config.json", folder / WEIGHTS_FILE
    content, tensors = json.loads(config.read_text()), load_file(weights)
    match case:
        case "no config":
            config.unlink()
        case "no json":
            config.write_text("{")
        case "no object":
            config.write_text("[]")
        case "class":
            config.write_text(json.dumps({**content, "_class_name": "AutoencoderOobleck"}))
        case "quantised":
            config.write_text(json.dumps({**content, "quantization_config": {"quant_method": "bitsandbytes"}}))
        case "other name":
            weights.rename(folder / "diffusion_pytorch_model.fp16.safetensors")
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-1000])
        case "empty":
            weights.write_bytes(b"")
        case "missing":
            save_file({key: value for key, value in tensors.items() if key != "encoder.conv_in.bias"}, weights)
        case "unknown":
            save_file({**tensors, "extra": torch.zeros(1)}, weights)
        case "shape":
            save_file({**tensors, "encoder.conv_in.bias": torch.zeros(9)}, weights)
        case "constants":
            config.write_text(json.dumps({**content, "latents_mean": [0.0]}))
        case "groups":
            config.write_text(json.dumps({**content, "dim_mult": [1, 1, 1, 2]}))


DAMAGE = {
    "no config": r"config\.json is missing",
    "no json": "no valid JSON",
    "no object": "must hold an object",
    "class": "'AutoencoderOobleck' is no VAE that can be used here; supported: ",
    "quantised": "quantised weights",
    "other name": r"is missing; diffusion_pytorch_model\.fp16\.safetensors is there under another name",
    "cut": "do not make an AutoencoderKLWan",
    "empty": "do not make an AutoencoderKLWan",
    "missing": r"1 tensors missing \['encoder\.conv_in\.bias'\]",
    "unknown": r"1 unknown \['extra'\]",
    "shape": r"encoder\.conv_in\.bias",
    "constants": "1 latents_mean and 4 latents_std",
    "groups": "do not make|not the weights",
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_folders(case: str, tmp_path: Path) -> None:
    folder = save("wan21", tmp_path / "theirs")
    damage(folder, case)
    with pytest.raises(ValueError, match=DAMAGE[case]) as error:
        load_vae(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    folder = save("flux", tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert describe(folder).channels == 4
    with pytest.raises(ValueError, match=r"the package diffusers is missing: pip install -e '\.\[vaes\]'"):
        load_vae(folder)
