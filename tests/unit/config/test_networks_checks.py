"""Networks of metrics: the rules agree with what the networks themselves refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssvae.config.networks_checks import SMALLEST, network_problems
from ssvae.config.resolution import ResolutionConfig
from ssvae.config.score import NetworksConfig
from ssvae.models.lpips import LPIPS

NOTHING = NetworksConfig(None, None, None, None, fdd_frames=1, fvd_frames=16)


def clip(size: int = 32, frames: int = 17) -> ResolutionConfig:
    return ResolutionConfig(name="c", height=size, width=size, frames=frames, fps=8.0)


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_the_smallest_frames_are_those_that_the_trunks_take(net: str, tmp_path: Path) -> None:
    weights = tmp_path / "w.pth"
    weights.touch()
    name = f"lpips_{net}"
    networks = replace(NOTHING, **{name: str(weights)})
    for size in (SMALLEST[name] - 1, SMALLEST[name]):
        found = list(network_problems("networks", networks, clip(size), measured=True))
        frame = torch.zeros(1, 3, 1, size, size)
        try:
            LPIPS(net)(frame, frame)  # type: ignore[arg-type]
            fits = True
        except (ValueError, RuntimeError):
            fits = False
        assert fits == (not found), size
    assert not list(network_problems("networks", networks, clip(8), measured=False)), "the probe has no LPIPS"


def test_files_that_are_not_there_and_clips_that_are_too_short(tmp_path: Path) -> None:
    networks = replace(NOTHING, i3d="nowhere.pt", dinov2="facebook/dinov2-base", fdd_frames=10)
    found = {problem.key: problem for problem in network_problems("n", networks, clip(frames=9), measured=True)}
    assert found.keys() == {"n.i3d", "n.fvd_frames", "n.fdd_frames"}
    assert "9 frames" in found["n.fvd_frames"].remedy
    whole = replace(networks, i3d=None, fdd_frames=None)
    assert not list(network_problems("n", whole, clip(frames=9), measured=True))
