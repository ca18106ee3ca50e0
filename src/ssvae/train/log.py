"""What a training leaves behind a logged step: its numbers, and which samples it saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ssvae.core.files import StepsLog
from ssvae.core.identity import fingerprint
from ssvae.core.ranks import Ranks

STEPS, SAMPLES = "steps.jsonl", "samples.jsonl"


def samples_digest(turns: Sequence[Sequence[str]], ranks: Ranks) -> str:
    """12 hexadecimal digits of the SHA-256 over all samples of a step, in the order of the global batch.

    turns: the batches that this rank drew in the step, each as names of its samples. Every rank calls it, and gets the
    same answer, which any number of ranks with the same global batch gives.
    """
    parts = ranks.gather([list(names) for names in turns])
    return fingerprint([[name for names in of_ranks for name in names] for of_ranks in zip(*parts, strict=True)], 12)


class TrainingLog:
    """``steps.jsonl`` and ``samples.jsonl`` in ``folder``, cut back to the step that training goes on from.

    Every rank may call everything; the first one writes.
    """

    def __init__(self, folder: Path, done: int, ranks: Ranks) -> None:
        self._steps = StepsLog(folder / STEPS, done) if ranks.first else None
        self._samples = StepsLog(folder / SAMPLES, done) if ranks.first else None

    def write(self, step: int, values: Mapping[str, float], samples: str) -> None:
        """Append the numbers of ``step`` and the digest of its samples."""
        if self._steps is not None and self._samples is not None:
            # Whoever follows the numbers finds the samples of a step that is there.
            self._samples.write(step, {"keys": samples})
            self._steps.write(step, values)

    def sync(self) -> None:
        """Force both to the disk: before a checkpoint that counts on them."""
        for log in (self._steps, self._samples):
            if log is not None:
                log.sync()

    def close(self) -> None:
        for log in (self._steps, self._samples):
            if log is not None:
                log.close()
