"""Measure the package's fast paths, each beside a plainly written reference, and the overhead of a cell.

Fast and reference are checked for equal results, then timed in turns in one process (A B A B ...). A ratio above 1
means that many times faster than the reference. Times depend on the machine; ratios much less.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ssvae.bench import NAMES

POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
HELP = "performance benchmark, as JSON and as a table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--only", metavar="NAME", action="append", choices=NAMES, help=f"only this (repeatable): {', '.join(NAMES)}"
    )
    parser.add_argument("--seconds", metavar="S", type=float, default=2.5, help="time a figure (default %(default)s)")
    parser.add_argument(
        "--threads", metavar="N", type=int, default=1, help="threads of torch and of scipy's BLAS (default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Raises ValueError for senseless options; exit code 1 when a fast path is wrong or the tiny cell fails."""
    _check(args)
    load_with_threads(args.threads)
    from ssvae.bench.cell import CellError
    from ssvae.bench.pair import NotEqualError
    from ssvae.bench.run import run_bench
    from ssvae.bench.tracker_stall import StallError
    from ssvae.core.files import write_json
    from ssvae.sweep.console import RichProgress, make_console

    console = make_console()
    names = [name for name in NAMES if args.only is None or name in args.only]
    try:
        with RichProgress(console) as progress:
            found = run_bench(names, args.seconds, progress)
    except (NotEqualError, CellError, StallError) as error:
        console.print(f"bench failed, nothing was written: {error}", markup=False, soft_wrap=True)
        return 1
    write_json(args.out, found)
    console.print(table(found))
    console.print(f"written: {args.out}", markup=False, soft_wrap=True)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.out.is_dir():
        raise ValueError(f"--out {args.out}: is a folder; give the JSON file to write")
    if not args.seconds > 0:
        raise ValueError(f"--seconds {args.seconds:g}: must be above 0")
    if args.threads < 1:
        raise ValueError(f"--threads {args.threads}: must be at least 1")


def load_with_threads(threads: int) -> None:
    """Import torch and scipy with ``threads`` threads each; the environment is left as it was.

    Both sides of a pair must have equally many: on busy cores scipy's own pool, with a thread a core, spins so much
    that a matrix square root takes forty times as long, and a ratio to it says nothing. Pools are sized on loading.
    """
    saved = {name: os.environ.get(name) for name in POOLS}
    os.environ.update(dict.fromkeys(POOLS, str(threads)))
    try:
        import scipy.linalg  # noqa: F401
        import torch
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    torch.set_num_threads(threads)


def table(found: dict[str, Any]) -> Any:
    """The figures of a report as a rich table."""
    from rich.table import Table

    machine = found["machine"]
    title = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; load {_loads(machine['load'])}"
    result = Table(title=title, title_justify="left")
    for heading in ("figure", "median", "reference", "times faster", "range", "pairs"):
        result.add_column(heading, justify="left" if heading == "figure" else "right", no_wrap=True)
    for row in found["figures"]:
        unit, ratio = row["unit"], row["ratio"]
        if ratio is None:
            limit = f"limit {row['limit_s']:g} s"
            result.add_row(row["name"], _number(row["median"], unit), limit, "", "", str(row["pairs"]))
            for part, seconds in row["parts_s"].items():
                result.add_row(f"  {part}", _number(seconds, "s"), "", "", "", "")
            result.add_row("  finished cell, CPU time", _number(row["finished_cpu_s"], "s"), "", "", "", "")
            continue
        reference = _number(row["reference"]["median"], unit)
        spread = f"{row['ratio_min']:.2f} - {row['ratio_max']:.2f}"
        numbers = [_number(row["median"], unit), reference, f"{ratio:.2f}", spread, str(row["pairs"])]
        result.add_row(row["name"], *numbers)
    return result


def _number(value: float, unit: str) -> str:
    if unit != "s":
        return f"{value:.1f} {unit}"
    return f"{value * 1e3:.3g} ms" if abs(value) < 1 else f"{value:.2f} s"


def _loads(loads: list[float | None]) -> str:
    return " -> ".join("?" if load is None else f"{load:.1f}" for load in loads)
