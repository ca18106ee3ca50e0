"""Measure any VAE on any clips: reconstruction, latent spectra, channel eigenspectrum, chopping, robustness.

Writes metrics.json, curves.json, clips.json (a row a window), latents.png (the one figure), pictures, samples/ and
run.json (what was measured on what) to --out, at the end, if all went well. Clips are resized so that they cover
--size, cropped in the centre, and read at --fps; windows are fixed, not drawn. Intervals are over clips.
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
    from ssvae.metrics.measurement import Measured
    from ssvae.models.load import OpenedVAE

HELP = "spectra, eigenspectrum, reconstruction and robustness of any VAE on any clips"
SSIM_WINDOW = 11
PICTURES = ("chopping.png", "panels.png", "latents.png", "samples")
WRITTEN = ("metrics.json", "curves.json", "clips.json", "run.json", *PICTURES)
DOWN_FACTORS = (8, 4, 2, 1)
"""Of the down-and-up baseline: the first that divides the frame."""
NOISE, MASK, CHOP = (0.1, 0.2, 0.4, 0.8), (0.25, 0.5, 0.75), (0.25, 0.5, 0.75, 0.9)
SAMPLES = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vae",
        metavar="NAME_OR_PATH",
        required=True,
        help="folder of a VAE or of the stage that made it, a published name (wan22, ssvae48 ...), an official .ckpt",
    )
    parser.add_argument(
        "--data", metavar="PATH", required=True, help="folder of tars or of video files (commas, {0..9})"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write to")
    add_window_arguments(parser)
    parser.add_argument("--clips", metavar="N", type=int, default=128, help="windows in all (default %(default)s)")
    parser.add_argument("--batch", metavar="B", type=int, default=8, help="windows at once (default %(default)s)")
    networks = parser.add_argument_group("networks from outside; without one its metric is absent")
    networks.add_argument("--lpips-vgg", metavar="FILE", help="VGG16 weights: lpips_vgg")
    networks.add_argument("--lpips-alex", metavar="FILE", help="AlexNet weights: lpips_alex")
    networks.add_argument("--dinov2", metavar="NAME_OR_PATH", help="a DINOv2, such as facebook/dinov2-large: rfdd")
    networks.add_argument("--i3d", metavar="FILE", help="StyleGAN-V's I3D TorchScript file: rfvd")


def run(args: argparse.Namespace) -> int:
    """Raises ValueError, before anything is written, for a VAE, data, networks or sizes that do not work together."""
    _check_out(args.out)
    from ssvae.build import default_device
    from ssvae.cli.clip_folder import open_clips
    from ssvae.data.rejects import RejectLog
    from ssvae.models.load import open_vae
    from ssvae.stages.measure import write_measured
    from ssvae.sweep.console import RichProgress, make_console

    window = _window(args)
    opened = open_vae(args.vae, device=default_device())
    opened.vae.latent_grid(window.frames, *window.size)
    networks = _networks(args, window)
    index = open_clips(args.data)
    rejects = RejectLog(limit=1.0)  # the answer says how many clips it rests on, and which were left out
    console = make_console()
    with RichProgress(console) as progress:
        measured = measure(opened, index, window, args.clips, args.batch, networks, rejects, progress)
    enlarged = _enlarged(index, window)
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
        "enlarged": enlarged,
        "left_out": dict(measured.left_out),
    }
    _write(args.out, record)
    write_measured(measured, args.out, window.fps)
    _figure(args.out, f"{args.vae} on {args.data}")
    console.print(_table(measured.values, f"{args.vae} on {args.data}"))
    if rejects.rejected:
        console.print(f"left out: {rejects.describe()}", markup=False, soft_wrap=True)
    if enlarged:
        console.print(
            "the clips are smaller than --size and were enlarged: spectra and PSNR are those of soft pictures"
        )
    console.print(f"written: {args.out} (figure: latents.png)", markup=False, soft_wrap=True)
    return 0


def measure(
    opened: OpenedVAE,
    index: ShardIndex,
    window: ClipWindow,
    clips: int,
    batch: int,
    networks: dict[str, Any],
    rejects: RejectLog,
    progress: Progress,
) -> Measured:
    """Measurements of up to ``clips`` fixed windows of all clips of ``index``.

    Noise and masks are in units of the latents' mean and std on these clips, which a first sweep measures. networks:
    what :class:`~ssvae.metrics.measurement.Measurement` takes. rejects: counts the clips that are left out. Raises
    ValueError when no clip can be used, and for latents that no statistic exists of.
    """
    import torch

    from ssvae.data.evaluation import EvaluationClip, evaluation_clips
    from ssvae.data.rejects import RejectLog
    from ssvae.metrics.latents import WINDOWS, LatentStatistics
    from ssvae.metrics.measurement import Measurement, MeasurementSettings
    from ssvae.models.statistics import measure_statistics

    vae, device = opened.vae, opened.vae.latent_mean.device

    def batches(counted: RejectLog) -> Any:
        group: list[EvaluationClip] = []
        found = evaluation_clips(
            index, index.keys("video"), frames=window.frames, fps=window.fps, size=window.size, count=clips,
            rejects=counted,
        )  # fmt: skip
        for clip in found:
            group.append(clip)
            if len(group) == batch:
                yield group
                group = []
        if group:
            yield group

    # Blocks and windows are judged before the first clip is read.
    LatentStatistics(vae.channels, vae.latent_grid(window.frames, *window.size), windows=WINDOWS)
    progress.start("latent statistics", clips)
    again = RejectLog(limit=1.0)
    videos = (torch.stack([clip.video for clip in group]) for group in batches(again))
    try:
        statistics = measure_statistics(
            vae, videos, fps=window.fps, data="", fingerprint="", split="", advance=progress.advance
        )
    except ValueError as error:
        if again.rejected and not again.accepted:
            asked = f"windows of {window.frames} frames at {window.fps:g} fps were asked for: see --frames and --fps"
            raise ValueError(f"no clip could be used ({again.describe()}); {asked}") from error
        raise
    mean, std = statistics.tensors
    height, width = window.size
    down = next(factor for factor in DOWN_FACTORS if height % factor == 0 and width % factor == 0)
    settings = MeasurementSettings(None, WINDOWS, None, CHOP, NOISE, MASK, down)
    measurement = Measurement(
        vae, (window.frames, height, width), settings, mean=mean, std=std, token=opened.mask_token, kept=SAMPLES,
        **networks,
    )  # fmt: skip
    done = 0
    progress.start("measure", clips)
    for group in batches(rejects):
        video = torch.stack([clip.video for clip in group]).to(device)
        measurement.update(video, [clip.key for clip in group], [clip.place for clip in group])
        done += len(group)
        progress.advance(done)
    return measurement.finish()


def _enlarged(index: ShardIndex, window: ClipWindow) -> bool:
    """Is the first clip smaller than the window? Then its high frequencies are the resizer's."""
    from ssvae.data.evaluation import evaluation_clips
    from ssvae.data.rejects import RejectLog

    log = RejectLog(limit=1.0)
    for _ in evaluation_clips(
        index, index.keys("video")[:1], frames=window.frames, fps=window.fps, size=window.size, count=1, rejects=log,
        upscale=False,
    ):  # fmt: skip
        return False
    return "too_small" in log.counts()


