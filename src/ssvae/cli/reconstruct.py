"""Put a video file of any length and size, or one image, through a VAE and back.

--out gets reconstruction.mp4 (H.264 at the source's frame rate, upright; .png for an image), on request
side_by_side (original | reconstruction | error map) and error_map, and reconstruct.json: PSNR and SSIM of the clip
and of each frame, measured on the decoder's output before H.264, and how it was done. All of it appears when all went
well, or nothing does. Frames stream through the VAE; the result does not depend on --chunk, and memory does not grow
with the clip. VAEs of others (wan21, ltx, a folder in diffusers' format ...) cannot stream: they take a long clip in
independent windows of --window frames, an image VAE frame by frame. What the VAE cannot take is filled up by repeating
the last frame, row and column, and cut off again. A file that is damaged is refused, with the number of frames before
the damage; --frames uses only those.
"""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor

    from ssvae.core.progress import Progress
    from ssvae.data.video_stream import Clip
    from ssvae.data.video_writer import FrameWriter
    from ssvae.metrics.recon_stream import ClipQuality
    from ssvae.models.roundtrip import Padding
    from ssvae.models.tiling import TileGrid
    from ssvae.models.vae import VideoVAE
    from ssvae.models.zoo import PublishedVAE

HELP = "reconstruct a video file of any length and size, or an image"
RECORD = "reconstruct.json"
PICTURES = ("reconstruction", "side_by_side", "error_map")
CHUNK = 8
DTYPES = ("float32", "bfloat16", "float16", "float64")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clip", metavar="CLIP", type=Path, help="video or image file; its content says which")
    parser.add_argument(
        "--vae",
        metavar="NAME_OR_PATH",
        required=True,
        help="folder of a VAE or its stage, official .ckpt, ssvae48; of others: wan21, wan22, cogvideox, hunyuan, ltx, "
        "flux, or a folder in diffusers' format",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="new folder, or that of an older call")
    parser.add_argument(
        "--size",
        metavar=("H", "W"),
        type=int,
        nargs=2,
        help="resize to cover these pixels and crop the centre (default: keep the source's size)",
    )
    parser.add_argument("--frames", metavar="N", type=int, help="only the first N frames (default: all)")
    parser.add_argument(
        "--chunk",
        metavar="FRAMES",
        type=int,
        default=CHUNK,
        help="frames at a time: less memory, same result (default %(default)s)",
    )
    parser.add_argument(
        "--window",
        metavar="FRAMES",
        type=int,
        help="VAEs of others, which cannot stream: frames that are computed apart from the rest (default: all, at most "
        "49)",
    )
    parser.add_argument(
        "--tile",
        metavar=("H", "W"),
        type=int,
        nargs=2,
        help="compute large frames in tiles of these pixels with blended seams: less memory, an approximation, since "
        "attention and convolutions see one tile alone",
    )
    parser.add_argument(
        "--overlap",
        metavar="PIXELS",
        type=int,
        help="least overlap of tiles (default: a quarter of their shorter side)",
    )
    parser.add_argument("--side-by-side", action="store_true", help="also write original | reconstruction | error map")
    parser.add_argument("--error-map", action="store_true", help="also write the error map alone")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    parser.add_argument(
        "--dtype", choices=DTYPES, default=DTYPES[0], help="of weights and activations (default %(default)s)"
    )


@dataclass(frozen=True, slots=True)
class Job:
    """One call, checked: what goes through which VAE, and how. size: (H, W) that is compared and written. window:
    frames that a published VAE computes at once, None where frames stream."""

    clip: Clip
    vae: VideoVAE | PublishedVAE
    size: tuple[int, int]
    padding: Padding
    chunk: int
    window: int | None
    tiles: TileGrid | None
    park: torch.device | None
    pictures: tuple[str, ...]

    def files(self) -> list[str]:
        """Names of the pictures that are written."""
        return [f"{name}.{'png' if self.clip.kind == 'image' else 'mp4'}" for name in self.pictures]


def run(args: argparse.Namespace) -> int:
    """Raises ValueError, before the VAE computes and before anything is written, for whatever does not work."""
    out = _check(args)
    from ssvae.cli.reconstruct_record import describe, record
    from ssvae.core.files import write_json
    from ssvae.core.folders import whole_folder
    from ssvae.models.load import open_vae
    from ssvae.sweep.console import RichProgress, make_console

    device, dtype = _place(args)
    # Not load_vae, which warns where latents cannot be normalised: here nothing normalises them.
    vae = open_vae(args.vae, device=device, dtype=dtype).vae
    console = make_console()
    with RichProgress(console) as progress:
        job = _plan(args, vae, _look_through(args, progress))
        with whole_folder(out) as folder:
            quality = reconstruct_clip(job, folder, progress)
            found = record(args, job, quality)
            write_json(folder / RECORD, found)
    for line in (*describe(found), f"written: {out}: {', '.join([*job.files(), RECORD])}"):
        console.print(line, markup=False, soft_wrap=True)
    return 0


