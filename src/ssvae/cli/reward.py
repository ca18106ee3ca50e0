"""Score a folder of video clips with a video reward model (UnifiedReward) behind an OpenAI-compatible server.

Writes metrics.json and run.json to --out at the end, and scores.jsonl, one answer a line, as it goes: the same command
goes on where it was interrupted and asks nothing twice. Each clip is also asked about with another clip's prompt, as a
control; --no-wrong-prompts saves those requests. Numbers that no option gives are those of conf/reward.

A server: vllm serve CodeGoat24/UnifiedReward-2.0-qwen3vl-8b --served-model-name UnifiedReward --port 8080
          --limit-mm-per-prompt.image 32 --enable-prefix-caching
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from ssvae.core.types import MetricValue
    from ssvae.data.prompts import PromptFile
    from ssvae.data.video_stream import Clip
    from ssvae.metrics.reward import RewardResult
    from ssvae.metrics.reward_settings import RewardSettings

HELP = "UnifiedReward scores of a folder of clips, with a wrong-prompt control"
SCORES, METRICS, RECORD = "scores.jsonl", "metrics.json", "run.json"
PIECE = 16
"""Frames decoded at once."""
OPTIONS = {
    "frames": (int, "N", "frames shown a clip"),
    "jpeg_quality": (int, "Q", "of the frames that are sent, 1 to 100"),
    "max_tokens": (int, "N", "of an answer"),
    "unparsed_share": (float, "SHARE", "no metrics when more answers than this share cannot be read"),
    "concurrency": (int, "N", "requests in flight"),
    "timeout_s": (float, "S", "time limit of a request, in seconds"),
    "retries": (int, "N", "further tries of a request that failed for a reason that may pass"),
    "backoff_s": (float, "S", "wait before the first of them; doubles each time"),
    "longest_wait_s": (float, "S", "limit of every wait, whatever the server asks for"),
    "api_key_env": (str, "VARIABLE", "environment variable that holds the server's key"),
    "template": (str, "FILE", "another wording of the question, with {prompt} where the prompt goes"),
}
"""Settings of conf/reward that an option of the same name replaces: type, metavar, help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--videos", metavar="DIR", type=Path, required=True, help="folder of clips, mp4 and others")
    parser.add_argument(
        "--prompts", metavar="FILE", type=Path, required=True, help="one a line, or VBench's or MovieGenBench's file"
    )
    parser.add_argument("--endpoint", metavar="URL", required=True, help="server, such as http://localhost:8080")
    parser.add_argument("--model", metavar="NAME", required=True, help="name that the server gives the reward model")
    parser.add_argument("--version", choices=("v1", "v2"), required=True, help="v1: five dimensions; v2: three")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="new folder, or that of an earlier call")
    parser.add_argument(
        "--format", choices=("lines", "vbench", "csv", "jsonl"), help="of --prompts (default: detected)"
    )
    parser.add_argument(
        "--pair",
        choices=("auto", "name", "order"),
        default="auto",
        help="clips to prompts by file name (<prompt>-<n>.mp4), or both in order (default: %(default)s)",
    )
    parser.add_argument(
        "--wrong-prompts",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="ask each clip again with another clip's prompt",
    )
    parser.add_argument("--seed", type=int, default=0, help="draws the wrong prompts (default %(default)s)")
    for name, (kind, metavar, text) in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=text)


def run(args: argparse.Namespace) -> int:
    """Raises ValueError, before anything is written, for settings, files or a server that do not work together.

    Returns 1 when the server fails on the way, or too many of its answers cannot be read: the answers are kept.
    """
    from ssvae.data.prompts import pair_clips, read_prompts
    from ssvae.metrics.reward import reward_values, wrong_prompts
    from ssvae.metrics.reward_client import RewardClient, RewardServerError
    from ssvae.metrics.reward_scoring import score_videos
    from ssvae.sweep.console import RichProgress, make_console

    _check_out(args.out)
    settings = reward_settings(args)
    files = _video_files(args.videos)
    names = [file.name for file in files]
    listed = read_prompts(args.prompts, args.format)
    prompts, how = pair_clips(names, listed, args.pair)
    if settings.wrong_prompts:
        wrong_prompts(prompts, settings.seed)
    RewardClient(settings).check()
    console = make_console()
    try:
        with RichProgress(console) as progress:
            clips = _look_through(files, progress)
            videos = (shown(clip, settings.frames) for clip in clips)
            result = score_videos(videos, names, prompts, settings, args.out / SCORES, progress)
    except RewardServerError as error:
        console.print(f"reward: {error}", markup=False, soft_wrap=True)
        console.print(f"answers so far are kept in {args.out / SCORES}; the same command goes on", markup=False)
        return 1
    try:
        # Clips of one prompt are not independent: the interval is over prompts.
        metrics = reward_values(result, prompts)
    except ValueError as error:
        console.print(f"reward: {error}", markup=False, soft_wrap=True)
        console.print(f"all answers are kept in {args.out / SCORES}; no metrics are written", markup=False)
        return 1
    _write(args, settings, result, metrics, listed, how)
    _tell(console, args.out, result, metrics, listed, how)
    return 0


