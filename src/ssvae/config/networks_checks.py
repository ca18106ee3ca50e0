"""Rules of the networks that metrics need: are their files there, and are the clips large and long enough for them?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ssvae.config.problem import Problem
from ssvae.config.resolution import ResolutionConfig
from ssvae.config.score import NetworksConfig

SMALLEST = {"lpips_vgg": 16, "lpips_alex": 31}
"""Pixels a side that each trunk can halve often enough."""


def network_problems(
    key: str, networks: NetworksConfig, clip: ResolutionConfig, *, measured: bool
) -> Iterator[Problem]:
    """Problems of a stage's networks. measured: is it the stage that uses LPIPS?"""
    for name in ("lpips_vgg", "lpips_alex", "i3d"):
        path = getattr(networks, name)
        if path is not None and not Path(path).expanduser().is_file():
            yield Problem(f"{key}.{name}", path, "no such file; give the weight file, or null")
    for name, least in SMALLEST.items():
        path = getattr(networks, name)
        if measured and path is not None and min(clip.height, clip.width) < least:
            remedy = f"needs {least} pixels a side, the clips have {clip.height}x{clip.width}; null leaves it out"
            yield Problem(f"{key}.{name}", path, remedy)
    for name, given, frames in (
        ("fvd_frames", networks.i3d, networks.fvd_frames),
        ("fdd_frames", networks.dinov2, networks.fdd_frames),
    ):
        if given is not None and frames is not None and frames > clip.frames:
            remedy = f"the clips have {clip.frames} frames: lower it, or take longer clips"
            yield Problem(f"{key}.{name}", str(frames), remedy)
