"""LPIPS on random weights against the formula written out, and the checks on weight files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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


@pytest.fixture(scope="module")
def alex(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LPIPS]:
    """The file of a random AlexNet in torchvision's layout, and its model with published heads."""
    torch.manual_seed(1)
    model, path = LPIPS("alex"), tmp_path_factory.mktemp("lpips") / "alexnet.pth"
    trunk = {name: 2 * value.clone() for name, value in model.trunk.named_parameters()}
    torch.save({**trunk, "classifier.1.weight": torch.zeros(2)}, path)
    return path, load_lpips(path, net="alex")


def patches(x: np.ndarray, side: int, stride: int) -> np.ndarray:
    """(K,H,W) -> (K,side,side,h,w): every window that fits."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))[:, ::stride, ::stride]
    return windows.transpose(0, 3, 4, 1, 2)


def alex_maps(weights: dict[str, np.ndarray], image: np.ndarray) -> list[np.ndarray]:
    """AlexNet by windows and sums in float64: (layer, stride, padding, pooled before)."""
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    x, maps = (image - shift[:, None, None]) / scale[:, None, None], []
    for layer, stride, padding, pooled in ((0, 4, 2, 0), (3, 1, 2, 1), (6, 1, 1, 1), (8, 1, 1, 0), (10, 1, 1, 0)):
        if pooled:
            x = patches(x, 3, 2).max((1, 2))
        kernel, bias = weights[f"features.{layer}.weight"], weights[f"features.{layer}.bias"]
        windows = patches(np.pad(x, ((0, 0), (padding, padding), (padding, padding))), kernel.shape[-1], stride)
        x = np.maximum(np.einsum("okab,kabhw->ohw", kernel, windows, optimize=True) + bias[:, None, None], 0)
        maps.append(x)
    return maps


def test_alex_equals_sums_over_windows(alex: tuple[Path, LPIPS]) -> None:
    path, model = alex
    weights = {name: value.double().numpy() for name, value in torch.load(path, weights_only=True).items()}
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.rand(1, 3, 2, 39, 48, generator=generator) * 2 - 1 for _ in range(2))
    distance = model(a, b)
    assert distance.shape == (1, 1, 2, 1, 1) and bool((distance > 1e-4).all())
    for t in range(2):
        maps = [alex_maps(weights, clip[0, :, t].double().numpy()) for clip in (a, b)]
        expected = 0.0
        for x, y, head in zip(*maps, model.heads, strict=True):
            x, y = (z / np.maximum(np.sqrt((z**2).sum(0)), 1e-10) for z in (x, y))
            expected += float(((x - y) ** 2 * head.double().numpy()[:, None, None]).sum(0).mean())
        assert distance[0, 0, t].item() == pytest.approx(expected, rel=1e-4)


def test_variants_have_their_own_heads_and_stamps(files: tuple[Path, Path, LPIPS], alex: tuple[Path, LPIPS]) -> None:
    vgg = load_lpips(files[0])
    assert [len(head) for head in alex[1].heads] == [64, 192, 384, 256, 256]
    assert all(bool((head >= 0).all()) and bool((head > 0).any()) for head in alex[1].heads)
    stamps = {vgg.stamp, load_lpips(files[0], files[1]).stamp, alex[1].stamp, files[2].stamp}
    assert len(stamps) == 4 and files[2].stamp == "random"
    with pytest.raises(ValueError, match=r"alexnet\.pth does not match"):
        load_lpips(alex[0])
    with pytest.raises(ValueError, match="AlexNet weights: no file"):
        load_lpips(alex[0].parent / "absent.pth", net="alex")
    with pytest.raises(ValueError, match="vgg, alex"):
        LPIPS("squeeze")  # type: ignore[arg-type]


def test_alex_takes_its_smallest_frame_and_refuses_a_smaller_one(alex: tuple[Path, LPIPS]) -> None:
    smallest = torch.rand(1, 3, 1, 31, 31, generator=torch.Generator().manual_seed(3))
    assert alex[1](smallest, -smallest).item() > 0
    with pytest.raises(ValueError, match="at least 31x31"):
        alex[1](smallest[..., 1:], smallest[..., 1:])


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
