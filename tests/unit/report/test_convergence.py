"""Updates to the baseline's final score: crossings by hand, pairing by seed, what is no number."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from probed_cells import by_step, make_probed
from scipy.stats import t as student

from ssvae.report.collect import collect
from ssvae.report.convergence import Convergence, Crossing, convergence, first_crossing, scored_metrics, speed_ups

X = (100, 200, 300, 400)


def test_never() -> None:
    assert first_crossing(X, (9, 8, 7, 6), 5, "down") == Crossing(None)
    assert first_crossing(X, (1, 2, 3, 4), 5, "up") == Crossing(None)
    assert first_crossing(X, (math.nan,) * 4, 5, "up") == Crossing(None)


def test_at_once() -> None:
    """Before the first checkpoint nothing is known: its updates are a bound."""
    assert first_crossing(X, (4, 3, 2, 1), 5, "down") == Crossing(100, at_first=True, kept=True)
    assert first_crossing(X, (5, 6, 7, 8), 5, "up") == Crossing(100, at_first=True, kept=True)


def test_exactly_at_a_checkpoint() -> None:
    assert first_crossing(X, (9, 8, 5, 4), 5, "down") == Crossing(300, kept=True)
    assert first_crossing(X, (1, 2, 3, 5), 5, "up") == Crossing(400, kept=True)


@pytest.mark.parametrize(("sign", "direction"), [(1.0, "down"), (-1.0, "up")])
def test_between_checkpoints_by_a_straight_line(sign: float, direction: str) -> None:
    """From 8 at 200 to 4 at 300, 5 is three quarters of the way; a score turned over crosses at the same place."""
    y = [sign * value for value in (9, 8, 4, 3)]
    found = first_crossing(X, y, sign * 5, direction)  # type: ignore[arg-type]  # parametrised literal
    assert found == Crossing(275, kept=True)


def test_a_curve_that_crosses_twice_counts_first_and_says_so() -> None:
    assert first_crossing(X, (7, 3, 6, 2), 5, "down") == Crossing(150, kept=False)


def test_a_missing_score_is_passed_by() -> None:
    assert first_crossing(X, (9, math.nan, 5, 4), 7, "down") == Crossing(200, kept=True)


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ValueError, match="direction must be up or down"):
        first_crossing(X, (1, 2, 3, 4), 2, "none")
    with pytest.raises(ValueError, match=r"updates must rise.*\[100, 100\]"):
        first_crossing((100, 100), (1, 2), 2, "up")


def by_cell(found: list[Convergence], metric: str = "probe_fd") -> dict[str, Convergence]:
    return {one.row.cell_id: one for one in found if one.metric == metric}


def test_each_seed_meets_the_baseline_of_its_seed(tmp_path: Path) -> None:
    make_probed(tmp_path, "none", seed=0, steps={"probe_fd": by_step(X, (40, 30, 25, 20))})
    make_probed(tmp_path, "none", seed=1, steps={"probe_fd": by_step(X, (40, 30, 25, 10))})
    for seed in (0, 1, 2):
        make_probed(tmp_path, "lcr", seed=seed, steps={"probe_fd": by_step((100, 300), (25, 5))})
    found = by_cell(convergence(collect(tmp_path, "grid")))
    assert (found["lcr-48-0"].target, found["lcr-48-1"].target) == (20, 10)
    assert found["lcr-48-0"].crossing == Crossing(150, kept=True)
    assert found["lcr-48-1"].crossing == Crossing(250, kept=True)
    assert found["lcr-48-0"].speed_up == pytest.approx(400 / 150)
    # A seed that the baseline lacks meets the mean of its seeds.
    assert (found["lcr-48-2"].target, len(found["lcr-48-2"].bases)) == (15, 2)


def test_the_baseline_is_measured_against_itself(tmp_path: Path) -> None:
    """Its noise shows: it met its last value early once, and stays a row like the others."""
    make_probed(tmp_path, "none", steps={"probe_fd": by_step(X, (40, 20, 25, 20))})
    [one] = convergence(collect(tmp_path, "grid"))
    assert one.crossing == Crossing(200, kept=False)
    assert one.speed_up == 2.0


def test_other_sizes_and_other_fields_have_their_own_baseline(tmp_path: Path) -> None:
    for channels, last in ((48, 20.0), (128, 60.0)):
        for reg in ("none", "lcr"):
            curve = by_step(X, (90, 80, 70, last if reg == "none" else 50))
            make_probed(tmp_path, reg, channels, steps={"probe_fd": curve})
    make_probed(tmp_path, "lcr", 16, steps={"probe_fd": by_step(X, (4, 3, 2, 1))})
    found = by_cell(convergence(collect(tmp_path, "grid")))
    assert (found["lcr-48-0"].target, found["lcr-128-0"].target, found["lcr-16-0"].target) == (20, 60, None)
    assert found["lcr-48-0"].crossing == Crossing(None)
    assert found["lcr-128-0"].crossing == Crossing(350, kept=True)
    assert found["lcr-16-0"].crossing is None


def test_another_baseline_by_name(tmp_path: Path) -> None:
    make_probed(tmp_path, "none", steps={"probe_fd": by_step(X, (40, 30, 25, 20))})
    make_probed(tmp_path, "eq", steps={"probe_fd": by_step(X, (40, 35, 32, 30))})
    rows = collect(tmp_path, "grid")
    assert by_cell(convergence(rows, "eq"))["none-48-0"].crossing == Crossing(200, kept=True)
    with pytest.raises(ValueError, match="baseline 'lcr' is no finished cell's reg: choose one of none, eq"):
        convergence(rows, "lcr")


@pytest.mark.parametrize("name", ["sweep", "probe"])
def test_other_sweeps_and_probes_do_not_share_a_baseline(tmp_path: Path, name: str) -> None:
    """Two ``none`` with equal fields: each row meets its own, never their mean."""
    make_probed(tmp_path, "none", steps={"probe_fd": by_step(X, (40, 30, 25, 20))})
    make_probed(tmp_path, "lcr", steps={"probe_fd": by_step(X, (40, 20, 10, 5))})
    rows = collect(tmp_path, "grid")
    curve = replace(rows[0].curves["by_step/probe_fd"], y=(40.0, 30.0, 25.0, 10.0))
    change: dict[str, Any] = {name: "other"}
    others = [
        replace(rows[0], cell_id="none2", curves={"by_step/probe_fd": curve}, **change),
        replace(rows[1], cell_id="lcr2", **change),
    ]
    found = by_cell(convergence([*rows, *others]))
    assert [found[cell].target for cell in ("none-48-0", "lcr-48-0", "none2", "lcr2")] == [20, 20, 10, 10]
    assert [found[cell].crossing for cell in ("lcr-48-0", "lcr2")] == [
        Crossing(200, kept=True),
        Crossing(300, kept=True),
    ]
    assert len(speed_ups(list(found.values()))) == 4


def test_a_vae_is_a_baseline_across_channels_and_regularisers(tmp_path: Path) -> None:
    last = {("wan22", 48): 20, ("ssvae48", 48): 10, ("wan21", 16): 15}
    for (vae, channels), end in last.items():
        others = {"vae": vae, "weights": "given", "vae.weights": f"{vae}.pt"}
        make_probed(tmp_path, "-", channels, others=others, steps={"fd": by_step(X, (40, 30, 25, end))})
    others = {"weights": "pretrain raw"}
    make_probed(tmp_path, "lcr", 128, others=others, steps={"fd": by_step(X, (40, 30, 20, 18))})
    make_probed(tmp_path, "lcr", 128, seed=1, others=others, steps={"fd": by_step(X, (40, 30, 20, 18))})
    rows = collect(tmp_path, "grid")
    found = {(one.row.fields.get("vae"), one.row.fields["seed"]): one for one in convergence(rows, "vae=wan22")}
    assert [one.target for one in found.values()] == [20] * 5
    assert found["wan21", 0].crossing == Crossing(350, kept=True)
    assert found[None, 1].crossing == Crossing(300, kept=True)
    assert all(one.target is None for one in convergence(rows))
    # A regulariser as the baseline still keeps to its channels.
    assert [one.target for one in convergence(rows, "reg=lcr")] == [None] * 3 + [18] * 2


def test_a_baseline_by_an_unknown_field_or_value_is_refused(tmp_path: Path) -> None:
    make_probed(tmp_path, "-", others={"vae": "wan22"}, steps={"fd": by_step(X, (4, 3, 2, 1))})
    rows = collect(tmp_path, "grid")
    with pytest.raises(ValueError, match="baseline 'wan21' is no finished cell's vae: choose one of wan22"):
        convergence(rows, "vae=wan21")
    with pytest.raises(ValueError, match="no finished cell has a field vea; there are reg, channels, resolution, vae"):
        convergence(rows, "vea=wan22")


def test_direction_comes_from_the_curve_else_from_the_metric(tmp_path: Path) -> None:
    up = by_step(X, (1, 2, 3, 4), None)
    make_probed(tmp_path, "none", scored={"probe_reward": 4.0}, steps={"probe_reward": up, "other": up})
    found = convergence(collect(tmp_path, "grid"))
    assert {one.metric: one.direction for one in found} == {"probe_reward": "up", "other": "none"}
    assert by_cell(found, "other")["none-48-0"].crossing is None


def test_mixed_protocols_of_a_curve_are_refused(tmp_path: Path) -> None:
    for reg in ("none", "lcr"):
        make_probed(tmp_path, reg, steps={"fvd": by_step(X, (4, 3, 2, 1), protocol=f"fvd/{len(reg)}")})
    with pytest.raises(ValueError, match=r"curve by_step/fvd was measured by 2 protocols.*lcr-48-0"):
        collect(tmp_path, "grid")


def test_cells_that_are_not_finished_or_have_no_score_do_not_count(tmp_path: Path) -> None:
    make_probed(tmp_path, "none", steps={"probe_fd": by_step(X, (None,) * 4)})
    make_probed(tmp_path, "lcr", steps={"probe_fd": by_step(X, (4, 3, 2, 1))}, status="failed")
    rows = collect(tmp_path, "grid")
    assert scored_metrics(rows) == []
    assert convergence(rows) == []


def summary(tmp_path: Path, curves: list[list[float]]) -> tuple[float | None, tuple[float, float] | None, int, bool]:
    for seed, y in enumerate(curves):
        make_probed(tmp_path, "none", seed=seed, steps={"probe_fd": by_step(X, (40, 30, 25, 20))})
        make_probed(tmp_path, "lcr", seed=seed, steps={"probe_fd": by_step(X, y)})
    [one] = [s for s in speed_ups(convergence(collect(tmp_path, "grid"))) if s.cells[0].row.fields["reg"] == "lcr"]
    assert len(one.cells) == len(curves)
    return one.mean, one.interval, one.reached, one.bound


def test_speed_up_over_seeds_is_the_geometric_mean_with_its_interval(tmp_path: Path) -> None:
    """Reached at 100 (bound), 200, 400 of 400 updates: ratios 4, 2, 1."""
    mean, interval, reached, bound = summary(tmp_path, [[20, 9, 9, 9], [30, 20, 9, 9], [40, 30, 25, 20]])
    half = student.ppf(0.975, 2) * math.log(2) / math.sqrt(3)
    assert mean == pytest.approx(2.0)
    assert interval == pytest.approx((2 * math.exp(-half), 2 * math.exp(half)))
    assert (reached, bound) == (3, True)


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    assert summary(tmp_path, [[30, 20, 9, 9]]) == (2.0, None, 1, False)


def test_a_seed_that_never_arrives_leaves_no_mean(tmp_path: Path) -> None:
    """The mean of those that do would flatter."""
    assert summary(tmp_path, [[30, 20, 9, 9], [40, 39, 38, 37]]) == (None, None, 1, False)