def reward_settings(args: argparse.Namespace) -> RewardSettings:
    """conf/reward/unified_<version>.yaml with the options that were given; ValueError for values that cannot work."""
    from omegaconf import OmegaConf

    from ssvae.config.compose import CONF
    from ssvae.config.reward import RewardConfig
    from ssvae.metrics.reward_settings import RewardSettings

    file = OmegaConf.load(CONF / "reward" / f"unified_{args.version}.yaml")
    given = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
    given |= {"endpoint": args.endpoint, "model": args.model}
    if args.wrong_prompts is not None:
        given["wrong_prompts"] = args.wrong_prompts
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RewardConfig), file, given))
    assert isinstance(config, RewardConfig)
    return RewardSettings(
        endpoint=config.endpoint,
        model=config.model,
        version=args.version,
        template=None if config.template is None else Path(config.template).expanduser(),
        frames=config.frames,
        jpeg_quality=config.jpeg_quality,
        max_tokens=config.max_tokens,
        wrong_prompts=config.wrong_prompts,
        seed=args.seed,
        unparsed_share=config.unparsed_share,
        concurrency=config.concurrency,
        timeout_s=config.timeout_s,
        retries=config.retries,
        backoff_s=config.backoff_s,
        longest_wait_s=config.longest_wait_s,
        api_key_env=config.api_key_env,
    )


def shown(clip: Clip, count: int) -> Tensor:
    """Only the frames of a clip that the model is shown, (3,n,H,W) uint8, however long the clip is."""
    import torch

    from ssvae.data.pixels import to_uint8
    from ssvae.metrics.reward import frame_picks

    picks = set(frame_picks(clip.frames, count))
    kept: list[Tensor] = []
    for number, piece in enumerate(clip.pieces(PIECE)):
        mine = [i for i in range(piece.shape[2]) if number * PIECE + i in picks]
        kept.append(to_uint8(piece[0, :, mine]))
    return torch.cat(kept, dim=1)


def _video_files(folder: Path) -> list[Path]:
    from ssvae.data.prompts import natural_order
    from ssvae.data.shards import VIDEO_EXTENSIONS

    if not folder.is_dir():
        raise ValueError(f"--videos {folder}: no such folder")
    found = [file for file in folder.iterdir() if file.is_file()]
    found = [file for file in found if file.suffix.lower().removeprefix(".") in VIDEO_EXTENSIONS]
    if not found:
        raise ValueError(f"--videos {folder}: holds no clip ({', '.join(sorted(VIDEO_EXTENSIONS))})")
    return sorted(found, key=lambda file: natural_order(file.name))


def _look_through(files: Sequence[Path], progress: Any) -> list[Clip]:
    """Every clip, decoded once: a damaged one is found before the first request."""
    from ssvae.data.pixels import ClipError
    from ssvae.data.video_stream import open_clip

    progress.start("look through clips", len(files))
    clips = []
    for done, file in enumerate(files, start=1):
        try:
            clips.append(open_clip(file))
        except ClipError as error:
            raise ValueError(f"--videos {file}: {error}; repair or remove it") from error
        progress.advance(done)
    return clips


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file; give a folder")
    known = (SCORES, METRICS, RECORD)
    found = sorted(path.name for path in out.iterdir()) if out.exists() else []
    others = [name for name in found if name not in known and not name.startswith(".")]  # hidden: locks, leftovers
    if others:
        raise ValueError(f"--out {out}: holds other things ({', '.join(others[:3])}); give a new or an empty folder")


def _write(
    args: argparse.Namespace,
    settings: RewardSettings,
    result: RewardResult,
    metrics: list[MetricValue],
    listed: PromptFile,
    how: str,
) -> None:
    from datetime import UTC, datetime

    from ssvae.core.files import write_json
    from ssvae.core.identity import file_sha256, provenance
    from ssvae.core.paths import PROJECT

    record = {
        "verb": "reward",
        "videos": str(args.videos),
        "prompts": str(args.prompts),
        "prompts_sha256": file_sha256(args.prompts),
        "prompts_format": listed.format,
        "paired": how,
        "clips": len(result.keys),
        "endpoint": settings.base_url(),
        "protocol": result.protocol,
        "template_sha256": result.question.digest,
        "asked": result.asked,
        "reused": result.reused,
        "torn": result.torn,
        "failures": result.failures(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance(PROJECT),
    }
    write_json(args.out / RECORD, record)
    write_json(args.out / METRICS, [metric.to_json() for metric in metrics])


def _tell(
    console: Console, out: Path, result: RewardResult, metrics: list[MetricValue], listed: PromptFile, how: str
) -> None:
    from rich.table import Table

    table = Table(title=f"UnifiedReward {result.question.version}", title_justify="left")
    for heading in ("metric", "value", "95 % interval", "unit", "n"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for metric in metrics:
        interval = "" if metric.ci95 is None else f"{metric.ci95[0]:.4g} .. {metric.ci95[1]:.4g}"
        table.add_row(metric.name, f"{metric.value:.4g}", interval, metric.unit, str(metric.n))
    console.print(table)
    for line in _remarks(result, listed, how):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"written: {out}", markup=False, soft_wrap=True)


def _remarks(result: RewardResult, listed: PromptFile, how: str) -> Iterator[str]:
    yield f"clips and prompts paired {how}; {result.asked} asked now, {result.reused} answered before"
    if result.torn:
        yield "the last line of the scores was torn by a kill: that clip was asked again"
    if duplicates := listed.duplicates:
        first = next(iter(duplicates))
        yield f"{len(duplicates)} prompts come more than once in the file, such as {first[:60]!r} ({duplicates[first]})"
    if unused := len(set(listed.texts) - set(result.prompts)):
        yield f"{unused} prompts of the file belong to no clip"
    if failures := result.failures():
        told = ", ".join(f"{reason} {count}" for reason, count in sorted(failures.items()))
        yield f"answers that could not be read: {told}"
