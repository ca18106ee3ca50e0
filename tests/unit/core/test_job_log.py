"""Which log says why a job ended badly, and what of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssvae.core.job_log import TAIL_BYTES, brief, log_tail, telling_log

TRACE = "Traceback (most recent call last):\n  File 'x.py', line 1\n"
ECHO = TRACE + "torch.distributed.DistBackendError: Connection closed by peer [127.0.0.1]:1\n"
CAUSE = TRACE + "ValueError: the clip is empty\n"


def write(folder: Path, **texts: str) -> None:
    (folder / "log").mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / "log" / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"rank_0_log__err": ECHO, "rank_1_log__err": CAUSE, "rank_2_log__err": ECHO}, "rank_1_log.err"),
        ({"rank_0_log__err": "warning\n", "rank_0_log__out": "step 1\n"}, "rank_0_log.err"),
        ({"rank_0_log__err": "", "rank_0_log__out": "step 1\n"}, "rank_0_log.out"),
        ({"rank_0_log__out": CAUSE, "rank_1_log__err": "a warning\n"}, "rank_0_log.out"),
        ({"rank_0_log__err": ECHO, "slurm__err": "slurmstepd: error: Detected 1 oom_kill event\n"}, "slurm.err"),
        ({"rank_0_log__err": ECHO, "slurm__err": "srun: error: n1: task 1: Killed\n"}, "slurm.err"),
        ({"rank_0_log__err": CAUSE, "slurm__err": "srun: error: n1: task 0: Exited with 1\n"}, "rank_0_log.err"),
        # Logs go on over attempts: the last error in each counts.
        ({"rank_0_log__err": ECHO + CAUSE, "rank_1_log__err": CAUSE + ECHO}, "rank_0_log.err"),
    ],
)  # fmt: skip
def test_the_log_of_the_rank_that_failed(texts: dict[str, str], expected: str, tmp_path: Path) -> None:
    write(tmp_path, **texts)
    found = telling_log(tmp_path)
    assert found is not None and found.name == expected


def test_a_known_rank_is_believed(tmp_path: Path) -> None:
    write(tmp_path, rank_0_log__err=CAUSE, rank_1_log__err="nothing\n")
    assert log_tail(tmp_path, rank=1) == "nothing"
    assert log_tail(tmp_path, rank=7).endswith("the clip is empty"), "no log of that rank: the best there is"


def test_logs_of_the_latest_number_come_first(tmp_path: Path) -> None:
    write(tmp_path, **{"12_0_log__err": CAUSE, "9_0_log__err": CAUSE.replace("empty", "new")})
    os.utime(tmp_path / "log" / "12_0_log.err", (1, 1))
    assert "new" in log_tail(tmp_path)


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    assert log_tail(tmp_path) == "" and telling_log(tmp_path) is None
    write(tmp_path, rank_0_log__err="".join(f"line {n}\n" for n in range(40000)) + "\n\n")
    assert (tmp_path / "log" / "rank_0_log.err").stat().st_size > 4 * TAIL_BYTES
    assert log_tail(tmp_path, lines=2) == "line 39998\nline 39999"
    all_of_it = log_tail(tmp_path, lines=100000)
    assert len(all_of_it) <= TAIL_BYTES and all(line.startswith("line ") for line in all_of_it.splitlines())


def test_bytes_that_are_no_text_are_shown_anyway(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "rank_0_log.err").write_bytes(b"bad \xff byte\n")
    assert log_tail(tmp_path) == "bad � byte"


def test_a_brief_end() -> None:
    assert brief("a\n\n  b \tc\nd\ne\n") == "b c | d | e"
    assert brief("x" * 300, width=20) == "x" * 17 + "..."
    assert brief("") == ""
