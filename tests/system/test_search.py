"""Whole searches: from the command line to the front, by several processes, killed, resumed, and shown in MLflow."""

from __future__ import annotations

import csv
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from ssvae.config.compose import resolve
from ssvae.config.search_metrics import measured_metrics, probed_metrics
from ssvae.core.files import read_json
from tiny_runs import TINY, command, environment, link_data, run_apart, run_here

pytestmark = pytest.mark.system
SEARCH = ("-m", "+sweep=reg_weights", "search.prune.warmup=1", "search.prune.keep=0.5")
FEWER = ("stages.base=null", "stages.probe_base=null", "search.prune=null")
"""A trial of three stages less, for what is about processes."""
TRACKED = ("track=mlflow", "track.every_s=0.05", "track.samples=1")


def trials(root: Path) -> list[dict[str, Any]]:
    (path,) = root.glob("runs/sweeps/*/trials.json")
    found: list[dict[str, Any]] = read_json(path)["trials"]
    return found


def states(root: Path) -> list[str]:
    return [trial["state"] for trial in trials(root)]


def computed(root: Path) -> dict[str, tuple[int, int]]:
    """Stage folder -> when it was finished, how often it was begun."""
    done = [*root.glob("runs/stages/*/done.json"), *root.glob("runs/latents/*/done.json")]
    return {str(path): (path.stat().st_mtime_ns, read_json(path.parent / "run.json")["attempts"]) for path in done}


def rows(root: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(root / "runs" / "mlflow.db")) as connection:
        return connection.execute(query).fetchall()


