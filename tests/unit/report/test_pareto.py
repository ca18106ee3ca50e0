"""The front by its definition, the files of a search by what they must say, equal bytes for equal trials."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ssvae.core.files import read_json, write_json
from ssvae.report.pareto import Goal, Search, TrialRow, front, read_search, search_file
from ssvae.report.pareto_figure import search_figure
from ssvae.report.pareto_table import trials_csv, trials_markdown, trials_table
from ssvae.report.pareto_write import write_search

UP_DOWN = (Goal("psnr_db", "maximize"), Goal("probe_fd", "minimize"))
PRUNE = {"metric": "psnr_db", "direction": "maximize", "keep": 0.75, "warmup": 2}


def row(number: int, *values: float, state: str = "complete", **more: Any) -> TrialRow:
    plain = TrialRow(
        number, state, {"strength.lcr": 0.123456789 * (number + 1)}, values or None, f"cell{number}", None, None, 1.5,
        f"python run.py strength.lcr={number}",
    )  # fmt: skip
    return replace(plain, **more)


def search(trials: Sequence[TrialRow], goals: Sequence[Goal] = UP_DOWN, **more: Any) -> Search:
    plain = Search("s", "python run.py -m +sweep=s", 9, tuple(goals), None, ("strength.lcr",), tuple(trials))
    return replace(plain, **more)


def numbers(trials: Sequence[TrialRow]) -> list[int]:
    return [trial.number for trial in trials]


def test_the_front_by_hand() -> None:
    trials = [row(0, 20.0, 30.0), row(1, 25.0, 35.0), row(2, 24.0, 36.0), row(3, 20.0, 30.0), row(4, 19.0, 40.0)]
    assert numbers(front(trials, UP_DOWN)) == [0, 1, 3], "2 is worse than 1 in both; equal ones stay"
    assert numbers(search(trials).best) == [1, 0, 3], "along the first objective"


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_no_trial_of_the_front_is_beaten_and_every_other_one_is(objectives: int) -> None:
    draw = random.Random(objectives)
    goals = [Goal(f"m{k}", draw.choice(["maximize", "minimize"])) for k in range(objectives)]  # type: ignore[arg-type]
    trials = [row(n, *(float(draw.randint(0, 6)) for _ in goals)) for n in range(60)]

    def beats(a: TrialRow, b: TrialRow) -> bool:
        assert a.values is not None and b.values is not None
        gains = [
            (x - y) * (1 if goal.direction == "maximize" else -1)
            for goal, x, y in zip(goals, a.values, b.values, strict=True)
        ]
        return min(gains) >= 0 and max(gains) > 0

    best = numbers(front(trials, goals))
    for trial in trials:
        assert (trial.number in best) == (not any(beats(other, trial) for other in trials))


def test_only_complete_trials_are_on_it() -> None:
    trials = [row(0, 20.0, 30.0), row(1, state="pruned", cheap=99.0), row(2, state="failed"), row(3, state="running")]
    assert numbers(search(trials).best) == [0]
    assert search([]).best == []


def mixed() -> Search:
    trials = [
        row(0, 20.0, 30.0, cheap=20.0),
        row(1, 25.123456789, 35.0, cheap=25.123456789),
        row(2, 19.0, 36.0, cheap=19.0),
        row(3, state="pruned", cheap=15.0, reason="pruned: psnr_db 15 is place 4 of 4"),
        row(4, state="failed", reason="pretrain: NonFiniteLoss:\nstep 3"),
    ]
    return search(trials, prune=PRUNE)


def test_csv_has_every_trial_in_full() -> None:
    rows = list(csv.DictReader(io.StringIO(trials_csv(mixed()))))
    assert [row["state"] for row in rows] == ["complete"] * 3 + ["pruned", "failed"]
    assert [row["front"] for row in rows] == ["1", "1", "0", "0", "0"]
    assert float(rows[1]["psnr_db"]) == 25.123456789
    assert float(rows[1]["strength.lcr"]) == 0.123456789 * 2
    assert (rows[3]["psnr_db"], rows[3]["probe_fd"]) == ("15.0", ""), "a pruned one has what it was pruned by"
    assert "NonFiniteLoss" in rows[4]["reason"]


def test_a_statistic_that_is_no_objective_has_its_own_column() -> None:
    found = search([row(0, 20.0, 30.0, cheap=0.25)], prune={**PRUNE, "metric": "dct_high_share"})
    (line,) = csv.DictReader(io.StringIO(trials_csv(found)))
    assert (line["psnr_db"], line["probe_fd"], line["dct_high_share"]) == ("20.0", "30.0", "0.25")
    assert "`dct_high_share`" in trials_markdown(found)


def test_markdown_says_what_was_done_what_is_best_and_how_to_make_it_again() -> None:
    text = trials_markdown(mixed())
    assert "3 complete, 1 failed, 1 pruned" in text
    assert "best 75 % so far; the first 2 did in any case" in text
    best = text.partition("## Pareto front")[2].partition("## Every trial")[0]
    assert "| 1 | complete | 25.12 | 35.00 |" in best and "| 2 |" not in best
    assert "python run.py strength.lcr=1\n" in best and "strength.lcr=2\n" not in best
    assert "one seed" in best
    assert "- trial 4: pretrain: NonFiniteLoss: step 3" in text


def test_the_terminal_shows_the_front_first() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(trials_table(mixed()))
    lines = [line.split() for line in console.export_text().splitlines() if "complete" in line or "pruned" in line]
    assert [line[0] for line in lines[1:]] == ["*1", "*0", "2", "3"]
    assert mixed().best_lines()[0] == "trial 1 again: python run.py strength.lcr=1"


def test_many_trials_are_cut_and_counted() -> None:
    many = search([row(n, 20.0 + n, 30.0) for n in range(40)])
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(trials_table(many))
    text = " ".join(console.export_text().split())
    assert "28 more trials in trials.csv" in text
    assert "*39" in text


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "goals", [UP_DOWN, UP_DOWN[:1], (*UP_DOWN, Goal("viv", "minimize"))], ids=["two", "one", "three"]
)
def test_a_figure_of_any_number_of_trials(count: int, goals: Sequence[Goal], tmp_path: Path) -> None:
    """Equal trials give equal bytes, and what another kind of search left is taken away."""
    trials = [row(n, *[float((n + 1) * (k + 2) % 5) for k in range(len(goals))]) for n in range(count)]
    found = search([*trials, row(9, state="pruned", cheap=1.0)], goals, prune=PRUNE)
    (tmp_path / "a" / "pareto.png").parent.mkdir()
    for name in ("pareto.png", "history.png"):
        (tmp_path / "a" / name).write_bytes(b"old")
    paths = write_search(found, [], tmp_path / "a")
    again = write_search(found, [], tmp_path / "b")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in paths}
    assert paths[-1].name == ("pareto.png" if len(goals) > 1 else "history.png")


def test_the_figure_marks_the_front_and_joins_it_by_stairs() -> None:
    trials = [row(0, 20.0, 30.0), row(1, 25.0, 35.0), row(2, 23.0, 33.0), row(3, 19.0, 40.0)]
    (axes,) = search_figure(search(trials), []).axes
    others, best = (sorted(map(tuple, points.get_offsets().tolist())) for points in axes.collections)
    assert others == [(19.0, 40.0)]
    assert best == [(20.0, 30.0), (23.0, 33.0), (25.0, 35.0)]
    (stairs,) = axes.lines
    assert list(zip(*stairs.get_data(), strict=True)) == [
        (25.0, 35.0), (23.0, 35.0), (23.0, 33.0), (20.0, 33.0), (20.0, 30.0),
    ]  # fmt: skip
    assert {text.get_text() for text in axes.texts} == {"0", "1", "2"}


def test_one_objective_is_drawn_with_its_best_so_far() -> None:
    trials = [row(n, value) for n, value in enumerate([5.0, 7.0, 3.0, 4.0])]
    (axes,) = search_figure(search(trials, (Goal("probe_fd", "minimize"),)), []).axes
    assert axes.lines[0].get_ydata().tolist() == [5.0, 5.0, 3.0, 3.0]


def test_a_search_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = search_file(tmp_path, "s")
    trial = {
        "number": 3, "state": "complete", "params": {"strength.lcr": 0.1}, "values": [20, 30.5], "cell_id": "c",
        "cheap": None, "place": None, "reason": None, "seconds": 2.0, "command": "python run.py",
    }  # fmt: skip
    whole = {
        "sweep": "s", "command": "c", "n_trials": 9, "sampler": "tpe", "seed": 0,
        "objectives": [{"metric": goal.metric, "direction": goal.direction} for goal in UP_DOWN],
        "prune": PRUNE, "keys": ["strength.lcr"], "trials": [trial, {**trial, "number": 4, "state": "pruned"}],
    }  # fmt: skip
    write_json(path, whole)
    found = read_search(tmp_path, "s")
    assert (found.goals, found.keys, found.prune) == (UP_DOWN, ("strength.lcr",), PRUNE)
    assert [trial.values for trial in found.trials] == [(20.0, 30.5), None]
    write_json(path, {name: value for name, value in read_json(path).items() if name != "keys"})
    with pytest.raises(ValueError, match=r"damaged .*run the search's command again"):
        read_search(tmp_path, "s")
    with pytest.raises(ValueError, match="is no search"):
        read_search(tmp_path, "other")
