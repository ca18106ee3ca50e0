"""Where ranks leave notes for each other: torch's key-value store, so that a rank that is silent is named, not waited
for without end, as a collective operation would do.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from ssvae.core.ranks import Ranks
from ssvae.preflight.base import Crew, PreflightError

_GRACE_S = 3.0
"""For a note that is on its way."""
_STEP_S = 20.0
"""Longest single wait: between two of them Python hears of signals."""
_SHORTEST_S = 0.005
"""A wait of less than a millisecond is none to the store, which then waits for ever."""


def meeting_point(ranks: Ranks, seconds: float, environ: Mapping[str, str] | None = None) -> dist.Store:
    """The store at MASTER_ADDR:MASTER_PORT, where the process group of these ranks meets or will meet.

    It may be opened before the group: keep it until the group is open, which then uses the same server. Raises
    PreflightError when it is not named, or nobody answers there within ``seconds``.
    """
    if ranks.world == 1:
        return dist.HashStore()
    environ = os.environ if environ is None else environ
    host, port = environ.get("MASTER_ADDR"), environ.get("MASTER_PORT")
    if not host or not port:
        raise PreflightError(
            f"ranks: {ranks.world} ranks cannot meet: MASTER_ADDR and MASTER_PORT are not set; "
            "start them with torchrun, or with srun through launch=slurm"
        )
    # torchrun's agent serves the store itself; elsewhere the first rank does.
    serves = ranks.first and environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        return dist.TCPStore(
            host,
            int(port),
            ranks.world,
            is_master=serves,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except (RuntimeError, ValueError) as error:
        what = "the port cannot be opened" if serves else f"the first rank does not answer within {seconds:g} s"
        raise PreflightError(
            f"ranks: rank {ranks.rank} ({socket.gethostname()}): {what} at {host}:{port} ({_first_line(error)}); "
            "look at the first rank's log, and at name resolution and firewall between the nodes"
        ) from error


class Board:
    """Notes of all ranks under one call of the preflight; a second call in the same job has a board of its own."""

    def __init__(self, store: dist.Store, ranks: Ranks, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self.ranks = ranks
        self._store = store
        # Under torchrun the store outlives the ranks that it starts again.
        start = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        call = store.add(f"preflight/{start}/calls/{ranks.rank}", 1)
        self._prefix = f"preflight/{start}/{call}"

    def post(self, what: str, value: Any) -> None:
        """Leave a note under this rank's name; ``value`` is plain JSON."""
        self._store.set(self._key(what, self.ranks.rank), json.dumps(value))

    def read(self, what: str, rank: int, seconds: float) -> Any | None:
        """The note of ``rank``; None if there is none within ``seconds``. Raises PreflightError for a lost store."""
        key, until = self._key(what, rank), time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            try:
                if left > _SHORTEST_S:
                    self._store.wait([key], timedelta(seconds=min(left, _STEP_S)))
                elif not self._store.check([key]):
                    return None
                return json.loads(self._store.get(key))
            except dist.DistNetworkError as error:
                text = f"ranks: the first rank has gone ({_first_line(error)}); its log says why"
                raise PreflightError(text) from error
            except dist.DistStoreError:  # not there yet
                continue

    def collect(self, what: str, ranks: Iterable[int], seconds: float) -> dict[int, Any]:
        """The notes of ``ranks`` that are there within ``seconds`` in all, by rank."""
        until = time.monotonic() + seconds
        notes = {rank: self.read(what, rank, until - time.monotonic()) for rank in ranks}
        return {rank: note for rank, note in notes.items() if note is not None}

    def from_first(self, what: str, value: Any, seconds: float) -> Any | None:
        """The first rank's ``value``, on every rank; None if it does not come."""
        if self.ranks.first:
            self.post(what, value)
            return value
        return self.read(what, 0, seconds)

    def roll_call(self, seconds: float) -> Crew:
        """Every rank signs in; all get to know who is there. Raises PreflightError where the first rank is silent."""
        self.post("here", socket.gethostname())
        seen: dict[str, str] = {}
        if self.ranks.first:
            found = self.collect("here", range(self.ranks.world), seconds)
            seen = {str(rank): host for rank, host in found.items()}
        # The first rank may have come as late as itself allows others to.
        crew = self.from_first("crew", seen, 2 * seconds + _GRACE_S)
        if crew is None:
            raise PreflightError("ranks: the first rank is silent; its log says why")
        return Crew(self.ranks.world, {int(rank): host for rank, host in crew.items()})

    def part(self, ranks: Iterable[int]) -> None:
        """The first rank, which may serve the store, stays until ``ranks`` have read all that they wanted."""
        if self.ranks.first:
            self.collect("bye", [rank for rank in ranks if rank != 0], _GRACE_S)
        else:
            self.post("bye", True)

    def _key(self, what: str, rank: int) -> str:
        return f"{self._prefix}/{what}/{rank}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:160]