def reconstruct_clip(job: Job, folder: Path, progress: Progress) -> ClipQuality:
    """Write the pictures of ``job`` to ``folder``; returned are the numbers of the decoder's output."""
    from ssvae.data.panels import error_frames, side_by_side, to_frames
    from ssvae.metrics.recon_stream import ClipQuality

    quality = ClipQuality()
    progress.start("reconstruct", job.clip.frames)
    with ExitStack() as stack:
        writers = {name: stack.enter_context(_writer(job, folder, name)) for name in job.pictures}
        for video, recon in _pairs(job):
            quality.update(recon, video)
            shown = {"reconstruction": to_frames(recon)}
            if len(writers) > 1:
                shown["error_map"] = error_frames(recon, video)
                shown["side_by_side"] = side_by_side([to_frames(video), *shown.values()])
            for name, writer in writers.items():
                writer.write(shown[name])
            progress.advance(quality.frames)
    return quality


def _pairs(job: Job) -> Iterator[tuple[Tensor, Tensor]]:
    """(video, reconstruction) of the frames in order."""
    from ssvae.models import roundtrip
    from ssvae.models.windows import reconstruct_windows
    from ssvae.models.zoo import PublishedVAE

    pieces = job.clip.pieces(job.chunk, job.size)
    if isinstance(job.vae, PublishedVAE):
        assert job.window is not None
        return reconstruct_windows(job.vae, pieces, job.window)
    return roundtrip.reconstruct(job.vae, pieces, tiles=job.tiles, park=job.park)


def _writer(job: Job, folder: Path, name: str) -> FrameWriter:
    from ssvae.data.video_writer import PngWriter, VideoWriter

    path = folder / job.files()[job.pictures.index(name)]
    if job.clip.fps is None:
        return PngWriter(path)
    height, width = job.size
    panels = 3 if name == "side_by_side" else 1
    return VideoWriter(path, fps=job.clip.fps, height=height, width=panels * width, pixel_aspect=job.clip.pixel_aspect)


def _check(args: argparse.Namespace) -> Path:
    """The folder to write to; ValueError for options that no clip and no VAE could make right."""
    if not args.clip.is_file():
        raise ValueError(f"{args.clip}: " + ("is no file" if args.clip.exists() else "no such file"))
    for name, least in (("frames", 1), ("chunk", 1), ("window", 1), ("overlap", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} {value}: must be at least {least}")
    for name in ("size", "tile"):
        sides = getattr(args, name)
        if sides is not None and min(sides) < 1:
            raise ValueError(f"--{name} {sides[0]} {sides[1]}: both must be at least 1 pixel")
    if args.overlap is not None and args.tile is None:
        raise ValueError(f"--overlap {args.overlap}: only tiles overlap; give --tile too")
    return _check_out(args.out)


def _check_out(out: Path) -> Path:
    """Only an older result is replaced; anything else in the way is somebody's work."""
    out = out.expanduser().resolve()
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file; give a folder")
    ours = {RECORD, *(f"{name}.{suffix}" for name in PICTURES for suffix in ("mp4", "png"))}
    others = sorted(path.name for path in out.iterdir() if path.name not in ours) if out.exists() else []
    if others:
        raise ValueError(f"--out {out}: holds other things ({', '.join(others[:3])}); give a new or an empty folder")
    above = next(parent for parent in out.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"--out {out}: {above} is no folder that can be written to")
    return out


def _place(args: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    import torch

    name = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        # An AssertionError for a device that torch was not built for; its texts go over many lines.
        raise ValueError(f"--device {name}: cannot be used here ({str(error).splitlines()[0]})") from error
    dtype = getattr(torch, args.dtype)
    assert isinstance(dtype, torch.dtype)
    return device, dtype


def _look_through(args: argparse.Namespace, progress: Progress) -> Clip:
    from ssvae.data.pixels import ClipError
    from ssvae.data.video_stream import open_clip

    progress.start("look through the file", 1)
    try:
        # How many frames there are is what this finds out.
        return open_clip(args.clip, limit=args.frames, progress=lambda seen: progress.advance(0, f"{seen} frames"))
    except ClipError as error:
        raise ValueError(f"{args.clip}: {error}") from error


def _plan(args: argparse.Namespace, vae: VideoVAE | PublishedVAE, clip: Clip) -> Job:
    import torch

    from ssvae.cli.reconstruct_window import window_of
    from ssvae.models.roundtrip import Padding
    from ssvae.models.tiling import TileGrid

    height, width = args.size if args.size is not None else (clip.height, clip.width)
    window = window_of(args, vae, clip)
    # Windows before the last one are full.
    last = clip.frames if window is None else (clip.frames - 1) % window + 1
    padding = Padding.of(vae, last, height, width)
    tiles = None
    if args.tile is not None:
        ratio = vae.spatial_ratio
        overlap = args.overlap if args.overlap is not None else min(args.tile) // 4 // ratio * ratio
        filled = (height + padding.below, width + padding.right)
        tiles = TileGrid.plan(filled, (args.tile[0], args.tile[1]), overlap, ratio)
    wanted = {"reconstruction": True, "side_by_side": args.side_by_side, "error_map": args.error_map}
    on_device = next(vae.parameters()).device.type != "cpu"
    return Job(
        clip=clip,
        vae=vae,
        size=(height, width),
        padding=padding,
        chunk=args.chunk,
        window=window,
        tiles=tiles,
        # Between their turns the frames that tiles keep need not fill the accelerator's memory.
        park=torch.device("cpu") if tiles is not None and on_device else None,
        pictures=tuple(name for name in PICTURES if wanted[name]),
    )
