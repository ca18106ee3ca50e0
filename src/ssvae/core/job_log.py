"""The log that says why a job ended badly. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

TAIL_BYTES = 1 << 16
"""How much of the end of a log is read: logs grow without bound, and stand on shared file systems."""

_RANK = re.compile(r"_(\d+)_log\.(?:err|out)$")
_CAUSE = re.compile(r"oom[_-]kill|Out Of Memory|DUE TO|Killed|Segmentation fault|Bus error")
"""What Slurm and shells say of the death itself."""
_TROUBLE = re.compile(rf"Traceback \(most recent call last\)|CANCELLED|Aborted|srun: error|{_CAUSE.pattern}")
ECHO = re.compile(
    r"closed by peer|Connection (?:reset|refused|aborted)|Broken pipe|Socket Timeout|DistBackendError|ProcessGroup"
    r"|NCCL|[Gg]loo|c10d|Terminated|srun: error|StepId=\S+ aborted",
)
"""How a rank dies when another one has died before it."""


def telling_log(folder: Path, rank: int | None = None) -> Path | None:
    """The log below the job's folder that says most: of ``rank`` where the one that failed is known.

    Otherwise standard error before standard output; of these, one that tells of trouble before one that tells of
    another rank's trouble only, and before silence; of equal ones the first rank's of the latest attempt.
    """
    logs = [path for path in sorted((folder / "log").rglob("*")) if path.suffix in (".err", ".out", ".log")]
    logs = [path for path in logs if path.is_file() and path.stat().st_size > 0]
    logs = [path for path in logs if _rank(path) == rank] or logs if rank is not None else logs
    return min(logs, key=_order) if logs else None


def log_tail(folder: Path, lines: int = 20, rank: int | None = None) -> str:
    """The last ``lines`` lines of :func:`telling_log`, without blank ones at the end; empty where there is no log."""
    path = telling_log(folder, rank)
    return "\n".join(_last_lines(path)[-lines:]) if path is not None else ""


def brief(text: str, lines: int = 3, width: int = 160) -> str:
    """The end of a log on one line: its last lines, each cut to ``width`` characters."""
    kept = [" ".join(line.split()) for line in text.splitlines() if line.strip()][-lines:]
    return " | ".join(line if len(line) <= width else line[: width - 3] + "..." for line in kept)


def _order(path: Path) -> tuple[int, int, float]:
    tail = _last_lines(path)
    trouble = any(_TROUBLE.search(line) for line in tail)
    if not trouble:
        grade = 2 if path.suffix == ".err" else 3
    else:
        grade = 1 if _is_echo(tail) else 0
    rank = _rank(path)
    # Later attempts have logs of their own where the scheduler has given the job another number.
    return (grade, 0 if rank is None else rank, -path.stat().st_mtime)


def _is_echo(tail: Sequence[str]) -> bool:
    """Does the last error that is named come from another rank's death?"""
    named = [line for line in tail if re.match(r"\s*(?:\[rank\d+\]:?\s*)?[\w.]+(?:Error|Exception|Interrupt)\b", line)]
    if not named:
        return not any(_CAUSE.search(line) for line in tail)
    return bool(ECHO.search(named[-1]))


def _rank(path: Path) -> int | None:
    found = _RANK.search(path.name)
    return int(found.group(1)) if found else None


def _last_lines(path: Path) -> list[str]:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    lines = text.rstrip().splitlines()
    # The first piece of a long log begins in the middle of a line.
    return lines[1:] if size > TAIL_BYTES and len(lines) > 1 else lines
