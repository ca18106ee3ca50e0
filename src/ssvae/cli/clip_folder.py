"""Clips for a verb: shards in the bench's own format, or a plain folder of video files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ssvae.core.identity import file_sha256
from ssvae.data.shards import VIDEO_EXTENSIONS, Sample, ShardIndex, index_shards
from ssvae.data.tarscan import Member


def open_clips(path: str) -> ShardIndex:
    """Index what lies at ``path``: tars (see data/shards.py), else a video file or the video files of a folder.

    Raises ValueError when there is no clip.
    """
    files = _plain_files(Path(path).expanduser())
    index = _index_files(files) if files else index_shards(path)
    if not index.keys("video"):
        raise ValueError(f"data {path!r} holds images but no clip: give a folder with clips")
    return index


def _plain_files(place: Path) -> list[Path]:
    if place.is_file():
        return [place] if _is_video(place) else []
    if not place.is_dir() or any(place.glob("*.tar")):
        return []
    return sorted(file for file in place.iterdir() if file.is_file() and _is_video(file))


def _is_video(file: Path) -> bool:
    return file.suffix.lower().removeprefix(".") in VIDEO_EXTENSIONS


def _index_files(files: list[Path]) -> ShardIndex:
    """A file is a sample whose bytes begin at 0."""
    samples = [Sample(file.name, "video", file, Member(file.name, 0, file.stat().st_size), None, {}) for file in files]
    digest = hashlib.sha256("".join(f"{file.name}\0{file_sha256(file)}\0" for file in files).encode())
    return ShardIndex(tuple(samples), (), digest.hexdigest())
