"""Small data sets and hand-made video files that the data tests share."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from ssvae.data.shards import ShardIndex, index_shards
from ssvae.data.synthetic_shards import write_synthetic


@pytest.fixture(scope="session")
def synthetic_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 clips in three shards, 6 images; never written to."""
    return write_synthetic(tmp_path_factory.mktemp("data") / "synthetic", clips=14, images=6, shard_size=5, seed=3)


@pytest.fixture(scope="session")
def synthetic_index(synthetic_folder: Path) -> ShardIndex:
    return index_shards(synthetic_folder)


@pytest.fixture(scope="session")
def image_index(synthetic_folder: Path) -> ShardIndex:
    return index_shards(synthetic_folder / "images")


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., Path]:
    """pack(name, {member name: bytes}, meta lines) writes a tar and its meta file to ``tmp_path``."""

    def write(name: str, members: dict[str, bytes], meta: Sequence[str] | None = ()) -> Path:
        path = tmp_path / f"{name}.tar"
        with tarfile.open(path, "w") as tar:
            for member, payload in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(payload)
                tar.addfile(info, io.BytesIO(payload))
        if meta is not None:
            (tmp_path / f"{name}.meta.jsonl").write_text("".join(f"{line}\n" for line in meta))
        return path

    return write


def shifted(packets: list[av.Packet], frames: int, rate: int) -> list[av.Packet]:
    """The packets, ``frames`` frames later."""
    for packet in packets:
        assert packet.pts is not None and packet.dts is not None and packet.time_base is not None
        ticks = round(Fraction(frames, rate) / packet.time_base)
        packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
    return packets


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """make_clip(frames (T,H,W,3), ...) -> the bytes of an H.264 file."""

    folder = tmp_path_factory.mktemp("clips")

    def encode(
        frames: NDArray[np.uint8],
        *,
        pts: Sequence[int] | None = None,
        rate: int = 8,
        kind: str = "mp4",
        options: dict[str, str] | None = None,
        rotation: int = 0,
        begin: int = 0,
    ) -> bytes:
        # A real file: the index can only be moved to the front of something that can be opened again.
        path = folder / "clip"
        settings = {"threads": "1", "crf": "10", **(options or {})}
        muxer = {"movflags": "faststart"} if kind == "mp4 faststart" else {}
        if begin < 0:
            # Frames before time 0 become an edit list that hides them.
            muxer = {"use_editlist": "1", "avoid_negative_ts": "disabled"}
        with av.open(str(path), "w", format=kind.split()[0], options=muxer) as container:
            stream = container.add_stream("libx264", rate=rate, options=settings)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = Fraction(1, rate)
            if rotation:
                stream.set_display_rotation(rotation)
            for index, picture in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts = index if pts is None else pts[index]
                frame.time_base = Fraction(1, rate)
                container.mux(shifted(stream.encode(frame), begin, rate))
            container.mux(shifted(stream.encode(None), begin, rate))
        return path.read_bytes()

    return encode
