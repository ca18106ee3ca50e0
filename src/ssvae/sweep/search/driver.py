"""Asks the study, keeps the runner full, tells the study: until as many trials as wanted have ended.

Nothing waits for a batch: as soon as one trial ends, the next is asked. A driver that finds nothing left to ask stays
as long as others are at work: should one of them die, its trial is taken over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from ssvae.config.search import SearchConfig
from ssvae.core.stop import Stop
from ssvae.sweep.search.runner import Outcome, Runner
from ssvae.sweep.search.study import Asked, SharedStudy
from ssvae.sweep.search.trials import Trial, Trials

logger = logging.getLogger(__name__)

POLL_S = 0.5
WAIT_S = 2.0
"""Between two questions to a study that had nothing to do."""
LEAST_ENDED = 4
"""Fewer trials than these say nothing about the share that fails."""
STOPPED = "stopped by the user"


@dataclass(frozen=True)
class _Flight:
    """whole: are all stages on their way, or those before the verdict?"""

    trial: Trial
    whole: bool


class Driver:
    """One process's share of a search. told: called after every trial that ended."""

    def __init__(
        self,
        search: SearchConfig,
        study: SharedStudy,
        trials: Trials,
        runner: Runner,
        stop: Stop,
        told: Callable[[], None],
    ) -> None:
        self._search, self._study, self._trials, self._runner = search, study, trials, runner
        self._stop, self._told = stop, told
        self._flights: dict[str, _Flight] = {}
        self._ask_at = 0.0

    def run(self) -> None:
        """Raises Interrupted or KeyboardInterrupt when it was asked to stop, after :meth:`release` of its trials."""
        done = False
        try:
            self._run()
            done = True
        finally:
            if not done:
                self.release()

    def release(self) -> None:
        """End what is on its way, and give it back to the study."""
        self._runner.stop()
        for flight in list(self._flights.values()):
            self._give_back(flight, STOPPED)

    def _run(self) -> None:
        waiting = False
        while True:
            if self._stop.asked:
                raise self._stop.interrupt()
            halted = self._fill()
            if not self._flights:
                if halted or not self._study.open_elsewhere():
                    return
                if not waiting:
                    logger.info("nothing left to start: waiting for the trials of other processes")
                waiting = True
                time.sleep(WAIT_S)
                continue
            waiting = False
            ended = self._runner.poll()
            for outcome in ended:
                self._ended(outcome)
            if not ended:
                time.sleep(POLL_S)

    def _fill(self) -> bool:
        """Start trials while there is room; True when too many have failed for any more."""
        while len(self._flights) < self._runner.capacity:
            if (why := too_many_failures(self._study.trials(), self._search.failures)) is not None:
                logger.debug("no more trials: %s", why)
                return True
            if time.monotonic() < self._ask_at:
                return False
            asked = self._study.ask()
            if asked is None:
                self._ask_at = time.monotonic() + WAIT_S
                return False
            self._begin(asked)
        return False

    def _begin(self, asked: Asked) -> None:
        try:
            trial = self._trials.open(asked.number, asked.params)
        except ValueError as error:
            self._failed(asked.number, None, f"{type(error).__name__}: {error}")
            return
        self._study.note(asked.number, cell_id=trial.planned.cell_id, overrides=list(trial.planned.cell.overrides))
        whole = self._search.prune is None or asked.survived
        self._start(trial, whole)

    def _start(self, trial: Trial, whole: bool) -> None:
        stages = list(trial.planned.plans) if whole else list(trial.cheap)
        order = self._trials.order(trial, stages)
        self._flights[order.key] = _Flight(trial, whole)
        self._runner.start(order)

    def _ended(self, outcome: Outcome) -> None:
        flight = self._flights[outcome.key]
        if outcome.status == "interrupted":
            self._give_back(flight, outcome.reason or "interrupted")
            return
        del self._flights[outcome.key]
        trial = flight.trial
        if outcome.status == "failed":
            self._failed(trial.number, trial, outcome.reason or "no reason given")
        elif flight.whole:
            self._finished(trial)
        else:
            self._judge(trial)

    def _judge(self, trial: Trial) -> None:
        """The cheap part is done: on to the probe, or not?"""
        rule = self._search.prune
        assert rule is not None
        value = self._trials.values(trial, [rule.metric])[rule.metric]
        if value is None:
            self._failed(trial.number, trial, f"{rule.metric} is not a number, so the trial cannot be judged")
            return
        verdict = self._study.judge(trial.number, value)
        if verdict.survives or trial.finished:
            self._start(trial, whole=True)
            return
        place = f"place {verdict.place} of {verdict.of}"
        reason = f"pruned: {rule.metric} {value:.4g} is {place} so far, outside the best {100 * rule.keep:g} %"
        self._study.prune(trial.number, reason)
        self._trials.close(trial, "finished", reason, "pruned", {})
        logger.info("trial %d %s", trial.number, reason)
        self._told()

    def _finished(self, trial: Trial) -> None:
        names = [goal.metric for goal in self._search.objectives]
        found = self._trials.values(trial, names)
        lacking = [name for name, value in found.items() if value is None]
        if lacking:
            self._failed(trial.number, trial, f"{', '.join(lacking)} is not a number")
            return
        values = {name: value for name, value in found.items() if value is not None}
        self._study.complete(trial.number, list(values.values()))
        self._trials.close(trial, "finished", None, "complete", values)
        shown = ", ".join(f"{name} {value:.5g}" for name, value in values.items())
        logger.info("trial %d: %s", trial.number, shown)
        self._told()

    def _failed(self, number: int, trial: Trial | None, reason: str) -> None:
        self._study.fail(number, reason)
        if trial is not None:
            self._trials.close(trial, "failed", reason, "failed", {})
        logger.error("trial %d failed: %s", number, reason)
        self._told()

    def _give_back(self, flight: _Flight, reason: str) -> None:
        del self._flights[str(flight.trial.number)]
        self._study.release(flight.trial.number, reason)
        self._trials.close(flight.trial, "killed", reason, "interrupted", {})


def too_many_failures(trials: Sequence[FrozenTrial], limit: float) -> str | None:
    """Why the search has to stop: more than the share ``limit`` of the trials that have ended failed."""
    ended = [trial for trial in trials if trial.state.is_finished()]
    failed = sum(trial.state is TrialState.FAIL for trial in ended)
    if len(ended) < LEAST_ENDED or failed <= limit * len(ended):
        return None
    return f"{failed} of {len(ended)} trials failed, more than search.failures = {limit:g}"
