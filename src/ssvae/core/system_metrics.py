"""What each rank's machine does while a stage runs: processor, memory, disk, network, GPU, and the rank's own pace.

One JSON object a line in ``<stage folder>/system/rank_000.jsonl``: ``step`` (seconds since 1970, growing from line to
line over all restarts), ``time_ms`` and the values, under the names of MLflow's own system metrics where it has one.
What the whole machine shares is sampled by the first rank of each machine only. Numbers of a stage never depend on it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from ssvae.core.files import write_text
from ssvae.core.progress import Progress

logger = logging.getLogger(__name__)
MOST_LINES = 5000
"""At this length every second line is dropped and samples are taken half as often: a file stays under 5 MB."""
_MB = 1e6


class SystemSampler:
    """A thread that samples this rank every ``every_s`` seconds into ``folder``/system, while the context is open.

    every_s: None or 0 samples nothing, starts no thread and makes no folder. A value that cannot be read is left out; a
    file that cannot be written ends the sampling with one warning, and the stage goes on.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        every_s: float | None,
        clock: Callable[[], float] = time.time,
        most_lines: int = MOST_LINES,
    ) -> None:
        assert most_lines >= 2
        self._path = folder / "system" / f"rank_{rank:03d}.jsonl"
        self._every_s, self._clock, self._most = every_s or 0.0, clock, most_lines
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._last, self._lines = -1, 0
        self._pace = Pace()
        self._machine = Machine(folder, whole=os.environ.get("LOCAL_RANK", "0") == "0")

    def __enter__(self) -> SystemSampler:
        if self._every_s > 0 and self._attempt(self._take_up):
            self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5.0)
            # The last word: a stage shorter than the pause leaves one sample as well.
            if not self._thread.is_alive():
                self._attempt(self.sample)

    def watched(self, progress: Progress) -> Progress:
        """``progress``, with an eye on how fast it goes."""
        return _Watched(progress, self._pace) if self._every_s > 0 else progress

    def sample(self) -> None:
        """Append one line. Raises OSError."""
        now = self._clock()
        if int(now) <= self._last:
            return
        self._last = int(now)
        values = {**self._machine.values(), **self._pace.values(now)}
        rounded = {name: round(value, 3) for name, value in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self._last, "time_ms": int(now * 1000), **rounded}) + "\n")
        self._lines += 1
        if self._lines >= self._most:
            self._thin()

    def _work(self) -> None:
        while not self._stop.wait(self._every_s):
            if not self._attempt(self.sample):
                return

    def _take_up(self) -> None:
        """Go on behind what an earlier process wrote; a line that a kill has torn is dropped."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = self._whole()
        self._lines = len(lines)
        self._last = int(json.loads(lines[-1])["step"]) if lines else -1
        write_text(self._path, "".join(lines))
        self._machine.values()  # percentages are of the time since the call before

    def _thin(self) -> None:
        kept = self._whole()[1::2]
        write_text(self._path, "".join(kept))
        self._lines, self._every_s = len(kept), 2 * self._every_s

    def _whole(self) -> list[str]:
        if not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        return [line for line in lines if line.startswith("{") and line.endswith("}\n")]

    def _attempt(self, work: Callable[[], None]) -> bool:
        try:
            work()
        except (OSError, ValueError, KeyError) as error:
            logger.warning("%s: no system metrics from here on: %s", self._path, error)
            return False
        return True


class Pace:
    """Seconds a unit of work (a training step, a batch) took since the sample before."""

    def __init__(self) -> None:
        self._done = 0
        self._seen: tuple[float, int] | None = None

    def start(self, done: int) -> None:
        """A piece of work begins, with ``done`` units behind it."""
        self._done, self._seen = done, None

    def note(self, done: int) -> None:
        """So many units are done."""
        self._done = done

    def values(self, now: float) -> dict[str, float]:
        """{"seconds_per_step": ...} once there was a step since the sample before. now: seconds."""
        before, self._seen = self._seen, (now, self._done)
        if before is None or self._done <= before[1]:
            return {}
        return {"seconds_per_step": (now - before[0]) / (self._done - before[1])}


class _Watched:
    """A progress that tells a pace."""

    def __init__(self, progress: Progress, pace: Pace) -> None:
        self._progress, self._pace = progress, pace

    def start(self, what: str, total: int, done: int = 0) -> None:
        self._pace.start(done)
        self._progress.start(what, total, done)

    def advance(self, done: int, note: str = "") -> None:
        self._pace.note(done)
        self._progress.advance(done, note)


class Machine:
    """Values of this process, its GPU and, with ``whole``, of all the machine. folder: whose disk is looked at."""

    def __init__(self, folder: Path, whole: bool) -> None:
        self._folder, self._whole = folder, whole
        self._process = psutil.Process()
        self._received: tuple[int, int] | None = None

    def values(self) -> dict[str, float]:
        """What can be read now, by name: percentages, megabytes (10^6 bytes), watts."""
        found: dict[str, float] = {}
        for read in (self._own, _gpu, *((_host, self._disk, self._network) if self._whole else ())):
            with _as_far_as_possible():
                found.update(read())
        return found

    def _own(self) -> Mapping[str, float]:
        return {
            "process_cpu_utilization_percentage": self._process.cpu_percent(),
            "process_memory_usage_megabytes": self._process.memory_info().rss / _MB,
        }

    def _disk(self) -> Mapping[str, float]:
        there = next(path for path in (self._folder, *self._folder.parents) if path.exists())
        disk = psutil.disk_usage(str(there))
        return {
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / _MB,
            "disk_available_megabytes": disk.free / _MB,
        }

    def _network(self) -> Mapping[str, float]:
        """Megabytes since the first look."""
        counters = psutil.net_io_counters()
        if counters is None:
            return {}
        if self._received is None:
            self._received = (counters.bytes_recv, counters.bytes_sent)
        return {
            "network_receive_megabytes": (counters.bytes_recv - self._received[0]) / _MB,
            "network_transmit_megabytes": (counters.bytes_sent - self._received[1]) / _MB,
        }


def _host() -> Mapping[str, float]:
    memory = psutil.virtual_memory()
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / _MB,
        "system_memory_usage_percentage": memory.used / memory.total * 100,
    }


def _gpu() -> Mapping[str, float]:
    """Of the GPU that this rank computes on, under its number; a rank that uses none is not given one by looking."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    # The current device belongs to a thread; every rank has chosen its own by LOCAL_RANK.
    index = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    free, total = torch.cuda.mem_get_info(index)
    name = f"gpu_{index}"
    found = {
        f"{name}_memory_usage_percentage": (total - free) / total * 100,
        f"{name}_memory_usage_megabytes": (total - free) / _MB,
        f"{name}_memory_allocated_megabytes": torch.cuda.memory_allocated(index) / _MB,
    }
    with _as_far_as_possible():  # these two need NVIDIA's management library, which need not be installed
        found[f"{name}_utilization_percentage"] = float(torch.cuda.utilization(index))
        found[f"{name}_power_usage_watts"] = torch.cuda.power_draw(index) / 1000
    return found


@contextmanager
def _as_far_as_possible() -> Iterator[None]:
    """What this machine does not tell is left out."""
    try:
        yield
    # ImportError, RuntimeError, AttributeError: the ways in which torch says that it cannot look.
    except (psutil.Error, OSError, ImportError, RuntimeError, AttributeError, ValueError, *_of_nvml()) as error:
        logger.debug("a system metric is left out: %s", error)


def _of_nvml() -> list[type[Exception]]:
    """The error class of NVIDIA's management library, where torch has imported it."""
    kind = getattr(sys.modules.get("pynvml"), "NVMLError", None)
    return [kind] if isinstance(kind, type) else []
