"""Which metrics come first, what they are called on screen, and how numbers are rounded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

from ssvae.core.types import MetricValue
from ssvae.report.collect import CellRow

FIRST_METRICS = (
    "psnr_db",
    "ssim",
    "lpips_vgg",
    "lpips_alex",
    "rfvd",
    "local_correlation",
    "dct_high_share",
    "dct_dc_share",
    "explained_variance_8",
    "participation_ratio",
    "viv",
    "kl_per_dim",
    "diffusion_loss",
    "probe_fd",
    "probe_fd_gaussian",
    "probe_reward*",
    "fdd",
    "fvd",
    "reward_mean",
    "reward_final",
)
"""Order of metric columns; ``*`` stands for any ending. Every other metric follows alphabetically."""

MAIN_METRICS = (
    "psnr_db",
    "ssim",
    "lpips_vgg",
    "lpips_alex",
    "rfvd",
    "local_correlation",
    "dct_high_share",
    "explained_variance_8",
    "participation_ratio",
    "viv",
    "diffusion_loss",
    "probe_fd",
    "probe_reward",
    "fdd",
    "fvd",
    "reward_mean",
)
"""Columns of the readable tables, where present."""

BASELINES = {"psnr_mean_colour_db": "mean colour PSNR", "psnr_down8_db": "8x down/up PSNR"}
"""Properties of the clips, not of a cell: they stand below the readable table."""

_LABELS = {
    "psnr_db": "PSNR dB",
    "ssim": "SSIM",
    "lpips_vgg": "LPIPS VGG",
    "lpips_alex": "LPIPS Alex",
    "rfvd": "rFVD",
    "psnr_masked_0.5_db": "PSNR half masked dB",
    "viv": "VIV",
    "local_correlation": "local corr.",
    "dct_high_share": "DCT high",
    "dct_dc_share": "DCT DC",
    "explained_variance_8": "EV@8",
    "participation_ratio": "part. ratio",
    "kl_per_dim": "KL/dim",
    "diffusion_loss": "diff. loss",
    "probe_fd": "probe FD",
    "probe_reward": "probe reward",
    "fdd": "FDD",
    "fvd": "FVD",
    "reward_mean": "reward",
    "reward_final": "reward, final",
}
_ARROWS = {"up": " ↑", "down": " ↓", "none": ""}


def metric_order(names: Iterable[str]) -> list[str]:
    """``names`` without repeats, in the order of table columns."""

    def key(name: str) -> tuple[int, str]:
        for rank, pattern in enumerate(FIRST_METRICS):
            if name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1])):
                return rank, name
        return len(FIRST_METRICS), name

    return sorted(set(names), key=key)


def is_part(name: str) -> bool:
    """Is a metric a part of another one, as a loss in a range of times is?"""
    return re.search(r"_t\d+of\d+$", name) is not None


def present(rows: Sequence[CellRow], names: Iterable[str]) -> list[str]:
    """Those of ``names`` that have a value in at least one row, in the given order."""
    return [name for name in names if any(row.value(name) is not None for row in rows)]


def example(rows: Sequence[CellRow], name: str) -> MetricValue:
    """One value of a metric: unit, direction and protocol are the same in every row."""
    return next(row.metrics[name] for row in rows if name in row.metrics)


def heading(rows: Sequence[CellRow], name: str) -> str:
    """Column heading with an arrow for the better direction."""
    return _LABELS.get(name, name) + _ARROWS[example(rows, name).direction]


def rounded(value: float | None) -> str:
    """Four significant digits; empty for a missing or NaN value."""
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value) or value == 0.0:
        return f"{value:g}"
    digits = 3 - math.floor(math.log10(abs(value)))
    if digits > 7 or digits < -2:
        return f"{value:.3e}"
    return f"{value:.{max(0, digits)}f}"


def other_fields(rows: Iterable[CellRow]) -> list[str]:
    """Names of the swept values beyond reg, channels, resolution and seed, in alphabetical order."""
    return sorted({name for row in rows for name in row.others})


def field_text(row: CellRow, name: str) -> str:
    """A swept value as text, empty where the cell has none."""
    value = row.fields.get(name)
    return "" if value is None else str(value)


def best_cells(rows: Sequence[CellRow], name: str) -> set[str]:
    """Ids of the finished cells with the best value of a metric (several on a tie), empty if it has no better side.

    Compare only what is alike: call it with the rows of one channel count and resolution. One row has no best.
    """
    direction = example(rows, name).direction if present(rows, [name]) else "none"
    values = {row.cell_id: row.value(name) for row in rows if row.status == "finished"}
    known = {cell: value for cell, value in values.items() if value is not None}
    if direction == "none" or len(known) < 2:
        return set()
    choose: Callable[[Iterable[float]], float] = max if direction == "up" else min
    best = choose(known.values())
    return {cell for cell, value in known.items() if value == best}


def groups(rows: Sequence[CellRow], names: Sequence[str]) -> dict[tuple[str, ...], list[CellRow]]:
    """Rows by their values of the fields ``names``, in order of appearance."""
    found: dict[tuple[str, ...], list[CellRow]] = {}
    for row in rows:
        found.setdefault(tuple(field_text(row, name) for name in names), []).append(row)
    return found


def baseline_of(row: CellRow, bases: Sequence[list[CellRow]], ignored: Sequence[str] = ()) -> list[CellRow]:
    """The baseline setting whose other fields all equal the row's; of several the one that shares most, [] for none.

    A baseline may lack a field that does not act on it, such as the strength of a regulariser it has not. Fields
    ``ignored`` may differ.
    """

    def counted(base: list[CellRow]) -> dict[str, str]:
        return {name: value for name, value in base[0].others.items() if name not in ignored}

    fitting = [base for base in bases if counted(base).items() <= row.others.items()]
    return max(fitting, key=lambda base: len(counted(base)), default=[])
