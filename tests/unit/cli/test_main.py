"""The command line itself: help without torch, exit codes, one clear line for a mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ssvae.bench import NAMES
from ssvae.bench import run as bench_run
from ssvae.bench.pair import NotEqualError
from ssvae.cli.main import VERBS, main


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in VERBS)])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in (VERBS if words == ["--help"] else [words[0]]))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom ssvae.cli.main import main\n"
        "try:\n    main(['bench', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'hydra', 'matplotlib', 'mlflow', 'rich', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "ssvae", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "nonsense" in done.stderr and "status" in done.stderr  # names what exists


@pytest.mark.parametrize(
    "words", [[], ["report"], ["bench"], ["bench", "--out", "x", "--only", "speed"], ["status", "a", "b"]]
)
def test_bad_command_lines(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["report", "status", "publish"])
@pytest.mark.parametrize("known", [(), ("grid", "other")])
def test_unknown_sweep(verb: str, known: tuple[str, ...], root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in known:
        cells = root / "runs" / "sweeps" / name / "cells"
        cells.mkdir(parents=True)
        (cells / "a.json").write_text("{}")
    before = sorted(root.rglob("*"))
    assert main([verb, "gird"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"{verb}: ") and "'gird'" in said
    assert all(name in said for name in known) if known else "no sweeps" in said
    assert sorted(root.rglob("*")) == before, "nothing is written for bad input"


def test_defects_are_not_reported_as_the_users_mistakes(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    def broken(args: object) -> int:
        raise KeyError("ours")

    monkeypatch.setattr(VERBS["status"], "run", broken)
    with pytest.raises(KeyError):
        main(["status", "x"])


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(VERBS["status"], "run", stopped)
    assert main(["status", "x"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "word"), [(["--seconds", "0"], "--seconds 0"), (["--threads", "0"], "--threads 0"), ([], "is a folder")]
)
def test_bench_refuses_senseless_options(
    more: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json" if more else tmp_path
    assert main(["bench", "--out", str(out), *more]) == 2
    assert word in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_bench_gives_both_sides_equally_many_threads() -> None:
    """Or a ratio to scipy measures two thread pools that fight for the cores."""
    code = (
        "import os\nbefore = dict(os.environ)\nfrom ssvae.cli.bench import load_with_threads\nload_with_threads(1)\n"
        "assert os.environ == before\nimport torch\nfrom threadpoolctl import threadpool_info\n"
        "found = [torch.get_num_threads(), *(pool['num_threads'] for pool in threadpool_info())]\n"
        "assert len(found) > 1 and set(found) == {1}, found"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def fake_report(names: list[str]) -> dict[str, Any]:
    numbers = {"unit": "s", "median": 0.002, "pairs": 3}
    reference = {"where": "x", "median": 0.0085}
    timed = {"name": "a", **numbers, "reference": reference, "ratio": 4.25, "ratio_min": 4.0, "ratio_max": 4.5}
    cell: dict[str, Any] = {"name": "cell_overhead", **numbers, "reference": None, "ratio": None, "limit_s": 5.0}
    cell |= {"parts_s": {"imports": 1.5}, "finished_cpu_s": 3.25}
    machine = {"cpu": "Some CPU", "cores": 2, "threads": 1, "load": [0.5, None]}
    return {"machine": machine, "figures": [timed, cell], "names": names}


def test_bench_writes_and_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_run, "run_bench", lambda names, seconds, progress: fake_report(names))
    out = tmp_path / "new" / "bench.json"
    assert main(["bench", "--out", str(out), "--only", "frechet", "--only", "vae_step"]) == 0
    assert json.loads(out.read_text())["names"] == ["vae_step", "frechet"]  # in the order of the benchmark
    said = capsys.readouterr().out
    shown = ("4.25", "4.00 - 4.50", "limit 5 s", "1.50 s", "3.25 s", "Some CPU")
    assert [text for text in shown if text not in said] == []
    assert main(["bench", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["names"] == list(NAMES)


def test_bench_with_a_wrong_fast_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_bench(names: list[str], seconds: float, progress: object) -> dict[str, Any]:
        raise NotEqualError("a: differs")

    monkeypatch.setattr(bench_run, "run_bench", run_bench)
    assert main(["bench", "--out", str(tmp_path / "bench.json")]) == 1
    assert "a: differs" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_reader_that_has_seen_enough_gets_no_traceback() -> None:
    """``ssvae status SWEEP | head``."""
    program = (
        "import sys; from ssvae.cli import main as verbs\n"
        "verbs.VERBS['status'].run = lambda args: [print('line') for _ in range(1_000_000)] and 0\n"
        "sys.exit(verbs.main(['status', 'grid']))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE
