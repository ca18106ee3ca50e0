"""What is written can be read again: exact rate, all frames, colours, sizes; and nothing waits in memory."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssvae.data.synthetic import render
from ssvae.data.video_stream import open_clip
from ssvae.data.video_writer import PngWriter, VideoWriter, even


def frames(count: int, height: int = 64, width: int = 64) -> Tensor:
    pictures = render(1, frames=count, size=64).frames[:, :height, :width]
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), Fraction(25), Fraction(9, 4), Fraction(2997, 100)])
def test_rate_and_frames_are_exact(tmp_path: Path, fps: Fraction) -> None:
    path = tmp_path / "clip.tmp"
    with VideoWriter(path, fps=fps, height=64, width=64, pixel_aspect=Fraction(4, 3)) as writer:
        for piece in frames(31).split([1, 10, 20]):
            writer.write(piece)
    assert writer.frames == 31
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", fps)
    clip = open_clip(path)
    assert (clip.fps, clip.constant, clip.frames, clip.pixel_aspect) == (fps, True, 31, Fraction(4, 3))
    assert clip.notes == ()


def test_pictures_come_back_and_pieces_do_not_matter(tmp_path: Path) -> None:
    source = frames(24)
    files = []
    for plan in ([24], [1] * 24):
        path = tmp_path / f"{len(plan)}.mp4"
        with VideoWriter(path, fps=Fraction(8), height=64, width=64) as writer:
            for piece in source.split(plan):
                writer.write(piece)
        (video,) = open_clip(path).pieces(24)
        off = (video[0].transpose(0, 1) + 1) * 127.5 - source
        assert off.mean(1).abs().mean() < 3  # brightness; colour has a quarter of the pixels
        files.append(video)
    # x264 with rate control is not deterministic on small pictures: about one of 255 levels.
    assert (files[0] - files[1]).abs().mean() < 0.02


def test_colours_are_tagged_and_kept(tmp_path: Path) -> None:
    colour = torch.tensor([200, 30, 60], dtype=torch.uint8).view(1, 3, 1, 1).expand(5, 3, 32, 32)
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, fps=Fraction(8), height=32, width=32) as writer:
        writer.write(colour)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (1, 1, 1, 1)
    # The same file read with the other usual matrix is off by far more than rounding.
    right, wrong = (
        frame.to_ndarray(format="rgb24", src_colorspace=space)[16, 16].astype(int) for space in ("ITU709", "ITU601")
    )
    assert np.abs(right - [200, 30, 60]).max() <= 3 < np.abs(wrong - [200, 30, 60]).max()


@pytest.mark.parametrize(("height", "width"), [(33, 48), (32, 47), (15, 17), (1, 1)])
def test_odd_sides_get_one_more_row_or_column(tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "clip.mp4"
    source = frames(3, height, width)
    with VideoWriter(path, fps=Fraction(8), height=height, width=width) as writer:
        writer.write(source)
    clip = open_clip(path)
    assert (clip.height, clip.width) == (even(height), even(width))
    (video,) = clip.pieces(3)
    off = (video[0].transpose(0, 1) + 1) * 127.5
    assert (off[..., :height, :width] - source).abs().mean() < 6
    assert (off[..., height:, :] - off[..., height - 1 : height, :]).abs().sum() == pytest.approx(
        0, abs=6 * off[..., height:, :].numel()
    )


def test_frames_reach_the_file_while_more_are_coming(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    generator = torch.Generator().manual_seed(0)
    with VideoWriter(path, fps=Fraction(25), height=64, width=64) as writer:
        sizes = []
        for _ in range(240):
            writer.write(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=generator))
            sizes.append(path.stat().st_size if path.exists() else 0)
    assert sizes[239] > 1.5 * sizes[140] > 0


def test_an_error_passes_through(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        VideoWriter(tmp_path / "a.mp4", fps=Fraction(8), height=64, width=64) as writer,
    ):
        writer.write(frames(2))
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), VideoWriter(tmp_path / "b.mp4", fps=Fraction(8), height=64, width=64):
        raise ZeroDivisionError


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", fps=Fraction(8), height=64, width=64) as writer:
        with pytest.raises(ValueError, match=r"\(32, 64\) pixels do not fit"):
            writer.write(frames(1, 32))
        writer.write(frames(1))


def test_a_png_is_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "picture.tmp"
    with PngWriter(path) as writer:
        writer.write(frames(1, 33, 47))
    assert Image.open(path).format == "PNG"
    assert np.array_equal(np.array(Image.open(path)), frames(1, 33, 47)[0].permute(1, 2, 0).numpy())
    with pytest.raises(ValueError, match="one picture, got 2"):
        PngWriter(path).write(frames(2))
