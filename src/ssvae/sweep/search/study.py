"""One study that any number of drivers share: asked and told under a lock, never past its number of trials.

A trial that counts is complete, pruned, failed by its own fault, or on its way. One whose driver died does not: its
parameters are enqueued again, so that the folders of its stages, and their checkpoints, are gone on with.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from ssvae.config.problem import InputError, Problem
from ssvae.config.search import SearchConfig, StorageName
from ssvae.core.files import exclusive
from ssvae.sweep.search.owner import Owner
from ssvae.sweep.search.pruning import Verdict, judge
from ssvae.sweep.search.samplers import sampler_for
from ssvae.sweep.search.space import Value, distributions
from ssvae.sweep.search.storage import FILES, open_storage, repair_journal

logger = logging.getLogger(__name__)

MOST_DEATHS = 3
"""So many deaths of its process, and a trial is called failed."""
_RETRY, _OWNER, _CHEAP, _SURVIVED, _DEATHS = "retry_of", "owner", "cheap", "survived", "deaths"


@dataclass(frozen=True)
class Asked:
    """A trial that this driver has to carry out. survived: an earlier attempt at it was already let through."""

    number: int
    params: dict[str, Value]
    survived: bool


class SharedStudy:
    """The study ``name`` in ``folder``, with this process as one of its drivers."""

    def __init__(
        self, folder: Path, name: str, search: SearchConfig, identity: Mapping[str, str], owner: Owner
    ) -> None:
        """identity: what may not change under one name, a hash or text each. Raises InputError where it did."""
        self._lock = folder / ".study.lock"
        self._search, self._owner = search, owner
        self._journal = folder / FILES[search.storage] if search.storage is StorageName.journal else None
        self._mine: dict[int, optuna.Trial] = {}
        self._space = distributions(search.space)
        other = next(kind for kind in StorageName if kind is not search.storage)
        if (folder / FILES[other]).exists() and not (folder / FILES[search.storage]).exists():
            remedy = f"study {name} lies in {FILES[other]}: search.storage={other.value}, or another sweep.name"
            raise InputError([(Problem("search.storage", search.storage.value, remedy), [""])], 1)
        with exclusive(self._lock, wait=True):
            self._study = optuna.create_study(
                storage=open_storage(folder, search.storage),
                study_name=name,
                directions=[goal.direction.value for goal in search.objectives],
                load_if_exists=True,
            )
            self._check(name, identity)

    def ask(self) -> Asked | None:
        """The next trial; None when as many as wanted are done or on their way. Takes over what dead drivers left."""
        with self._writing():
            self._reap()
            begun = self._counted()
            if begun >= self._search.n_trials:
                return None
            # By its place among the trials that count: one that is gone on with does not shift those behind it.
            self._study.sampler = sampler_for(self._search.sampler, self._search.seed, begun)
            trial = self._study.ask(self._space)
            trial.set_user_attr(_OWNER, self._owner.tag)
            self._mine[trial.number] = trial
            return Asked(trial.number, dict(trial.params), bool(trial.user_attrs.get(_SURVIVED)))

    def note(self, number: int, **attributes: object) -> None:
        """Write something down beside a trial."""
        with self._writing():
            self._set(number, attributes)

    def judge(self, number: int, value: float) -> Verdict:
        """Place the cheap ``value`` of a trial among those of the others; both are remembered."""
        assert self._search.prune is not None
        with self._writing():
            gone_on = self._retried()
            others = [one for one in self._trials() if one.number != number and one.number not in gone_on]
            earlier = [one.user_attrs[_CHEAP] for one in others if _CHEAP in one.user_attrs]
            verdict = judge(value, earlier, self._search.prune)
            self._set(number, {_CHEAP: value, _SURVIVED: verdict.survives, "place": [verdict.place, verdict.of]})
        return verdict

    def complete(self, number: int, values: Sequence[float]) -> None:
        self._tell(number, TrialState.COMPLETE, values, {})

    def prune(self, number: int, reason: str) -> None:
        self._tell(number, TrialState.PRUNED, None, {"reason": reason})

    def fail(self, number: int, reason: str) -> None:
        """By the trial's own fault: it counts."""
        self._tell(number, TrialState.FAIL, None, {"reason": reason})

    def release(self, number: int, reason: str) -> None:
        """Give a trial back unfinished, by no fault of its own: its parameters are enqueued again."""
        with self._writing():
            trial = self._mine.pop(number)
            self._again(self._frozen(trial.number), reason, deaths=0)

    def reap(self) -> int:
        """Enqueue again what dead drivers left; returns how many."""
        with self._writing():
            return self._reap()

    def trials(self) -> list[FrozenTrial]:
        """All trials but those that went on under another number, by number."""
        gone_on = self._retried()
        return [trial for trial in self._trials() if trial.number not in gone_on]

    def open_elsewhere(self) -> int:
        """Trials that another driver has in hand."""
        return sum(one.state is TrialState.RUNNING and one.number not in self._mine for one in self.trials())

    def export(self, write: Callable[[list[FrozenTrial]], None]) -> None:
        """Let ``write`` put the trials into a file: one driver at a time, so that the newest state stays."""
        with exclusive(self._lock, wait=True):
            write(self.trials())

    # -------- under the lock

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with exclusive(self._lock, wait=True):
            if self._journal is not None:
                repair_journal(self._journal)
            yield

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _frozen(self, number: int) -> FrozenTrial:
        return next(trial for trial in self._trials() if trial.number == number)

    def _retried(self) -> set[int]:
        return {trial.user_attrs[_RETRY] for trial in self._trials() if _RETRY in trial.user_attrs}

    def _counted(self) -> int:
        """Trials that count, without those that wait."""
        return sum(trial.state is not TrialState.WAITING for trial in self.trials())

    def _set(self, number: int, attributes: Mapping[str, object]) -> None:
        try:
            for key, value in attributes.items():
                self._mine[number].set_user_attr(key, value)
        except UpdateFinishedTrialError:
            logger.warning("trial %d was given up by another driver, which took this one for dead", number)

    def _tell(self, number: int, state: TrialState, values: Sequence[float] | None, attributes: dict[str, str]) -> None:
        with self._writing():
            self._set(number, attributes)
            self._study.tell(number, values, state=state, skip_if_finished=True)
            del self._mine[number]

    def _reap(self) -> int:
        count = 0
        for trial in self._trials():
            if trial.state is TrialState.RUNNING and self._owner.is_gone(trial.user_attrs.get(_OWNER)):
                self._again(trial, "its process died", deaths=1)
                count += 1
        if count:
            logger.info("%d trials of dead processes were taken over", count)
        return count

    def _again(self, trial: FrozenTrial, reason: str, deaths: int) -> None:
        """Enqueue the trial's parameters, then close it. In this order: a kill in between loses nothing."""
        before = trial.user_attrs
        died = int(before.get(_DEATHS, 0)) + deaths
        if died < MOST_DEATHS and trial.number not in self._retried():
            kept = {_RETRY: trial.number, "retry_reason": reason, _DEATHS: died}
            if before.get(_SURVIVED):
                kept |= {_SURVIVED: True, _CHEAP: before[_CHEAP]}
            self._study.enqueue_trial(trial.params, user_attrs=kept)
        self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _check(self, name: str, identity: Mapping[str, str]) -> None:
        """Is this the search that the study was made for?"""
        known = self._study.user_attrs.get("identity")
        if known is None:
            self._study.set_user_attr("identity", dict(identity))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                self._study.set_metric_names([goal.metric for goal in self._search.objectives])
            return
        changed = [key for key, value in identity.items() if known.get(key) != value]
        remedy = f"differs from what study {name} was made for: choose another sweep.name; n_trials may grow"
        if changed:
            raise InputError([(Problem(key, identity[key], remedy), [""]) for key in changed], 1)
