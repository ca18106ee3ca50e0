"""The loader of TorchScript I3D files: the call that it makes, and the files that it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ssvae.core.identity import file_sha256
from ssvae.models.i3d import load_i3d
from tiny_i3d import DIM, TinyI3D, write_tiny_i3d


class Renamed(nn.Module):
    def forward(self, x: Tensor, scale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        return x.mean(dim=[2, 3, 4])


class Map(nn.Module):
    def forward(self, x: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        return x.mean(dim=[3, 4])


class Large(nn.Module):
    def forward(self, x: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        if x.shape[2] < 1000:
            raise ValueError("clip too short for this network")
        return x.mean(dim=[2, 3, 4])


def test_features_are_those_of_the_networks_own_call(tmp_path: Path) -> None:
    path = write_tiny_i3d(tmp_path / "i3d.pt")
    i3d = load_i3d(path)
    assert i3d.dim == DIM and i3d.sha256 == file_sha256(path)
    videos = torch.randint(0, 256, (2, 3, 9, 20, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        direct = TinyI3D().eval()(videos.float(), rescale=True, resize=True, return_features=True)
    assert direct.std() > 0.01
    torch.testing.assert_close(i3d(videos), direct, rtol=1e-4, atol=1e-6)
    assert not i3d(videos).requires_grad


def test_short_and_grey_clips_are_refused(tmp_path: Path) -> None:
    i3d = load_i3d(write_tiny_i3d(tmp_path / "i3d.pt"))
    for shape, words in (((1, 3, 8, 20, 20), "at least 9 frames"), ((1, 1, 9, 20, 20), "3 colours")):
        with pytest.raises(ValueError, match=words):
            i3d(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"\(B,3,T,H,W\)"):
        i3d(torch.zeros(3, 9, 20, 20))


def test_other_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file at .*absent\.pt.*i3d_torchscript"):
        load_i3d(tmp_path / "absent.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk" * 40)
    with pytest.raises(ValueError, match=r"junk\.pt is no TorchScript file"):
        load_i3d(tmp_path / "junk.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "plain.pt")
    with pytest.raises(ValueError, match=r"plain\.pt is no TorchScript file"):
        load_i3d(tmp_path / "plain.pt")
    for network, words in (
        (Renamed(), r"called with \(x, scale, resize, return_features\), without rescale"),
        (Map(), r"returns \(1, 3, 16\) for one clip"),
        (Large(), "fails on a clip of shape .*clip too short"),
    ):
        torch.jit.script(network).save(str(tmp_path / "other.pt"))
        with pytest.raises(ValueError, match=words):
            load_i3d(tmp_path / "other.pt")
