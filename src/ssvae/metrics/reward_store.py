"""Answers of the reward model on disk: what was asked once is never asked again, also after a kill.

One JSON object a line, appended and flushed to disk as each answer arrives. The key of a line is a hash of everything
that the answer depends on: the frames' content, the prompt, model, question, JPEG quality, number of frames and
max_tokens. The text is kept as the model wrote it, so that scores can be read from it again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from ssvae.core.files import Busy, exclusive
from ssvae.core.identity import fingerprint
from ssvae.metrics.reward_parse import Parsed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """One line. key: see :func:`answer_key`. clip: its name, for readers. control: asked with a wrong prompt.

    text, cut: the answer. scores, failure, detail: what was read from it when it came, for readers; the numbers of a
    result are read from ``text`` anew.
    """

    key: str
    clip: str
    control: bool
    prompt: str
    text: str
    cut: bool
    scores: dict[str, float] | None
    failure: str | None
    detail: str

    @classmethod
    def of(cls, key: str, clip: str, control: bool, prompt: str, text: str, cut: bool, parsed: Parsed) -> StoredAnswer:
        """The line for an answer and what could be read from it."""
        return cls(key, clip, control, prompt, text, cut, parsed.scores, parsed.failure, parsed.detail)


class AnswerStore:
    """The answers of one file; get one from :func:`open_store`. Safe to use from several threads."""

    def __init__(self, path: Path, answers: dict[str, StoredAnswer], torn: int) -> None:
        self._path, self._answers, self.torn = path, answers, torn
        self._lock = threading.Lock()

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __len__(self) -> int:
        return len(self._answers)

    def __getitem__(self, key: str) -> StoredAnswer:
        return self._answers[key]

    def append(self, answer: StoredAnswer) -> None:
        """Add one line, on disk when this returns. An answer that is there already is an error of ours."""
        # ASCII: an answer that was cut inside a character would have no UTF-8.
        line = (json.dumps(asdict(answer), allow_nan=False) + "\n").encode("ascii")
        with self._lock:
            assert answer.key not in self._answers, f"{answer.clip} was asked twice"
            with self._path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            self._answers[answer.key] = answer


@contextmanager
def open_store(path: Path) -> Iterator[AnswerStore]:
    """The answers in ``path``, for this process alone as long as the context lasts.

    A last line that a kill tore is cut off and counted in ``torn``. Raises ValueError when another run holds the file,
    and for a damaged line elsewhere, which no kill leaves behind.
    """
    try:
        with exclusive(path.with_name(f".{path.name}.lock"), wait=False):
            torn = _cut_torn_line(path)
            answers: dict[str, StoredAnswer] = {}
            for answer in read_answers(path):
                answers.setdefault(answer.key, answer)
            yield AnswerStore(path, answers, torn)
    except Busy as error:
        raise ValueError(f"{path}: another run is adding to it; wait for its end, or take another folder") from error


def read_answers(path: Path) -> Iterator[StoredAnswer]:
    """Every line of a file of answers, none for a missing file; ValueError for a line that is none of ours."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            yield StoredAnswer(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}: line {number} is no answer of this bench ({error}); remove that line to ask again"
            ) from error


def frames_digest(frames: Tensor) -> str:
    """Hex SHA-256 of frames (n,H,W,3) uint8: their shape and every value."""
    return hashlib.sha256(str(tuple(frames.shape)).encode() + frames.contiguous().numpy().tobytes()).hexdigest()


def answer_key(
    content: str,
    prompt: str,
    *,
    model: str,
    version: str,
    template: str,
    frames: int,
    jpeg_quality: int,
    max_tokens: int,
) -> str:
    """Hex SHA-256 of everything that an answer depends on. content: of :func:`frames_digest`. template: its hash."""
    asked = {
        "content": content,
        "prompt": prompt,
        "model": model,
        "version": version,
        "template": template,
        "frames": frames,
        "jpeg_quality": jpeg_quality,
        "max_tokens": max_tokens,
        "temperature": 0,
    }
    return fingerprint(asked, length=64)


def _cut_torn_line(path: Path) -> int:
    """Cut off what follows the last line end; how many lines that were (0 or 1)."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole == len(content):
        return 0
    log.warning("%s: the last line was torn by a kill and is dropped; that clip is asked again", path)
    os.truncate(path, whole)
    return 1
