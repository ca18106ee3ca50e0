"""A run in a process of its own, killed and started again by the same command, as a user would."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from ssvae.drill.ledger import DrillError, Ledger
from ssvae.drill.watch import Watch

PAUSE_S = 0.002
END_S = 300.0
"""How long a process that was told to end may take."""
STOPPED = 130
"""Exit code of a run that was asked to stop and has saved."""


class Program(AbstractContextManager["Program"]):
    """A command as a process of its own; its output is appended to ``log``. Leaving the block ends it.

    It has a session of its own, so that Ctrl-C at the drill's terminal does not reach it.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self, wait_s: float | None = END_S) -> int:
        """Wait for the end; returns the exit code. Raises DrillError if it does not come."""
        try:
            return self.process.wait(wait_s)
        except subprocess.TimeoutExpired as error:
            raise DrillError(f"the run did not end within {wait_s:g} s of a signal: see {self._log}") from error


def run_to_end(
    command: Sequence[str], environment: Mapping[str, str], log: Path, during: Callable[[], None] | None = None
) -> None:
    """Run ``command``, which must succeed; ``during`` is called a few times a second. Raises DrillError."""
    with Program(command, environment, log) as program:
        while not program.ended():
            if during is not None:
                during()
            time.sleep(0.2)
        check(program.end(), command, log)


def check(code: int, command: Sequence[str], log: Path) -> None:
    """Raise DrillError, with the end of the log, for an exit code that is not 0."""
    if code != 0:
        said = "\n  ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:])
        raise DrillError(f"{' '.join(command)}\nended with {describe(code)}; the end of {log}:\n  {said}")


def describe(code: int) -> str:
    """``exit code 1``, or ``SIGKILL`` for a process that died of a signal."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def disturb_process(
    command: Sequence[str], environment: Mapping[str, str], log: Path, watch: Watch, ledger: Ledger
) -> None:
    """Start ``command`` as often as it takes to finish, and kill it where the ledger says.

    Only the main process is killed, as the kernel or a scheduler would; loader workers find out by themselves. Raises
    DrillError when the command fails without having been killed.
    """
    stages = list(watch.folders)
    while True:
        watch.next_process()
        with Program(command, environment, log) as program:
            sent = False
            while not (sent or program.ended()):
                watch.update()
                kill = ledger.next_for(stages)
                if kill is not None and watch.finished(kill.stage):
                    ledger.missed(kill, watch.untouched())
                elif kill is not None and watch.reached(kill):
                    program.process.send_signal(getattr(signal, f"SIG{kill.signal}"))
                    sent = True
                time.sleep(PAUSE_S)
            code = program.end()
        ledger.resumed(watch)
        if code == 0 or not sent:
            # What was sent last, if anything, came when all work was done.
            check(code, command, log)
            while (kill := ledger.next_for(stages)) is not None:
                ledger.missed(kill, ())
            return
        assert kill is not None
        ledger.hit(kill, describe(code), code == STOPPED, watch)
