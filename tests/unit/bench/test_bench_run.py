"""The whole report: its schema, the order check -> time, and the choice of figures."""

from __future__ import annotations

import json

import pytest

from ssvae.bench import NAMES, cell
from ssvae.bench import run as bench_run
from ssvae.bench.pair import NotEqualError, Pair
from ssvae.core.progress import Silent


def fake_pair(name: str, log: list[str], difference: float = 0.0) -> Pair:
    def note(what: str) -> None:
        log.append(f"{what} {name}")

    def check() -> float:
        note("check")
        return difference

    return Pair(name, "nothing", "tests", lambda: note("fast"), lambda: note("naive"), check, 0.0)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two modules of fake pairs and a fake cell."""
    log: list[str] = []
    monkeypatch.setattr(
        bench_run,
        "PAIRS",
        {"one": lambda: [fake_pair("a", log), fake_pair("b", log)], "two": lambda: [fake_pair("c", log)]},
    )
    monkeypatch.setattr(cell, "measure_cell", lambda: cell.CellFigure(1.0, 2.0, {"imports": 1.0}, 1.0))
    return log


def test_report(log: list[str]) -> None:
    found = bench_run.run_bench(["one", "two", "cell"], 0.0, Silent())
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [row["name"] for row in found["figures"]] == ["a", "b", "c", "cell_overhead"]
    assert {"machine", "versions", "commit", "dirty", "figures", "started", "seconds", "schema"} <= found.keys()
    assert {"cpu", "cores", "threads", "accelerators"} <= found["machine"].keys()
    for row in found["figures"][:3]:
        assert row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
    keys = {"name", "what", "unit", "median", "reference", "ratio", "ratio_min", "ratio_max", "pairs", "equal"}
    assert all(keys <= row.keys() for row in found["figures"])


def test_all_checks_come_before_any_timing(log: list[str]) -> None:
    bench_run.run_bench(["one", "two"], 0.0, Silent())
    assert log[:3] == ["check a", "check b", "check c"]
    assert log[3:5] == ["fast a", "fast a"]


def test_only_what_is_chosen(log: list[str]) -> None:
    found = bench_run.run_bench(["two"], 0.0, Silent())
    assert [row["name"] for row in found["figures"]] == ["c"]
    assert not any(line.endswith((" a", " b")) for line in log)


def test_an_unequal_pair_stops_everything_before_timing(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run, "PAIRS", {"one": lambda: [fake_pair("a", log), fake_pair("bad", log, 0.5)]})
    with pytest.raises(NotEqualError, match="bad"):
        bench_run.run_bench(["one"], 0.0, Silent())
    assert log == ["check a", "check bad"]


def test_names_are_the_modules() -> None:
    assert {*bench_run.PAIRS, *bench_run.APART} == set(NAMES)
