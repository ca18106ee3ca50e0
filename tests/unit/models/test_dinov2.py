"""The wrapper against a direct call of transformers' network on tiny random weights, and the checks on weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from ssvae.models.dinov2 import DinoV2Features, load_dinov2


def tiny(**changes: Any) -> Dinov2Config:
    values: dict[str, Any] = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}
    return Dinov2Config(**{**values, "patch_size": 7, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("dinov2")
    Dinov2Model(tiny()).save_pretrained(place)
    return place


def frames(n: int = 2, size: tuple[int, int] = (28, 28), seed: int = 0) -> Tensor:
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_patches_and_cls_are_the_networks_own_tokens(folder: Path) -> None:
    features = load_dinov2(folder, size=28)
    direct = Dinov2Model.from_pretrained(folder).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = frames()
    pixels = ((images + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        tokens = direct(pixels).last_hidden_state
        patches, cls = features(images), features.cls(images)
    assert (features.dim, features.grid) == (12, 4) and patches.shape == (2, 12, 4, 4)
    torch.testing.assert_close(cls, tokens[:, 0])
    for row in range(4):
        for column in range(4):
            torch.testing.assert_close(patches[:, :, row, column], tokens[:, 1 + 4 * row + column])


def test_a_patch_of_the_frame_is_at_its_place_in_the_map() -> None:
    torch.manual_seed(1)
    network = Dinov2Model(tiny(layerscale_value=0.0))  # no mixing: every token sees its own patch only
    with torch.no_grad():
        network.embeddings.position_embeddings.zero_()
    features = DinoV2Features(network, size=28)
    plain, marked = torch.zeros(1, 3, 28, 28), torch.zeros(1, 3, 28, 28)
    marked[:, :, 7:14, 21:28] = torch.rand(3, 7, 7)  # row 1, column 3
    changed = (features(plain) != features(marked)).any(1)[0]
    assert changed.nonzero().tolist() == [[1, 3]]
    assert torch.equal(features.cls(plain), features.cls(marked))


def as_image(prepared: Tensor) -> Tensor:
    """Undo the colour normalisation: (N,3,S,S) in [0,1]."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return prepared * std.view(3, 1, 1) + mean.view(3, 1, 1)


@pytest.mark.parametrize("size", [(61, 90), (16, 12)])
def test_bicubic_resizes_as_pillow_does(folder: Path, size: tuple[int, int]) -> None:
    # Middle values: Pillow cuts overshoot off between its two passes, where nothing may be cut for a comparison.
    pixels = np.random.default_rng(0).integers(80, 176, (*size, 3), dtype=np.uint8)
    by_pillow = np.asarray(Image.fromarray(pixels).resize((28, 28), Image.Resampling.BICUBIC))
    frame = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    ours = as_image(load_dinov2(folder, size=28).prepared(frame))[0].permute(1, 2, 0) * 255
    assert float((ours - torch.from_numpy(by_pillow.astype(np.float32))).abs().max()) < 1.5  # Pillow rounds twice


