"""What ``reconstruct`` says about what it did: the content of reconstruct.json, and the lines on the terminal."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ssvae.bench.machine import hardware, versions
from ssvae.core.identity import file_sha256, git_state
from ssvae.core.paths import PROJECT
from ssvae.data.frame_rate import say_rate
from ssvae.data.panels import ERROR_MAP
from ssvae.data.video_writer import QUALITY, even
from ssvae.metrics.recon import SSIM_WINDOW
from ssvae.models.zoo import PublishedVAE

if TYPE_CHECKING:
    from ssvae.cli.reconstruct import Job
    from ssvae.metrics.recon_stream import ClipQuality

MEASURED_ON = "the decoder's output, clamped, before H.264 or PNG, without what was filled up"


def record(args: argparse.Namespace, job: Job, quality: ClipQuality) -> dict[str, Any]:
    """JSON-ready; sizes are [height, width] in pixels, fps is exact as "numerator/denominator" (null for an image)."""
    clip, padding, grid = job.clip, job.padding, job.tiles
    height, width = job.size
    whole, rest = divmod(quality.frames, job.chunk)
    weight = next(job.vae.parameters())
    metrics = quality.compute()
    numbers = {metric.name: metric.value for metric in metrics}
    return {
        "verb": "reconstruct",
        "clip": str(args.clip),
        "clip_sha256": file_sha256(clip.path),
        "kind": clip.kind,
        "vae": str(args.vae),
        "vae_config": job.vae.layout.to_json() if isinstance(job.vae, PublishedVAE) else job.vae.config.to_json(),
        "latent": "posterior mean",
        "frames": quality.frames,
        "fps": None if clip.fps is None else f"{clip.fps.numerator}/{clip.fps.denominator}",
        "constant_frame_rate": clip.constant,
        "size": [height, width],
        "source_size": [clip.height, clip.width],
        "rotation": clip.rotation,
        "pixel_aspect": f"{clip.pixel_aspect.numerator}/{clip.pixel_aspect.denominator}",
        "padding": {
            "frames": padding.frames,
            "below": padding.below,
            "right": padding.right,
            "mode": "repeat the last",
        },
        "chunks": {"frames": job.chunk, "whole": whole, "last": rest} if job.window is None else None,
        "windows": _windows(job),
        "tiles": None if grid is None else _tiles(job),
        "psnr_db": numbers["psnr_db"],
        "psnr_frame_db": numbers["psnr_frame_db"],
        "ssim": numbers.get("ssim"),
        "measured_on": MEASURED_ON,
        "metrics": [metric.to_json() for metric in metrics],
        "per_frame": quality.curves(),
        "files": job.files(),
        "encoding": None if clip.fps is None else _encoding(job),
        "error_map": ERROR_MAP if len(job.pictures) > 1 else None,
        "notes": list(_notes(job)),
        "device": str(weight.device),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **git_state(PROJECT),
        "versions": versions(),
        "machine": hardware(),
    }


def _windows(job: Job) -> dict[str, Any] | None:
    """How a published VAE got the clip; None for ours, which stream."""
    if not isinstance(job.vae, PublishedVAE) or job.window is None:
        return None
    frames = 1 if job.vae.layout.image else job.window
    return {"frames": frames, "count": -(-job.clip.frames // frames), "independent": True}


def _tiles(job: Job) -> dict[str, Any]:
    assert job.tiles is not None
    ratio = job.vae.spatial_ratio
    rows, columns = (
        [[begin * ratio, end * ratio] for begin, end in spans] for spans in (job.tiles.rows, job.tiles.columns)
    )
    return {"count": len(job.tiles), "rows": rows, "columns": columns, "blend": "linear"}


def _encoding(job: Job) -> dict[str, Any]:
    height, width = job.size
    return {"codec": "h264", "crf": QUALITY, "pixels": "yuv420p, BT.709", "size": [even(height), even(width)]}


def _notes(job: Job) -> Iterator[str]:
    """What was done to the clip that a reader might not expect."""
    clip, padding, (height, width) = job.clip, job.padding, job.size
    yield from clip.notes
    if job.size != (clip.height, clip.width):
        yield f"resized from {clip.height} x {clip.width} to cover {height} x {width}, centre cropped"
    parts = {"frame": padding.frames, "row": padding.below, "column": padding.right}
    repeated = [part for part, missing in parts.items() if missing]
    if repeated:
        filled = f"{clip.frames + padding.frames} frames of {height + padding.below} x {width + padding.right}"
        yield (
            f"filled up to {filled} by repeating the last {', '.join(repeated)}; "
            "cut off again before measuring and writing"
        )
    windows = _windows(job)
    if windows is not None and clip.kind == "video":
        if windows["frames"] == 1:
            yield "an image VAE: computed frame by frame"
        elif windows["count"] > 1:
            yield (
                f"computed in {windows['count']} windows of {windows['frames']} frames, each without knowledge of the "
                "others: this VAE cannot stream, and seams in time may show"
            )
    if job.tiles is not None and len(job.tiles) > 1:
        yield f"computed in {len(job.tiles)} tiles: an approximation of the whole frame"
    if clip.kind == "video" and (height % 2 or width % 2):
        yield f"the mp4 is {even(height)} x {even(width)}: H.264 needs even sides, the last row or column is repeated"
    if min(height, width) < SSIM_WINDOW:
        yield f"no SSIM: its window of {SSIM_WINDOW} pixels does not fit"


def describe(found: dict[str, Any]) -> Iterator[str]:
    """The lines that a person reads when it is done."""
    height, width = found["size"]
    frames = "an image" if found["fps"] is None else f"{found['frames']} frames at {say_rate(Fraction(found['fps']))}"
    yield f"{found['clip']}: {frames}, {height} x {width} pixels"
    yield from found["notes"]
    ssim = "" if found["ssim"] is None else f", SSIM {found['ssim']:.4f}"
    yield f"PSNR {found['psnr_db']:.2f} dB (mean over frames {found['psnr_frame_db']:.2f} dB){ssim}"
    yield f"measured on {found['measured_on']}"