def test_a_search_from_the_command_line_to_the_front(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(*SEARCH, "search.n_trials=4", *TRACKED) == 0
    said = capsys.readouterr().out
    first = trials(root)
    assert sorted({trial["state"] for trial in first}) == ["complete", "pruned"], "this seed prunes"
    assert [trial["number"] for trial in first] == [0, 1, 2, 3]
    (folder,) = (root / "results").iterdir()
    assert {path.name for path in folder.iterdir()} >= {"table.csv", "trials.csv", "trials.md", "pareto.png"}

    # The numbers are those of the cells, and only survivors had a probe.
    with (folder / "table.csv").open() as file:
        table = {row["cell_id"]: row for row in csv.DictReader(file)}
    for trial in first:
        row = table[trial["cell_id"]]
        assert float(row["psnr_db"]) == trial["cheap"]
        assert row["trial"] == str(trial["number"])
        if trial["state"] == "complete":
            assert trial["values"] == [float(row["psnr_db"]), float(row["probe_fd"])]
        else:
            assert row["probe_fd"] == "" and "pruned" in row["reason"]
    assert "optuna-dashboard sqlite:///" in said
    assert " again: python run.py " in said
    best = [trial for trial in first if trial["state"] == "complete"]

    # A record speaks of the whole trial, its cheap part included.
    for trial in first:
        (path,) = root.glob(f"runs/sweeps/*/cells/{trial['cell_id']}.json")
        record = read_json(path)
        assert record["reused"] == ([] if trial["number"] == 0 else ["base"])
        spent = sum(
            read_json(root / where / "done.json")["seconds"]
            for name, where in record["stages"].items()
            if name not in record["reused"]
        )
        assert record["seconds"] >= spent

    # The base has no searched value in it: all trials share it.
    assert len(list(root.glob("runs/stages/base-*"))) == 1

    _names_are_as_foretold(root, best[0]["cell_id"])
    _runs_tell_of_trials(root, first)

    # The same command finds everything; a larger number of trials goes on.
    before = computed(root)
    assert run_here(*SEARCH, "search.n_trials=4", *TRACKED) == 0
    assert trials(root) == first
    assert computed(root) == before
    assert run_here(*SEARCH, "search.n_trials=5", *TRACKED) == 0
    assert trials(root)[:4] == first and len(trials(root)) == 5
    assert {path: mark for path, mark in computed(root).items() if path in before} == before
    _the_command_makes_the_cell_again(root, best[0])


def _names_are_as_foretold(root: Path, cell: str) -> None:
    """What the checks know of metrics before anything is computed is what cells have."""
    (record,) = root.glob(f"runs/sweeps/*/cells/{cell}.json")
    folders = read_json(record)["stages"]
    (resolved,) = resolve((*TINY, "reg=lcr_lmr"))
    for stage, names in (("measure", measured_metrics(resolved.cfg)), ("probe", probed_metrics(resolved.cfg))):
        found = {row["name"]: row["direction"] for row in read_json(root / folders[stage] / "metrics.json")}
        left_out = {name for name in names if name.startswith("local_correlation_")}  # windows that do not tile
        binned = {name for name in names if name.startswith("diffusion_loss_t")}  # without a draw in it
        assert set(names) - set(found) <= left_out | binned
        assert found == {name: side for name, side in names.items() if name in found}


def _runs_tell_of_trials(root: Path, found: list[dict[str, Any]]) -> None:
    ((sweep,),) = rows(root, "SELECT run_uuid FROM tags WHERE key = 'role' AND value = 'sweep'")
    runs = rows(root, "SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId' AND value = '" + sweep + "'")
    assert len(runs) == len(found)
    tags: dict[str, dict[str, str]] = {}
    for run, key, value in rows(root, "SELECT run_uuid, key, value FROM tags"):
        tags.setdefault(run, {})[key] = value
    shown = {tags[run]["trial"]: tags[run] for (run,) in runs}
    params = rows(root, "SELECT run_uuid, value FROM params WHERE key = 'strength.lcr'")
    lcr = {tags[run]["trial"]: value for run, value in params if run != sweep}
    for trial in found:
        mine = shown[str(trial["number"])]
        assert mine["trial_state"] == trial["state"]
        assert float(lcr[str(trial["number"])]) == trial["params"]["strength.lcr"]
        if trial["state"] == "complete":
            assert [float(mine[f"objective.{name}"]) for name in ("psnr_db", "probe_fd")] == trial["values"]
    assert {status for (status,) in rows(root, "SELECT status FROM runs")} == {"FINISHED"}
    # System metrics go by the clock, and tiny stages share a second.
    counted = "SELECT run_uuid, key, step, COUNT(*) FROM metrics WHERE key NOT LIKE 'system/%'"
    twice = f"{counted} GROUP BY run_uuid, key, step HAVING COUNT(*) > 1"
    assert rows(root, twice) == []


def _the_command_makes_the_cell_again(root: Path, trial: dict[str, Any]) -> None:
    import shlex

    before = computed(root)
    words = shlex.split(trial["command"])[2:]
    tiny = {text.partition("=")[0] for text in TINY}
    assert run_here(*(word for word in words if word.partition("=")[0] not in tiny)) == 0
    assert computed(root) == before, "all of it is there"
    (sweep,) = root.glob("runs/sweeps/*-trial-*")
    assert [path.stem for path in (sweep / "cells").glob("*.json")] == [trial["cell_id"]]


def test_workers_are_processes_and_all_of_them_work(tmp_path: Path, tiny_data: Path) -> None:
    root = link_data(tiny_data, tmp_path)
    given = ("search.n_trials=4", "search.workers=2", *FEWER)
    done = run_apart(root, *SEARCH, *given)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    assert states(root) == ["complete"] * 4
    logs = list(root.glob("runs/sweeps/*/trials/*.log"))
    assert {path.stem for path in logs} == {"0", "1", "2", "3"}
    first, second, third, fourth = ((trial["begun"], trial["begun"] + trial["seconds"]) for trial in trials(root))
    assert second[0] < first[1], "two at once"
    assert min(third[0], fourth[0]) >= min(first[1], second[1]), "and never three"
    assert third[0] < max(first[1], second[1]), "the next one waits for no batch"
    assert all(attempts == 1 for _, attempts in computed(root).values()), "no stage is computed twice"
    assert not list(root.glob("runs/sweeps/*/optuna.journal"))


@contextmanager
def driver(root: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(*SEARCH, *overrides),
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run that was started in the background hands an ignored SIGINT down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Any, *processes: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_drivers_share_a_search_and_one_survives_the_others_death(tmp_path: Path, tiny_data: Path) -> None:
    """Killed in the middle of a training, one of them leaves a trial, which the other goes on with."""
    root = link_data(tiny_data, tmp_path)
    given = ("search.storage=journal", "search.n_trials=4", "train.steps=60", *FEWER)

    def checkpoints() -> list[Path]:
        return list(root.glob("runs/stages/pretrain-*/checkpoint.pt"))

    with driver(root, *given) as first:
        wait_until(checkpoints, first)
        with driver(root, *given) as second:
            os.kill(first.pid, signal.SIGKILL)
            first.wait()
            (cut,) = {path.parent for path in checkpoints()}
            output = second.communicate(timeout=400)
    assert second.returncode == 0, output
    found = trials(root)
    assert [trial["state"] for trial in found] == ["complete"] * 4, "four in all, and the dead one is none of them"
    assert len({str(trial["params"]) for trial in found}) == 4
    assert read_json(cut / "run.json")["attempts"] == 2, "its checkpoint was gone on with"
    assert len(list(root.glob("runs/stages/pretrain-*/done.json"))) == 4
    assert run_apart(root, *SEARCH, *given).returncode == 0
    assert trials(root) == found
    assert list(root.glob("runs/sweeps/*/optuna.journal"))


def test_two_drivers_at_once_never_do_too_much(tmp_path: Path, tiny_data: Path) -> None:
    root = link_data(tiny_data, tmp_path)
    given = ("search.n_trials=5", *FEWER)
    with driver(root, *given) as first, driver(root, *given) as second:
        outputs = [process.communicate(timeout=400) for process in (first, second)]
        assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert states(root) == ["complete"] * 5
    assert len(list(root.glob("runs/stages/pretrain-*"))) == 5
    assert all(attempts == 1 for _, attempts in computed(root).values())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_polite_end_gives_the_trials_back(workers: int, tmp_path: Path, tiny_data: Path) -> None:
    root = link_data(tiny_data, tmp_path)
    given = (f"search.workers={workers}", "search.n_trials=3", "train.steps=200", *FEWER)
    with driver(root, *given) as process:
        wait_until(lambda: list(root.glob("runs/stages/pretrain-*/checkpoint.pt")), process)
        mine = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGINT if workers == 2 else signal.SIGTERM)
        output = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "goes on from there" in output[0]
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in mine)
    assert set(states(root)) == {"waiting"}
    records = [read_json(path)["status"] for path in root.glob("runs/sweeps/*/cells/*.json")]
    assert set(records) == {"killed"}


