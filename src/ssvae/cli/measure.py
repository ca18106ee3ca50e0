"""Measure any VAE on any clips: reconstruction, latent spectra, channel eigenspectrum.

Writes metrics.json, curves.json and run.json (what was measured on what) to --out, at the end, if all went well.
Clips are resized so that they cover --size, cropped in the centre, and read at --fps; windows are fixed, not drawn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssvae.cli.clip_window import ClipWindow, add_window_arguments, window_asked_for

if TYPE_CHECKING:
    from ssvae.core.progress import Progress
    from ssvae.core.types import MetricValue
    from ssvae.data.rejects import RejectLog
    from ssvae.data.shards import ShardIndex
    from ssvae.metrics.latents import LatentReport
    from ssvae.models.vae import VideoVAE

HELP = "spectra, eigenspectrum and reconstruction of any VAE on any clips"
SSIM_WINDOW = 11
WRITTEN = ("metrics.json", "curves.json", "run.json")
DOWN_FACTORS = (8, 4, 2, 1)
"""Of the down-and-up baseline: the first that divides the frame."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vae", metavar="NAME_OR_PATH", required=True, help="folder of a VAE, or of the stage that made it"
    )
    parser.add_argument(
        "--data", metavar="PATH", required=True, help="folder of tars or of video files (commas, {0..9})"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write to")
    add_window_arguments(parser)
    parser.add_argument("--clips", metavar="N", type=int, default=128, help="windows in all (default %(default)s)")
    parser.add_argument("--batch", metavar="B", type=int, default=8, help="windows at once (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Raises ValueError, before anything is written, for a VAE, data or sizes that do not work together."""
    _check_out(args.out)
    from ssvae import load_vae
    from ssvae.cli.clip_folder import open_clips
    from ssvae.data.rejects import RejectLog
    from ssvae.sweep.console import RichProgress, make_console

    window = _window(args)
    vae = load_vae(args.vae)
    vae.latent_grid(window.frames, *window.size)
    index = open_clips(args.data)
    rejects = RejectLog(limit=1.0)  # the answer says how many clips it rests on, and which were left out
    console = make_console()
    with RichProgress(console) as progress:
        metrics, curves = measure(vae, index, window, args.clips, args.batch, rejects, progress)
    record = {
        "verb": "measure",
        "vae": str(args.vae),
        "data": str(args.data),
        "data_fingerprint": index.fingerprint,
        "split": "all clips of the data",
        "frames": window.frames,
        "fps": window.fps,
        "size": list(window.size),
        "clips": args.clips,
        "rejected": rejects.counts(),
    }
    _write(args.out, metrics, curves, record)
    console.print(_table(metrics, f"{args.vae} on {args.data}"))
    if rejects.rejected:
        console.print(f"left out: {rejects.describe()}", markup=False, soft_wrap=True)
    console.print(f"written: {args.out}", markup=False, soft_wrap=True)
    return 0


def measure(
    vae: VideoVAE,
    index: ShardIndex,
    window: ClipWindow,
    clips: int,
    batch: int,
    rejects: RejectLog,
    progress: Progress,
) -> tuple[list[MetricValue], dict[str, Any]]:
    """Metrics and curves of up to ``clips`` fixed windows of all clips of ``index``.

    Raises ValueError when no clip can be used, and for latents that
    no statistic exists of. rejects: counts the clips that are left out.
    """
    import torch
    from torch import Tensor

    from ssvae.data.evaluation import evaluation_clips
    from ssvae.metrics.latents import LatentStatistics
    from ssvae.metrics.recon import ReconstructionStatistics

    height, width = window.size
    latents = LatentStatistics(vae.channels, vae.latent_grid(window.frames, height, width))
    down = next(factor for factor in DOWN_FACTORS if height % factor == 0 and width % factor == 0)
    reconstruction = ReconstructionStatistics(down)
    keys = index.keys("video")
    found = evaluation_clips(
        index, keys, frames=window.frames, fps=window.fps, size=(height, width), count=clips, rejects=rejects
    )
    progress.start("measure", clips)
    means: list[Tensor] = []
    done = 0
    group: list[Tensor] = []

    def flush() -> None:
        video = torch.stack(group)
        posterior = vae.encode(video)
        latents.update(posterior)
        reconstruction.update(vae.decode(posterior.mode()), video)
        means.append(posterior.mean)
        group.clear()

    with torch.no_grad():
        for clip in found:
            group.append(clip.video)
            done += 1
            if len(group) == batch:
                flush()
                progress.advance(done)
        if group:
            flush()
        if not means:
            raise ValueError(f"no clip could be used ({rejects.describe()})")
        for mean in means:
            latents.correlate(mean)
    report = latents.compute()
    return [*reconstruction.compute(), *report.values], _curves(report, reconstruction.curves())


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file; give a folder")
    if (out / "config.yaml").exists() or (out / "done.json").exists():
        raise ValueError(
            f"--out {out}: is the run folder of a stage, which nothing else may write to; give another folder"
        )
    others = sorted(path.name for path in out.iterdir() if path.name not in WRITTEN) if out.exists() else []
    if others:
        raise ValueError(f"--out {out}: holds other things ({', '.join(others[:3])}); give a new or an empty folder")


def _window(args: argparse.Namespace) -> ClipWindow:
    """The window that was asked for, large enough to be measured."""
    window = window_asked_for(args)
    for name in ("clips", "batch"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)}: must be at least 1")
    if min(window.size) < SSIM_WINDOW:
        height, width = window.size
        raise ValueError(f"--size {height} {width}: SSIM needs at least {SSIM_WINDOW} pixels a side")
    return window


def _curves(report: LatentReport, frames: dict[str, Any]) -> dict[str, Any]:
    labels = {
        "dct_spectrum": ("zigzag index", "share of energy"),
        "explained_variance": ("modes k", "cumulative share"),
        "psnr_frame_db": ("frame", "PSNR in dB"),
        "ssim_frame": ("frame", "SSIM"),
    }
    curves = {name: (x.tolist(), y.tolist()) for name, (x, y) in report.curves.items()}
    curves.update({name: (list(range(len(y))), y.tolist()) for name, y in frames.items()})
    found = {}
    for name, (x, y) in curves.items():
        x_label, y_label = labels.get(name, ("index", name))
        found[name] = {"x": x, "y": y, "x_label": x_label, "y_label": y_label}
    return found


def _write(out: Path, metrics: list[MetricValue], curves: dict[str, Any], record: dict[str, Any]) -> None:
    from datetime import UTC, datetime

    from ssvae.bench.machine import hardware, versions
    from ssvae.core.files import write_json
    from ssvae.core.identity import git_state
    from ssvae.core.paths import PROJECT

    made = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **git_state(PROJECT)}
    write_json(out / "curves.json", curves)
    write_json(out / "run.json", {**record, **made, "versions": versions(), "machine": hardware()})
    write_json(out / "metrics.json", [metric.to_json() for metric in metrics])


def _table(metrics: list[MetricValue], title: str) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for heading in ("metric", "value", "95 % interval", "unit", "n"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for metric in metrics:
        interval = "" if metric.ci95 is None else f"{metric.ci95[0]:.4g} .. {metric.ci95[1]:.4g}"
        table.add_row(metric.name, f"{metric.value:.4g}", interval, metric.unit, str(metric.n))
    return table
