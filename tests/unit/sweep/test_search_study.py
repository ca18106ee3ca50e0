"""A study that several drivers share: so many trials in all, the same suggestions, nothing lost with a driver."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from optuna.trial import TrialState

from search_parts import IDENTITY, config, opened, pruning
from ssvae.config.problem import InputError
from ssvae.config.search import ParameterConfig, SamplerName, SearchConfig, StorageName
from ssvae.core.alive import this_process
from ssvae.sweep.search.samplers import sampler_for
from ssvae.sweep.search.storage import FILES, repair_journal
from ssvae.sweep.search.study import MOST_DEATHS, SharedStudy

DEAD = {**this_process(), "pid_start": "1"}


def value(params: dict[str, object]) -> float:
    return -abs(float(str(params["strength.lcr"])) - 0.2)


def spend(study: SharedStudy, most: int = 100) -> list[dict[str, object]]:
    """Ask and complete; returns the suggestions."""
    found: list[dict[str, object]] = []
    while len(found) < most and (asked := study.ask()) is not None:
        study.complete(asked.number, [value(dict(asked.params))])
        found.append(dict(asked.params))
    return found


def left_running(folder: Path, search: SearchConfig) -> int:
    """A trial whose driver died in the middle of it; returns its number."""
    with opened(folder, search) as study:
        asked = study.ask()
        assert asked is not None
        study.note(asked.number, owner=DEAD)
        return asked.number


@pytest.mark.parametrize("storage", list(StorageName))
def test_n_trials_means_in_all_after_any_number_of_resumes(storage: StorageName, tmp_path: Path) -> None:
    search = config(storage=storage)
    for most in (2, 1, 100):
        with opened(tmp_path, search) as study:
            spend(study, most)
    with opened(tmp_path, search) as study:
        assert study.ask() is None
        assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE] * 6
    with opened(tmp_path, config(storage=storage, n_trials=8)) as study:
        assert len(spend(study)) == 2
        assert len(study.trials()) == 8
    assert (tmp_path / FILES[storage]).exists()


@pytest.mark.parametrize("sampler", list(SamplerName))
def test_a_seed_gives_the_same_suggestions_also_when_it_is_resumed(sampler: SamplerName, tmp_path: Path) -> None:
    search = config(sampler=sampler, n_trials=12)
    with opened(tmp_path / "whole", search) as study:
        whole = spend(study)
    again = []
    for most in (3, 8, 100):  # the estimator takes over after ten trials
        with opened(tmp_path / "parts", search) as study:
            again += spend(study, most)
    assert again == whole
    assert len({str(params["strength.lcr"]) for params in whole}) == 12
    with opened(tmp_path / "other", config(sampler=sampler, n_trials=3, seed=1)) as study:
        assert spend(study) != whole[:3]


def test_the_samplers_are_those_that_were_asked_for() -> None:
    assert [type(sampler_for(name, 0, 0)).__name__ for name in SamplerName] == [
        "TPESampler",
        "RandomSampler",
        "NSGAIISampler",
    ]


def test_a_dead_drivers_trial_is_gone_on_with_and_shifts_nothing(tmp_path: Path) -> None:
    search = config()
    with opened(tmp_path / "whole", search) as study:
        whole = spend(study)
    with opened(tmp_path / "parts", search) as study:
        first = spend(study, 2)
    dead = left_running(tmp_path / "parts", search)
    with opened(tmp_path / "parts", search) as study:
        rest = spend(study)
        numbers = [trial.number for trial in study.trials()]
        assert study.reap() == 0
    assert first + rest == whole, "the dead trial's parameters come first, then what would have come"
    assert dead not in numbers
    assert len(numbers) == search.n_trials


def test_a_trial_that_died_before_it_had_all_parameters_or_an_owner(tmp_path: Path) -> None:
    search = config(n_trials=2)
    with opened(tmp_path, search) as study:
        study._study.ask({"strength.lcr": study._space["strength.lcr"]})
    with opened(tmp_path, search) as study:
        assert [set(params) for params in spend(study)] == [set(study._space)] * 2
        assert len(study.trials()) == 2


def test_a_trial_that_kills_its_process_every_time_is_failed_at_last(tmp_path: Path) -> None:
    search = config(n_trials=1)
    for _ in range(MOST_DEATHS):
        left_running(tmp_path, search)
    with opened(tmp_path, search) as study:
        assert study.ask() is None
        (trial,) = study.trials()
        assert trial.state is TrialState.FAIL


def test_reaping_twice_or_halfway_enqueues_once(tmp_path: Path) -> None:
    """Killed between the two writes: the new trial is there, the old one still runs."""
    search = config()
    number = left_running(tmp_path, search)
    with opened(tmp_path, search) as study:
        dead = study._frozen(number)
        study._study.enqueue_trial(dead.params, user_attrs={"retry_of": number})
        assert study.reap() == 1
        assert study.reap() == 0
        assert [trial.state for trial in study.trials()] == [TrialState.WAITING]


def test_a_living_drivers_trial_is_left_alone(tmp_path: Path) -> None:
    search = config(n_trials=2)
    with opened(tmp_path, search) as mine:
        asked = mine.ask()
        assert asked is not None
        with opened(tmp_path, search) as other:
            assert other.reap() == 0
            assert other.open_elsewhere() == 1
            assert mine.open_elsewhere() == 0
            assert len(spend(other)) == 1
        mine.complete(asked.number, [1.0])
        assert mine.ask() is None


def test_a_released_trial_does_not_count_and_is_no_death(tmp_path: Path) -> None:
    search = config(n_trials=1)
    with opened(tmp_path, search) as study:
        for _ in range(MOST_DEATHS + 2):
            asked = study.ask()
            assert asked is not None
            study.release(asked.number, "stopped")
        assert len(spend(study)) == 1
        assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE]


def test_what_was_taken_over_is_not_told_twice(tmp_path: Path) -> None:
    """A driver that was silent for too long comes back with its result."""
    search = config(n_trials=2)
    with opened(tmp_path, search) as slow:
        asked = slow.ask()
        assert asked is not None
        slow.note(asked.number, owner=DEAD)
        with opened(tmp_path, search) as other:
            assert len(spend(other)) == 2
        slow.complete(asked.number, [99.0])
        assert len(slow.trials()) == 2
        assert all(trial.values != [99.0] for trial in slow.trials())


def test_verdicts_count_every_trial_once(tmp_path: Path) -> None:
    search = config(prune=pruning(warmup=1))
    with opened(tmp_path, search) as study:
        first, second = study.ask(), study.ask()
        assert first is not None and second is not None
        assert study.judge(first.number, 10.0).survives
        verdict = study.judge(second.number, 5.0)
        assert (verdict.survives, verdict.place, verdict.of) == (False, 2, 2)
        study.prune(second.number, "too bad")
        study.note(first.number, owner=DEAD)
    with opened(tmp_path, search) as study:
        again = study.ask()
        assert again is not None and again.survived, "a verdict stands for the next attempt"
        assert study.judge(again.number, 10.0).of == 2, "its first attempt is not another trial"


@pytest.mark.parametrize("storage", list(StorageName))
def test_another_search_under_the_same_name_is_refused(storage: StorageName, tmp_path: Path) -> None:
    search = config(storage=storage)
    with opened(tmp_path, search) as study:
        spend(study, 1)
    with (
        pytest.raises(InputError, match=r"search\.space = other: differs .* another sweep\.name"),
        opened(tmp_path, search, {**IDENTITY, "search.space": "other"}),
    ):
        pass
    other = next(kind for kind in StorageName if kind is not storage)
    with (
        pytest.raises(InputError, match=rf"search\.storage = {other.value}.*sweep\.name"),
        opened(tmp_path, config(storage=other)),
    ):
        pass
    assert not (tmp_path / FILES[other]).exists()


def test_a_torn_line_of_a_journal_is_cut_off(tmp_path: Path) -> None:
    search = config(storage=StorageName.journal)
    with opened(tmp_path, search) as study:
        spend(study, 2)
    path = tmp_path / FILES[StorageName.journal]
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"worker')
    with opened(tmp_path, search) as study:
        assert len(spend(study)) == 4
    path.write_bytes(b"torn before the first line")
    repair_journal(path)
    assert path.read_bytes() == b""


COMPETE = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from search_parts import config, opened
from test_search_study import spend
from ssvae.config.search import StorageName
with opened(Path({folder!r}), config(storage=StorageName({storage!r}), n_trials=9)) as study:
    print(len(spend(study)))
"""


