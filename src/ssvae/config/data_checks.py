"""Rules of the data sets: what types cannot say, without opening a tar."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ssvae.config.data import DataConfig, DataKind
from ssvae.config.problem import Problem
from ssvae.config.resolution import ResolutionConfig


def share(key: str, value: float, upper: float = 1.0) -> Iterator[Problem]:
    """The problem of a share outside [0, upper]."""
    if not 0.0 <= value <= upper:
        yield Problem(key, str(value), f"must lie in [0, {upper:g}]")


def data_problems(key: str, data: DataConfig) -> Iterator[Problem]:
    yield from share(f"{key}.reject_share", data.reject_share)
    if not 0 < data.heldout_share < 1:
        yield Problem(
            f"{key}.heldout_share", str(data.heldout_share), "must lie in (0, 1): metrics need held-out clips"
        )
    if data.kind is DataKind.synthetic:
        if data.path is not None:
            remedy = "data=synthetic renders its own clips and reads no folder: add data=webdataset"
            yield Problem(f"{key}.path", data.path, remedy)
        if data.synthetic is None:
            yield Problem(f"{key}.synthetic", "null", "data=synthetic needs it: see conf/data/synthetic.yaml")
        elif data.synthetic.size % 2:
            yield Problem(f"{key}.synthetic.size", str(data.synthetic.size), "must be even, for H.264")
    elif data.path is None:
        yield Problem(f"{key}.path", "null", "data=webdataset needs the folder of your tars: data.path=FOLDER")
    else:
        yield from _folders(f"{key}.path", data.path)
    if data.image_path is not None:
        unusable = list(_folders(f"{key}.image_path", data.image_path))
        yield from unusable
        if not unusable and data.image_weight == 0:
            remedy = f"no step would read it: {key}.image_weight is 0"
            yield Problem(f"{key}.image_path", data.image_path, remedy)
    if data.image_weight + data.video_weight <= 0:
        yield Problem(f"{key}.video_weight", str(data.video_weight), "and image_weight must not both be 0")


def length_problems(key: str, data: DataConfig, clip: ResolutionConfig) -> Iterator[Problem]:
    """Are the synthetic clips long enough? A window may reach half a frame past the last one."""
    made = data.synthetic
    if data.kind is not DataKind.synthetic or made is None or clip.fps <= 0 or made.fps <= 0:
        return
    if (clip.frames - 1) / clip.fps > (made.frames - 0.5) / made.fps:
        wanted = f"{clip.frames} frames at {clip.fps:g} fps do not fit into {made.frames} at {made.fps:g} fps"
        yield Problem(f"{key}.synthetic.frames", str(made.frames), f"{wanted}: raise it, or lower resolution.frames")


def _folders(key: str, path: str) -> Iterator[Problem]:
    """Light look at the folders, without opening a tar."""
    for part in (piece.strip() for piece in path.split(",")):
        folder = Path(part).expanduser()
        if "://" in part or part.startswith("pipe:"):
            yield Problem(key, part, "must be a local folder of tars")
        elif "{" in part or "}" in part:
            continue  # brace expansion: judged when the index is made
        elif not folder.exists():
            yield Problem(key, part, "no such folder; give one with NNNNNN.tar beside NNNNNN.meta.jsonl")
        elif folder.is_dir() and not any(folder.glob("*.tar")):
            yield Problem(key, part, "the folder holds no .tar; give one with NNNNNN.tar beside NNNNNN.meta.jsonl")
