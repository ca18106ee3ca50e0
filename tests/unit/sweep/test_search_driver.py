"""The driver keeps every place filled, judges before the dear part, and leaves nothing behind when it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search_parts import FakeRunner, FakeTrials, config, finish_first, finish_last, opened, pruning
from ssvae.config.search import Better, ObjectiveGoalConfig, SearchConfig
from ssvae.core.alive import this_process
from ssvae.core.stop import Interrupted, Stop
from ssvae.sweep.search import driver
from ssvae.sweep.search.driver import Driver, too_many_failures
from ssvae.sweep.search.runner import Outcome
from ssvae.sweep.search.study import SharedStudy

End = Callable[[Sequence[str]], Sequence[Outcome]]


def psnr(params: Any) -> dict[str, float | None]:
    return {"psnr_db": 20 + math.log10(params["strength.lcr"]), "probe_fd": 40.0}


class Told:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def driven(
    study: SharedStudy, search: SearchConfig, end: End = finish_first, capacity: int = 1, measure: Any = psnr
) -> tuple[FakeTrials, FakeRunner]:
    trials, runner = FakeTrials(measure), FakeRunner(capacity, end)
    told = Told()
    Driver(search, study, trials, runner, Stop(), told).run()  # type: ignore[arg-type]  # fakes
    assert told.count == sum(state != "interrupted" for state, _ in trials.closed.values())
    return trials, runner


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "POLL_S", 0.0)
    monkeypatch.setattr(driver, "WAIT_S", 0.01)


def test_as_soon_as_one_ends_the_next_begins(tmp_path: Path) -> None:
    """No place waits for the slowest: three are in flight until there are no more, whichever ends first."""
    search = config(n_trials=7)
    with opened(tmp_path, search) as study:
        trials, runner = driven(study, search, finish_last, capacity=3)
        assert runner.seen == [3, 3, 3, 3, 3, 2, 1]
        assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE] * 7
    assert trials.ordered[0] == (0, ("pretrain", "measure", "probe"))


def test_polls_without_news_start_nothing(tmp_path: Path) -> None:
    calls: list[int] = []

    def seldom(flying: Sequence[str]) -> Sequence[Outcome]:
        calls.append(1)
        return finish_first(flying) if len(calls) % 3 == 0 else []

    search = config(n_trials=3)
    with opened(tmp_path, search) as study:
        driven(study, search, seldom, capacity=2)
        assert len(study.trials()) == 3


def test_only_survivors_go_on_to_the_probe(tmp_path: Path) -> None:
    search = config(n_trials=8, prune=pruning(keep=0.5, warmup=2))
    with opened(tmp_path, search) as study:
        trials, _ = driven(study, search)
        found = study.trials()
    cheap = [number for number, stages in trials.ordered if stages == ("pretrain", "measure")]
    whole = [number for number, stages in trials.ordered if stages == ("pretrain", "measure", "probe")]
    assert cheap == list(range(8))
    values: list[float] = []
    for trial in found:
        value = psnr(trial.params)["psnr_db"]
        assert value is not None
        place = 1 + sum(other > value for other in values)
        values.append(value)
        goes_on = len(values) <= 2 or place <= math.ceil(0.5 * len(values))
        assert (trial.number in whole) == goes_on
        assert trial.state is (TrialState.COMPLETE if goes_on else TrialState.PRUNED)
        assert trial.user_attrs["cheap"] == value
        if not goes_on:
            assert trials.closed[trial.number][0] == "pruned"
            assert f"place {place} of {len(values)}" in str(trials.closed[trial.number][1])
    assert len(whole) < 8, "this seed prunes"


def test_several_objectives_are_pruned_by_the_same_rule(tmp_path: Path) -> None:
    goals = [ObjectiveGoalConfig("psnr_db", Better.maximize), ObjectiveGoalConfig("probe_fd", Better.minimize)]
    search = config(n_trials=16, objectives=goals, prune=pruning(keep=0.5, warmup=2))
    with opened(tmp_path, search) as study:
        driven(study, search)
        states = [trial.state for trial in study.trials()]
        assert {TrialState.COMPLETE, TrialState.PRUNED} == set(states)
        complete = [trial for trial in study.trials() if trial.state is TrialState.COMPLETE]
        assert all(trial.values[1] == 40.0 for trial in complete)


def test_what_is_there_already_is_told_and_never_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = config(n_trials=6, prune=pruning(keep=0.1, warmup=1))
    monkeypatch.setattr("search_parts.FakeTrials.finished", True)
    with opened(tmp_path, search) as study:
        driven(study, search)
        assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE] * 6


@pytest.mark.parametrize("prune", [None, pruning(warmup=1)], ids=["objective", "statistic"])
def test_a_value_that_is_no_number_fails_the_trial_and_names_the_metric(prune: Any, tmp_path: Path) -> None:
    search = config(n_trials=3, prune=prune)
    with opened(tmp_path, search) as study:
        trials, _ = driven(study, search, measure=lambda params: {"psnr_db": None})
        assert [trial.state for trial in study.trials()] == [TrialState.FAIL] * 3
        assert all("psnr_db is not a number" in trial.user_attrs["reason"] for trial in study.trials())
    assert {state for state, _ in trials.closed.values()} == {"failed"}


def failing(*keys: str) -> End:
    def end(flying: Sequence[str]) -> Sequence[Outcome]:
        key = flying[0]
        return [Outcome(key, "failed", "NonFiniteLoss") if key in keys else Outcome(key, "finished")]

    return end


def test_failures_count_are_named_and_do_not_stop_the_others(tmp_path: Path) -> None:
    search = config(n_trials=6)
    with opened(tmp_path, search) as study:
        driven(study, search, failing("1", "3"))
        found = study.trials()
    assert [trial.number for trial in found if trial.state is TrialState.FAIL] == [1, 3]
    assert found[1].user_attrs["reason"] == "NonFiniteLoss"
    assert len(found) == 6


def test_too_many_failures_stop_the_search(tmp_path: Path) -> None:
    search = config(n_trials=20, failures=0.5)
    with opened(tmp_path, search) as study:
        driven(study, search, failing("1", "2", "3"))
        found = study.trials()
        assert len(found) == 4, "three of four"
        assert "3 of 4 trials failed, more than search.failures = 0.5" in str(too_many_failures(found, 0.5))
        assert too_many_failures(found, 0.75) is None
        driven(study, search, failing())
        assert len(study.trials()) == 4, "the same command does not go on either"
    with opened(tmp_path, config(n_trials=20, failures=0.75)) as study:
        driven(study, config(n_trials=20, failures=0.75), failing())
        assert len(study.trials()) == 20


def test_a_refused_cell_is_a_failed_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: FakeTrials, number: int, params: Any) -> Any:
        raise ValueError("reg.terms.lcr.window = [3,3,3]: does not tile")

    monkeypatch.setattr(FakeTrials, "open", refuse)
    search = config(n_trials=2)
    with opened(tmp_path, search) as study:
        trials, runner = FakeTrials(psnr), FakeRunner(1, finish_first)
        Driver(search, study, trials, runner, Stop(), Told()).run()  # type: ignore[arg-type]  # fakes
        assert "does not tile" in study.trials()[0].user_attrs["reason"]


def test_an_interrupted_trial_goes_back_and_is_done_in_the_end(tmp_path: Path) -> None:
    ends = iter(["interrupted", "interrupted", *["finished"] * 9])

    def end(flying: Sequence[str]) -> Sequence[Outcome]:
        return [Outcome(flying[0], next(ends), "USR2")]  # type: ignore[arg-type]  # one of the literals

    search = config(n_trials=3)
    with opened(tmp_path, search) as study:
        driven(study, search, end)
        assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE] * 3


@pytest.mark.parametrize("how", ["signal", "keyboard", "bug"])
def test_whatever_ends_the_driver_its_trials_are_given_back(how: str, tmp_path: Path) -> None:
    stop, polls = Stop(), []

    def end(flying: Sequence[str]) -> Sequence[Outcome]:
        polls.append(1)
        if len(polls) == 2:
            if how == "signal":
                stop.ask("signal SIGTERM")
            else:
                raise KeyboardInterrupt if how == "keyboard" else RuntimeError("a bug of ours")
        return [] if len(polls) > 1 else finish_first(flying)

    search = config(n_trials=5)
    kinds: dict[str, type[BaseException]] = {
        "signal": Interrupted,
        "keyboard": KeyboardInterrupt,
        "bug": RuntimeError,
    }
    with opened(tmp_path, search) as study:
        trials, runner = FakeTrials(psnr), FakeRunner(2, end)
        with pytest.raises(kinds[how]):
            Driver(search, study, trials, runner, stop, Told()).run()  # type: ignore[arg-type]  # fakes
        assert runner.stopped
        states = sorted(trial.state.name for trial in study.trials())
        assert states == ["COMPLETE", "WAITING", "WAITING"]
        assert {state for state, _ in trials.closed.values()} == {"complete", "interrupted"}
        driven(study, search)
        assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE] * 5


def test_it_waits_for_other_drivers_and_takes_over_what_they_leave(tmp_path: Path) -> None:
    """The other one dies while this one has nothing left to ask."""
    search = config(n_trials=2)
    with opened(tmp_path, search) as other, opened(tmp_path, search) as mine:
        asked = other.ask()
        assert asked is not None
        polls = []

        def end(flying: Sequence[str]) -> Sequence[Outcome]:
            if not polls:
                other.note(asked.number, owner={**this_process(), "pid_start": "1"})
            polls.append(flying)
            return finish_first(flying)

        driven(mine, search, end)
        assert [trial.state for trial in mine.trials()] == [TrialState.COMPLETE] * 2
        assert asked.number not in [trial.number for trial in mine.trials()]