def test_a_failing_trial_is_named_and_the_others_go_on(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = "search.space=[{key:train.lr,choices:[0.001,1e30]},{key:train.weight_decay,low:0.0,high:0.1}]"
    given = ("search.sampler=random", "train.nonfinite_limit=0", "search.failures=0.9", space, *FEWER)
    assert run_here(*SEARCH, *given, "search.n_trials=5", "stage=all") == 1
    found = trials(root)
    assert sorted({trial["state"] for trial in found}) == ["complete", "failed"]
    for trial in found:
        assert (trial["state"] == "failed") == (trial["params"]["train.lr"] == "1e+30")
        assert trial["state"] != "failed" or "NonFiniteLoss" in trial["reason"]
    assert "failed: pretrain: NonFiniteLoss" in capsys.readouterr().out


def test_another_search_under_a_name_is_refused_and_nothing_is_written(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(*SEARCH, "search.n_trials=1", "sweep.name=mine", *FEWER) == 0
    before = trials(root)
    capsys.readouterr()
    assert run_here(*SEARCH, "search.n_trials=2", "sweep.name=mine", "train.steps=5", *FEWER) == 2
    assert "base cell" in (said := capsys.readouterr().err) and "another sweep.name" in said
    assert run_here(*SEARCH, "search.n_trials=2", "sweep.name=mine", "search.seed=7", *FEWER) == 2
    assert "search.seed = 7" in capsys.readouterr().err
    assert trials(root) == before


def test_a_bad_space_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], process_state: None
) -> None:
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path))
    assert run_here(*SEARCH, "search.space=[{key:strength.lccr,low:0.1,high:1}]") == 2
    assert "did you mean strength.lcr" in capsys.readouterr().err
    assert run_here(*SEARCH, "launch.parallel=2") == 2
    assert "search.workers" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "sweeps").exists()
    assert not (tmp_path / "runs" / "data").exists()
