"""Check this machine for what a command line would run: one line a check, and what to do about each that fails.

    python -m ssvae preflight
    python -m ssvae preflight exp=paper_256p data.path=/data/clips --gpus 8
    torchrun --nproc_per_node 8 -m ssvae preflight exp=paper_256p data.path=/data/clips
    srun -N 4 --ntasks-per-node 8 --gpus-per-node 8 python -m ssvae preflight exp=paper_256p data.path=/data/clips

Takes the overrides that run.py takes. Trains nothing; writes only files that it removes again, and the embedded data
where they are asked for. With launch.preflight=true a job does the same by itself, before its first stage.

Exit codes: 0 everything passed (a warning is no failure); 1 a check failed on some rank; 2 bad overrides.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping

HELP = "check versions, GPUs, data, disk, ranks before a job is paid for"
_FIRST_PORT, _PORTS = 20_000, 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="as for run.py: exp=paper_256p data.path=...")
    parser.add_argument("--gpus", metavar="N", type=int, help="GPUs that each node must have (default: any number)")
    parser.add_argument("--ranks", metavar="N", type=int, help="ranks that there must be (default: those started)")
    parser.add_argument(
        "--wait", metavar="SECONDS", type=float, default=120.0, help="for ranks that are late (default %(default)g)"
    )


def run(args: argparse.Namespace) -> int:
    """Exit code 2 for problems of the overrides, all of them named; 1 when a check failed."""
    from ssvae.core.ranks import Ranks

    try:
        return _run(args)
    finally:
        Ranks.leave()


def _run(args: argparse.Namespace) -> int:
    from ssvae.build import build_accelerator
    from ssvae.cli.run import report_problems
    from ssvae.config.compose import resolve
    from ssvae.config.problem import InputError
    from ssvae.config.train import Precision
    from ssvae.core.paths import project_root
    from ssvae.core.progress import Silent
    from ssvae.core.ranks import Ranks
    from ssvae.preflight.base import Limits, Needs, PreflightError
    from ssvae.preflight.run import meet, preflight
    from ssvae.stages.plan import NAMES
    from ssvae.sweep.console import make_console
    from ssvae.sweep.sources import Sources

    if args.wait <= 0:
        raise ValueError(f"--wait {args.wait:g}: give a number of seconds above 0")
    try:
        cells = resolve(tuple(args.overrides))
    except InputError as error:
        report_problems(error)
        return 2
    for name, value in slurm_ranks(os.environ).items():
        os.environ[name] = value
    console = make_console()
    told = Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    root = project_root()
    needs = Needs(
        cells=[cell.cfg for cell in cells],
        stages=NAMES,
        root=root,
        sources=Sources(root, Silent()),
        world=args.ranks,
        gpus=args.gpus,
        tracking=cells[0].cfg.track.uri,
        limits=Limits(roll_call_s=args.wait),
    )
    try:
        store = meet(told, args.wait)
        build_accelerator(Precision.fp32)  # opens the process group, where there is one
        ranks = Ranks.current()
        # Ranks that did not find each other are judged one by one.
        meeting = store if ranks.world == told.world else None
        preflight(needs, ranks, lambda line: console.print(line, markup=False, soft_wrap=True), meeting)
    except PreflightError as error:
        if not error.said:
            sys.stderr.write(f"preflight: {error}\n")
        return 1
    return 0


def slurm_ranks(environ: Mapping[str, str]) -> dict[str, str]:
    """What a task of srun that nobody has prepared must be told to find the others; nothing elsewhere."""
    tasks = environ.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" in environ or "SLURM_PROCID" not in environ or tasks == "1":
        return {}
    port = _FIRST_PORT + int(environ["SLURM_JOB_ID"]) % _PORTS
    return {
        "RANK": environ["SLURM_PROCID"],
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "WORLD_SIZE": tasks,
        "MASTER_ADDR": first_host(environ["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(port),
    }


def first_host(nodes: str) -> str:
    """The first name of a list as Slurm spells it: ``n[03-07,9],m1`` -> ``n03``."""
    found = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    if found is None:
        raise ValueError(f"SLURM_STEP_NODELIST = {nodes}: is no list of hosts")
    return "".join(part or "" for part in found.groups())