def test_bilinear_is_plain_interpolation(folder: Path) -> None:
    frame = frames(size=(61, 90))
    ours = as_image(load_dinov2(folder, size=28, resize="bilinear").prepared(frame))
    expected = F.interpolate((frame + 1) / 2, size=(28, 28), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    smooth = as_image(load_dinov2(folder, size=28).prepared(frame))
    assert float((ours - smooth).abs().max()) > 0.1


def test_overshoot_at_edges_is_cut_off(folder: Path) -> None:
    edge = torch.ones(1, 3, 16, 16)
    edge[..., :8] = -1.0
    plain = F.interpolate((edge + 1) / 2, size=(28, 28), mode="bicubic", antialias=True)
    image = as_image(load_dinov2(folder, size=28).prepared(edge))
    assert float(plain.max()) > 1.02
    torch.testing.assert_close(image, plain.clamp(0, 1), rtol=0, atol=1e-6)


def test_frames_are_clamped_and_half_precision_is_widened(folder: Path) -> None:
    features = load_dinov2(folder, size=28)
    frame = frames()
    assert torch.equal(features.prepared(3 * frame), features.prepared((3 * frame).clamp(-1, 1)))
    prepared = features.prepared(frame.bfloat16())
    assert prepared.dtype == torch.float32 and torch.equal(prepared, features.prepared(frame.bfloat16().float()))


def test_the_network_is_frozen_and_lets_gradient_through_to_frames(folder: Path) -> None:
    features = load_dinov2(folder, size=28)
    frame = frames().requires_grad_()
    features(frame).square().sum().backward()
    assert frame.grad is not None and bool(frame.grad.any())
    assert not any(parameter.requires_grad for parameter in features.parameters())
    assert not any(module.training for module in features.modules())


def test_bad_sizes_and_frames_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="take 28 or 35"):
        load_dinov2(folder, size=30)
    with pytest.raises(ValueError, match="bicubic, bilinear"):
        load_dinov2(folder, size=28, resize="nearest")  # type: ignore[arg-type]
    features = load_dinov2(folder, size=28)
    with pytest.raises(ValueError, match=r"\(N,3,H,W\)"):
        features(torch.zeros(1, 3, 1, 28, 28))
    with pytest.raises(ValueError, match="3 colours"):
        features(torch.zeros(1, 4, 28, 28))


def test_the_cache_is_tried_before_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = Dinov2Model.from_pretrained, []

    def from_pretrained(name: str, **options: Any) -> Any:
        asked.append((options["local_files_only"], options["use_safetensors"]))
        if options["local_files_only"]:
            raise OSError("not in the cache")
        return real(folder, **options)

    monkeypatch.setattr(Dinov2Model, "from_pretrained", from_pretrained)
    assert load_dinov2("owner/model", size=28).dim == 12
    assert asked == [(True, True), (False, True)]


def test_a_name_that_cannot_be_had_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_pretrained(name: str, **options: Any) -> Any:
        raise OSError("we could not connect\nand more")

    monkeypatch.setattr(Dinov2Model, "from_pretrained", from_pretrained)
    with pytest.raises(ValueError, match=r"hf download owner/model.*could not connect$"):
        load_dinov2("owner/model")
    with pytest.raises(ValueError, match="facebook/dinov2-large"):
        load_dinov2(None)


def test_a_missing_package_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install -e '.\[dino\]'"):
        load_dinov2(folder)


def test_folders_without_these_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder at"):
        load_dinov2(tmp_path / "absent")
    with pytest.raises(ValueError, match="holds no"):
        load_dinov2(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())

    def written(name: str, weights: dict[str, Tensor] | None, **changes: Any) -> Path:
        place = tmp_path / name
        place.mkdir()
        (place / "config.json").write_text(json.dumps({**config, **changes}))
        if weights is not None:
            save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
        return place

    pickled = written("pickled", None)
    torch.save(tensors, pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match="holds no"):
        load_dinov2(pickled, size=28)
    partial = {name: value for name, value in tensors.items() if name != "layernorm.weight"}
    with pytest.raises(ValueError, match=r"1 tensors missing \['layernorm\.weight'\]"):
        load_dinov2(written("partial", partial), size=28)
    registers = {**tensors, "embeddings.register_tokens": torch.zeros(1, 4, 12)}
    with pytest.raises(ValueError, match=r"1 unknown \['embeddings\.register_tokens'\]"):
        load_dinov2(written("registers", registers), size=28)
    unmasked = {name: value for name, value in tensors.items() if name != "embeddings.mask_token"}
    assert load_dinov2(written("unmasked", unmasked), size=28).dim == 12
    with pytest.raises(ValueError, match="damaged or of other shapes"):
        load_dinov2(written("shapes", tensors, hidden_size=24), size=28)
    damaged = written("damaged", None)
    (damaged / "model.safetensors").write_bytes(b"junk" * 8)
    with pytest.raises(ValueError, match="damaged"):
        load_dinov2(damaged, size=28)
