"""Write the synthetic data set as real H.264 shards in the format that every data set has.

Layout of a folder::

    manifest.json                                    version and parameters
    000000.tar  000000.meta.jsonl  000001.tar ...    clips:  KEY.mp4 KEY.id KEY.txt and one meta line a clip
    images/000000.tar images/000000.meta.jsonl ...   images: KEY.jpg KEY.id KEY.txt and one meta line an image

The folder appears in one rename, so a reader never sees half of it, and two processes may write it at once: each
builds its own, the first rename wins and the other takes what is there.
"""

from __future__ import annotations

import errno
import io
import itertools
import json
import logging
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssvae.data.synthetic import SYNTHETIC_VERSION, render, render_image

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
IMAGES = "images"
KEYFRAME_INTERVAL = 12
# x264's look-ahead (rate control, scene cuts, adaptive B-frames, weighted prediction) gives slightly different files
# from run to run on small pictures; with a constant quantiser and a fixed pattern of frames nothing is left to it.
_X264 = "mbtree=0:rc-lookahead=0:sync-lookahead=0:b-adapt=0:bframes=2:b-pyramid=0:scenecut=0:weightp=0:aq-mode=0"
Progress = Callable[[int, int], None]
_Record = tuple[str, dict[str, bytes], dict[str, Any]]


def encode_mp4(frames: NDArray[np.uint8], fps: float, quantiser: int = 18) -> bytes:
    """H.264 mp4 (yuv420p, a keyframe every 12 frames, two B-frames between) of frames (T,H,W,3) uint8 RGB.

    One encoder thread, a constant quantiser and a fixed frame pattern: equal frames give equal bytes with the same
    libx264.
    Height and width must be even, a limit of yuv420p.
    """
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"H.264 in yuv420p needs an even height and width, got {height}x{width}: use even sizes")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264",
            rate=Fraction(fps).limit_denominator(1001),
            options={
                "qp": str(quantiser),
                "preset": "veryfast",
                "threads": "1",
                "g": str(KEYFRAME_INTERVAL),
                "x264-params": _X264,
            },
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def write_synthetic(
    folder: str | Path,
    *,
    clips: int = 320,
    images: int = 0,
    seed: int = 0,
    size: int = 64,
    frames: int = 24,
    fps: float = 8.0,
    shard_size: int = 80,
    progress: Progress | None = None,
) -> Path:
    """Write ``clips`` clips and ``images`` images to ``folder``, unless the same data set is already there.

    size: side in pixels (even). frames, fps: length and rate of a clip. shard_size: samples a tar.
    progress: called with (samples done, samples in all) after each sample.
    Raises ValueError when ``folder`` holds something else.
    """
    folder = Path(folder).absolute()
    parameters = {
        "kind": "synthetic",
        "version": SYNTHETIC_VERSION,
        "clips": clips,
        "images": images,
        "seed": seed,
        "size": size,
        "frames": frames,
        "fps": float(fps),
        "shard_size": shard_size,
    }
    if clips < 1 or images < 0 or shard_size < 1:
        raise ValueError(f"clips must be >= 1, images >= 0 and shard_size >= 1, got {clips}, {images} and {shard_size}")
    if folder.exists():
        _check_same(folder, parameters)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write_shards(
            building, _clip_records(clips, seed, size, frames, fps), shard_size, _counter(progress, 0, clips + images)
        )
        if images:
            (building / IMAGES).mkdir()
            report = _counter(progress, clips, clips + images)
            _write_shards(building / IMAGES, _image_records(images, seed, size), shard_size, report)
        (building / MANIFEST).write_text(json.dumps(parameters, indent=1) + "\n")
        building.chmod(0o755)
        _publish(building, folder, parameters)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _counter(progress: Progress | None, before: int, total: int) -> Callable[[int], None]:
    def report(done: int) -> None:
        if progress is not None:
            progress(before + done, total)

    return report


def _check_same(folder: Path, parameters: dict[str, Any]) -> None:
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        raise ValueError(
            f"{folder} exists and is not a synthetic data set: remove it or choose another folder"
        ) from None
    if found != parameters:
        different = sorted(name for name in found.keys() | parameters.keys() if found.get(name) != parameters.get(name))
        raise ValueError(
            f"{folder} holds another synthetic data set (different: {', '.join(different)}): "
            "remove it or choose another folder"
        )


def _publish(building: Path, folder: Path, parameters: dict[str, Any]) -> None:
    try:
        building.rename(folder)
    except OSError as error:
        # rename() onto a folder that is not empty: another process was faster with the same data.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        logger.info("another process has written %s meanwhile", folder)
        _check_same(folder, parameters)


def _clip_records(clips: int, seed: int, size: int, frames: int, fps: float) -> Iterator[_Record]:
    for index in range(clips):
        clip = render(index, seed=seed, frames=frames, size=size, fps=fps)
        meta = {
            "duration": round(frames / fps, 6),
            "fps": float(fps),
            "width": size,
            "height": size,
            "caption": clip.caption,
            "label": clip.label,
        }
        files = {"mp4": encode_mp4(clip.frames, fps), "id": str(index).encode(), "txt": clip.caption.encode()}
        yield f"s{seed}-{index:08d}", files, meta


def _image_records(images: int, seed: int, size: int) -> Iterator[_Record]:
    for index in range(images):
        picture, caption = render_image(index, seed=seed, size=size)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=95)
        files = {"jpg": buffer.getvalue(), "id": str(index).encode(), "txt": caption.encode()}
        yield f"s{seed}-i{index:08d}", files, {"width": size, "height": size, "caption": caption}


def _write_shards(folder: Path, records: Iterator[_Record], shard_size: int, report: Callable[[int], None]) -> None:
    done = 0
    while (first := next(records, None)) is not None:
        stem = folder / f"{done // shard_size:06d}"
        lines = []
        with tarfile.open(f"{stem}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, files, meta in itertools.chain([first], itertools.islice(records, shard_size - 1)):
                for extension, payload in files.items():
                    # TarInfo's defaults (owner 0, time 0) keep the bytes a function of the content.
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(payload)
                    tar.addfile(info, io.BytesIO(payload))
                lines.append(json.dumps({"key": key, **meta}) + "\n")
                done += 1
                report(done)
        Path(f"{stem}.meta.jsonl").write_text("".join(lines))
    for path in folder.iterdir():
        _sync(path)


def _sync(path: Path) -> None:
    """Flush to the disk, so that a crash right after the rename cannot leave empty files behind."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
