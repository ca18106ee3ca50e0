"""Write a VAE for other programs: the layout of the official SSVAE code, and a plain folder for any PyTorch trainer.

--out gets official.ckpt (state_dict under the official names) and plain/ (config.json, model.safetensors with the
latent mean and std, latent_statistics.json that says where they come from); all of it or nothing. With --data the
statistics are measured on those clips: posterior means, fixed windows, every latent position. docs/weights.md shows
how a trainer loads the folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ssvae.cli.clip_window import add_window_arguments, window_asked_for

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from ssvae.models.load import OpenedVAE
    from ssvae.models.statistics import LatentStatistics
    from ssvae.models.vae import VideoVAE

HELP = "weights in the official layout and as a plain folder, with latent statistics"
CLIPS, BATCH = 256, 8
OFFICIAL, PLAIN = "official.ckpt", "plain"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vae", metavar="NAME_OR_PATH", required=True, help="folder of a VAE or its stage, official .ckpt, or ssvae48"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="new folder, or that of an older export")
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="clips to measure the latent statistics on: folder of tars or of video files (commas, {0..9}); without "
        "it the VAE's own statistics are written",
    )
    add_window_arguments(parser)
    parser.add_argument("--clips", metavar="N", type=int, help=f"windows in all (default {CLIPS})")
    parser.add_argument("--batch", metavar="B", type=int, help=f"windows at once (default {BATCH})")


def run(args: argparse.Namespace) -> int:
    """Raises ValueError, before anything is written, for a VAE, data, window or folder that does not work."""
    _check_out(args.out)
    _check_options(args)
    from ssvae.models.load import open_vae, refuse_published
    from ssvae.models.statistics import LatentStatistics
    from ssvae.sweep.console import make_console

    refuse_published(args.vae)
    console = make_console()
    opened = open_vae(args.vae)
    if args.data is not None:
        statistics = _measure(opened.own, args, console)
        statistics.apply(opened.own)
    else:
        statistics = opened.statistics or LatentStatistics.unrecorded(opened.own)
    _write(args.out, opened, statistics)
    _tell(console, args.out, opened, statistics)
    return 0


def _measure(vae: VideoVAE, args: argparse.Namespace, console: Console) -> LatentStatistics:
    import torch

    from ssvae.cli.clip_folder import open_clips
    from ssvae.data.evaluation import evaluation_clips
    from ssvae.data.rejects import RejectLog
    from ssvae.models.statistics import measure_statistics
    from ssvae.sweep.console import RichProgress

    window = window_asked_for(args)
    vae.latent_grid(window.frames, *window.size)
    index = open_clips(args.data)
    rejects = RejectLog(limit=1.0)  # the record says how many clips it rests on
    vae.to("cuda" if torch.cuda.is_available() else "cpu")
    clips = evaluation_clips(
        index,
        index.keys("video"),
        frames=window.frames,
        fps=window.fps,
        size=window.size,
        count=args.clips or CLIPS,
        rejects=rejects,
    )
    with RichProgress(console) as progress:
        progress.start("latent statistics", args.clips or CLIPS)
        try:
            return measure_statistics(
                vae,
                _batches((clip.video for clip in clips), args.batch or BATCH),
                fps=window.fps,
                # Names of folders, not where they lie: the record goes to other machines.
                data=",".join(Path(part).name for part in args.data.split(",")),
                fingerprint=index.fingerprint,
                split="all clips of the data",
                advance=progress.advance,
            )
        finally:
            if rejects.rejected:
                console.print(f"left out: {rejects.describe()}", markup=False, soft_wrap=True)


def _batches(videos: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """(3,T,H,W) each -> (B,3,T,H,W), B = ``size`` but for the last."""
    import torch

    group: list[Tensor] = []
    for video in videos:
        group.append(video)
        if len(group) == size:
            yield torch.stack(group)
            group = []
    if group:
        yield torch.stack(group)


def _check_options(args: argparse.Namespace) -> None:
    for name in ("frames", "fps", "size", "clips", "batch"):
        value = getattr(args, name)
        if value is not None and args.data is None:
            raise ValueError(f"--{name}: only says how --data is looked at; give --data too")
        if name in ("clips", "batch") and value is not None and value < 1:
            raise ValueError(f"--{name} {value}: must be at least 1")


def _check_out(out: Path) -> None:
    """Only an older export is replaced; anything else in the way is somebody's work."""
    from ssvae.models.statistics import STATISTICS_FILE
    from ssvae.models.weights import CONFIG_FILE, WEIGHTS_FILE

    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file; give a folder")
    ours = {out / OFFICIAL, out / PLAIN, *(out / PLAIN / name for name in (CONFIG_FILE, WEIGHTS_FILE, STATISTICS_FILE))}
    others = [str(path.relative_to(out)) for path in sorted(out.rglob("*")) if path not in ours]
    if others:
        raise ValueError(f"--out {out}: holds other things ({', '.join(others[:3])}); give a new or an empty folder")


def _write(out: Path, opened: OpenedVAE, statistics: LatentStatistics) -> None:
    from ssvae.core.folders import whole_folder
    from ssvae.models.official import save_official
    from ssvae.models.weights import save_vae

    with whole_folder(out) as folder:
        save_official(folder / OFFICIAL, opened.own, opened.mask_token)
        save_vae(folder / PLAIN, opened.own, statistics)


def _tell(console: Console, out: Path, opened: OpenedVAE, statistics: LatentStatistics) -> None:
    vae = opened.own
    token = "with mask_token" if opened.mask_token is not None else "mask_token left out, these weights come without it"
    if statistics.clips is not None:
        rests = f"{statistics.clips} windows of {statistics.data}, {statistics.positions} latent positions"
    elif statistics.is_identity:
        rests = "mean 0, std 1: never measured, give --data CLIPS"
    else:
        rests = f"as the weights came, from {statistics.data}"
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    for line in (
        f"model: {vae.channels} latent channels, {parameters:,} parameters",
        f"latent statistics: {rests}",
        f"official layout: {out / OFFICIAL} ({token}; loss.* left out)",
        f"plain folder: {out / PLAIN}",
    ):
        console.print(line, markup=False, soft_wrap=True)
