"""What a grid would cost: parameters, memory, arithmetic and device-hours, before it is launched.

    python -m ssvae cost exp=paper_256p
    python -m ssvae cost exp=paper_512p reg=none,lcr,lmr,lcr_lmr channels=48,128

Takes the overrides that run.py takes. Paths of data and weights need not be given. Nothing is trained or measured: the
numbers are estimates, and the output says what they assume.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssvae.bench.cost import GridCost

HELP = "parameters, memory, steps and device-hours of a grid before it is launched"
DEVICES = ("h100", "h200", "a100", "cpu")
"""As in bench/cost.py, which help must not have to import."""
RANKS = "devices that share a batch (default: for a VAE a clip each, for the transformer the fewest that it fits on)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="as for run.py: exp=paper_256p reg=none,lcr")
    parser.add_argument("--device", choices=DEVICES, help="default: h100 where a VAE trains in bf16, else cpu")
    parser.add_argument("--ranks", metavar="N", type=int, help=RANKS)
    parser.add_argument(
        "--utilization", metavar="U", type=float, default=0.35, help="share of the peak (default %(default)s)"
    )
    parser.add_argument("--tflops", metavar="X", type=float, help="peak of one device in TFLOP/s, in place of its own")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Raises ValueError for senseless options; exit code 2 for problems of the overrides, all of them named."""
    if args.json is not None and args.json.is_dir():
        raise ValueError(f"--json {args.json}: is a folder; give the file to write")
    from ssvae.bench.cost import Assumed, default_device, grid_cost
    from ssvae.bench.cost_grid import resolve_without_paths
    from ssvae.cli.run import report_problems
    from ssvae.config.problem import InputError
    from ssvae.core.files import write_json
    from ssvae.sweep.console import RichProgress, make_console

    # Options are judged before the grid.
    assumed = Assumed("cpu", args.utilization, args.tflops, args.ranks)
    try:
        cells, absent = resolve_without_paths(args.overrides)
    except InputError as error:
        report_problems(error)
        return 2
    configs = [cell.cfg for cell in cells]
    assumed = Assumed(args.device or default_device(configs), args.utilization, args.tflops, args.ranks)
    console = make_console()
    with RichProgress(console) as progress:
        found = grid_cost(configs, assumed, absent, progress)
    console.print(table(found))
    for line in (*networks(found), *found.notes):
        console.print(line, markup=False, soft_wrap=True)
    if args.json is not None:
        write_json(args.json, found.to_json())
        console.print(f"written: {args.json}", markup=False, soft_wrap=True)
    return 0


def table(found: GridCost) -> Any:
    """One line a stage, and the total. Which activations a stage is configured for says a star."""
    from rich.table import Table

    cells = f"{found.cells} cell{'s' if found.cells > 1 else ''}"
    result = Table(title=f"{cells}, an estimate; a stage that cells share counts once", title_justify="left")
    numbers = ("ch.", "cells", "devices", "params M", "activations GiB", "recomputed GiB", "in all GiB", "TFLOP/step",
               "steps", f"{found.assumed.device}-hours")  # fmt: skip
    for heading in ("stage", "clip", "reg", *numbers):
        result.add_column(heading, justify="right" if heading in numbers else "left")
    several = len({row.stage.cfg.seed for row in found.rows}) > 1
    for row in found.rows:
        cost, load = row.cost, row.cost.load
        kept, recomputed = _gib(cost.kept), _gib(cost.recomputed)
        kept, recomputed = (kept, f"{recomputed}*") if cost.checkpointing else (f"{kept}*", recomputed)
        result.add_row(
            f"{row.stage.name} seed {row.stage.cfg.seed}" if several else row.stage.name,
            "x".join(map(str, cost.clip)), ", ".join(row.stage.regs), str(row.stage.cfg.vae.channels),
            str(len(row.stage.cells)), f"{load.ranks} x {load.clips // load.ranks}",
            _millions(sum(cost.parameters.values())), kept, recomputed, _gib(cost.memory),
            _digits(cost.flops_step / 1e12), f"{cost.steps:,}", _hours(row.hours),
        )  # fmt: skip
    result.add_section()
    empty = [""] * (len(numbers) - 3)
    result.add_row("all", "", "", *empty, _flop(found.flops), "", _hours(found.hours))
    return result


def networks(found: GridCost) -> list[str]:
    """Parameters of each network, a line for every different set of them."""
    lines: dict[str, list[str]] = {}
    for row in found.rows:
        parts = ", ".join(f"{name} {count:,}" for name, count in row.cost.parameters.items())
        stage = f"{row.stage.name} {'/'.join(row.stage.regs)} {row.stage.cfg.vae.channels}"
        lines.setdefault(parts, []).append(stage)
    return [f"Parameters of {', '.join(dict.fromkeys(stages))}: {parts}." for parts, stages in lines.items()]


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f}"


def _flop(value: float) -> str:
    for unit, size in (("E", 1e18), ("P", 1e15)):
        if value >= size:
            return f"{_digits(value / size)} {unit}FLOP"
    return f"{_digits(value / 1e12)} TFLOP"


def _digits(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"


def _hours(hours: float | None) -> str:
    return "-" if hours is None else _digits(hours)