def _networks(args: argparse.Namespace, window: ClipWindow) -> dict[str, Any]:
    from ssvae.build import default_device
    from ssvae.build_metrics import build_frechet_networks, build_lpips
    from ssvae.config.score import NetworksConfig

    for name in ("lpips_vgg", "lpips_alex", "i3d"):
        path = getattr(args, name)
        if path is not None and not Path(path).expanduser().is_file():
            raise ValueError(f"--{name.replace('_', '-')} {path}: no such file")
    # Short clips are looked at whole; the protocol says how many frames that is.
    chosen = NetworksConfig(args.lpips_vgg, args.lpips_alex, args.dinov2, args.i3d, 1, min(16, max(9, window.frames)))
    device = default_device()
    return {
        "lpips": build_lpips(chosen, device),
        "networks": build_frechet_networks(chosen, window.frames, device),
    }


def _figure(out: Path, title: str) -> None:
    from ssvae.core.files import read_json
    from ssvae.report.figures import save_figure
    from ssvae.report.latents_figure import latents_figure
    from ssvae.report.measured_pictures import read_pictures

    save_figure(latents_figure(read_json(out / "curves.json"), read_pictures(out), title), out / "latents.png")


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


def _write(out: Path, record: dict[str, Any]) -> None:
    from datetime import UTC, datetime

    from ssvae.bench.machine import hardware, versions
    from ssvae.core.files import write_json
    from ssvae.core.identity import git_state
    from ssvae.core.paths import PROJECT

    made = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **git_state(PROJECT)}
    write_json(out / "run.json", {**record, **made, "versions": versions(), "machine": hardware()})


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