@pytest.mark.parametrize("storage", list(StorageName))
def test_drivers_at_once_share_the_trials(storage: StorageName, tmp_path: Path) -> None:
    """From nothing: the storage is also made once."""
    here = Path(__file__).parent
    path = [str(here), str(here.parents[1])]
    code = COMPETE.format(path=path, folder=str(tmp_path), storage=storage.value)
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * 3, outputs
    assert sum(int(out) for out, _ in outputs) == 9
    with opened(tmp_path, config(storage=storage, n_trials=9)) as study:
        trials = study.trials()
        assert [trial.number for trial in trials] == list(range(9))
        assert len({str(trial.params["strength.lcr"]) for trial in trials}) == 9


def test_a_smaller_number_of_trials_leaves_what_waits(tmp_path: Path) -> None:
    left_running(tmp_path, config())
    with opened(tmp_path, config()) as study:
        spend(study, 3)
    with opened(tmp_path, config(n_trials=2)) as study:
        assert study.ask() is None
        assert study.open_elsewhere() == 0


def test_metric_names_are_in_the_study_for_its_viewers(tmp_path: Path) -> None:
    with opened(tmp_path, config()) as study:
        assert study._study.metric_names == ["psnr_db"]


def test_every_dimension_is_suggested(tmp_path: Path) -> None:
    space = [*config().space, ParameterConfig("train.steps", low=1, high=9)]
    with opened(tmp_path, config(space=space)) as study:
        asked = study.ask()
        assert asked is not None
        assert list(asked.params) == ["strength.lcr", "reg.terms.lmr.block", "train.steps"]
