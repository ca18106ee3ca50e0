"""LPIPS on random weights against the formula written out, and the checks on weight files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ssvae.models.lpips import LPIPS, load_lpips


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, LPIPS]:
    """Weight files of a random model in the published layouts, and that model."""
    torch.manual_seed(0)
    model, folder = LPIPS(), tmp_path_factory.mktemp("lpips")
    trunk = {name: value.clone() for name, value in model.trunk.named_parameters()}
    torch.save({**trunk, "classifier.0.weight": torch.zeros(2)}, folder / "vgg16.pth")
    heads = {f"lin{i}.model.1.weight": head.detach().view(1, -1, 1, 1).clone() for i, head in enumerate(model.heads)}
    save_file(heads, folder / "heads.safetensors")
    return folder / "vgg16.pth", folder / "heads.safetensors", model


def by_the_formula(model: LPIPS, one: Tensor, other: Tensor) -> Tensor:
    """Images (N,3,H,W) -> (N,): convolutions by torchvision's numbering, differences position by position."""
    weights = dict(model.trunk.named_parameters())
    pools, taps = {4, 9, 16, 23}, {3, 8, 15, 22, 29}
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    x, y = (one - shift) / scale, (other - shift) / scale
    total, stage = torch.zeros(len(one)), 0
    for index in range(30):
        if f"features.{index}.weight" in weights:
            w, b = weights[f"features.{index}.weight"], weights[f"features.{index}.bias"]
            x, y = F.conv2d(x, w, b, padding=1), F.conv2d(y, w, b, padding=1)
        elif index in pools:
            x, y = F.max_pool2d(x, 2), F.max_pool2d(y, 2)
        else:
            x, y = x.clamp_min(0), y.clamp_min(0)
        if index in taps:
            squared = (x / x.norm(dim=1, keepdim=True) - y / y.norm(dim=1, keepdim=True)) ** 2
            total = total + (squared * model.heads[stage].view(-1, 1, 1)).sum(1).mean((1, 2))
            stage += 1
    return total


def test_equals_the_formula_frame_by_frame(files: tuple[Path, Path, LPIPS]) -> None:
    model = load_lpips(files[0], files[1])
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.rand(2, 3, 2, 32, 32, generator=generator) * 2 - 1 for _ in range(2))
    distance = model(a, b)
    assert distance.shape == (2, 1, 2, 1, 1)
    expected = torch.stack([by_the_formula(model, a[:, :, t], b[:, :, t]) for t in range(2)], dim=1)
    torch.testing.assert_close(distance.flatten(1), expected, atol=0, rtol=1e-4)


def test_identical_frames_have_distance_and_gradient_zero(files: tuple[Path, Path, LPIPS]) -> None:
    video = torch.zeros(1, 3, 1, 16, 16)
    reconstruction = video.clone().requires_grad_()
    distance = files[2](reconstruction, video)
    distance.sum().backward()
    assert distance.item() == 0
    assert reconstruction.grad is not None
    assert torch.equal(reconstruction.grad, torch.zeros_like(video))
    assert all(parameter.grad is None for parameter in files[2].parameters())


def test_heads_come_from_torchmetrics_when_no_path_is_given(files: tuple[Path, Path, LPIPS]) -> None:
    model = load_lpips(files[0])
    assert all(bool((head >= 0).all()) and bool((head > 0).any()) for head in model.heads)
    assert not torch.equal(model.heads[0], files[2].heads[0])


def test_bad_files_are_named(tmp_path: Path, files: tuple[Path, Path, LPIPS]) -> None:
    with pytest.raises(ValueError, match=r"VGG16 weights: no file at .*absent\.pth"):
        load_lpips(tmp_path / "absent.pth")
    with pytest.raises(ValueError, match=r"lin0\.model\.1\.weight"):
        load_lpips(files[0], files[0])
    with pytest.raises(ValueError, match=r"features\.0\.bias"):
        load_lpips(files[1], files[1])
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(ValueError, match="no PyTorch file"):
        load_lpips(tmp_path / "junk.pth")


def test_bad_clips_are_refused(files: tuple[Path, Path, LPIPS]) -> None:
    video = torch.zeros(1, 3, 1, 16, 16)
    with pytest.raises(ValueError, match="equal shape"):
        files[2](video, video[..., :8])
    with pytest.raises(ValueError, match="at least 16x16"):
        files[2](video[..., :8], video[..., :8])
