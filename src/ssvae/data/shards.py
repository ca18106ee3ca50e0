"""Index local tar shards by offset, so that any sample is one read away and nothing is unpacked.

Format: ``NAME.tar`` with, for each sample, ``KEY.mp4`` (or ``.jpg/.png/...``) and optionally ``KEY.id`` and
``KEY.txt`` (caption); beside it ``NAME.meta.jsonl`` with one JSON object a line that has at least ``key``. Meta lines
are hints: size, rate and length are taken from the file itself when it is decoded.

Damage never stops the indexing: every problem is recorded with its reason and its name, and what is readable is kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from braceexpand import braceexpand

from ssvae.data.tarscan import Member, scan_tar

logger = logging.getLogger(__name__)

VIDEO_EXTENSIONS = frozenset({"mp4", "m4v", "mov", "webm", "mkv", "avi"})
IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "bmp"})


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip or image: where its bytes lie and what its meta line says.

    key: unique in the index (a key that occurs again in another tar becomes ``KEY#2``). kind: "video" or "image".
    """

    key: str
    kind: str
    tar: Path
    media: Member
    text: Member | None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> int | None:
        """Integer class from the meta line, None without one."""
        value = self.meta.get("label")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def read(self) -> bytes:
        """The media file's bytes."""
        return self._read(self.media)

    def caption(self) -> str | None:
        """The caption: ``.txt`` if there is one, else the meta line's ``caption``, else None."""
        if self.text is not None:
            return self._read(self.text).decode("utf-8", errors="replace").strip() or None
        value = self.meta.get("caption")
        return value if isinstance(value, str) and value else None

    def _read(self, member: Member) -> bytes:
        with self.tar.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a data set: reason (a fixed word), name (file, line or sample), detail for people."""

    reason: str
    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """All samples of one or more folders.

    fingerprint: sha256 over keys, member names, sizes and the first and last 512 bytes of each payload; it follows
    the content, not the place.
    """

    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.samples)

    def by_key(self) -> dict[str, Sample]:
        """Samples by key."""
        return {sample.key: sample for sample in self.samples}

    def keys(self, kind: str | None = None) -> list[str]:
        """Keys of all samples, or of one kind ("video" or "image"), in index order."""
        return [sample.key for sample in self.samples if kind is None or sample.kind == kind]

    def counts(self) -> dict[str, int]:
        """Number of problems by reason."""
        return dict(Counter(problem.reason for problem in self.problems))


def index_shards(path: str | Path) -> ShardIndex:
    """Index ``path``: one or several (comma separated, ``{000..012}``-expanded) folders of tars, or tars.

    Raises ValueError when the path is missing, is a URL or a shell pipe, or holds no readable sample.
    """
    samples: list[Sample] = []
    problems: list[Problem] = []
    digest = hashlib.sha256()
    seen: Counter[str] = Counter()
    for tar in find_tars(str(path)):
        meta, meta_problems = _read_meta(tar)
        members, tar_problem = scan_tar(tar)
        problems += meta_problems
        if tar_problem:
            problems.append(Problem("damaged_tar", str(tar), tar_problem))
        samples += _group(tar, members, meta, seen, digest, problems)
    if not samples:
        found = "; ".join(f"{problem.reason} {problem.name}" for problem in problems[:3])
        raise ValueError(
            f"data.path={str(path)!r}: no sample with a video or an image in any tar{f' ({found})' if found else ''}: "
            "a sample is KEY.mp4 or KEY.jpg (with KEY.id, KEY.txt) inside a .tar"
        )
    for reason, count in sorted(Counter(problem.reason for problem in problems).items()):
        first = next(problem for problem in problems if problem.reason == reason)
        logger.warning("data: %d x %s, first: %s (%s)", count, reason, first.name, first.detail)
    return ShardIndex(tuple(samples), tuple(problems), digest.hexdigest())


def expand(path: str) -> list[str]:
    """The single places of ``path``: split at commas outside braces, then brace-expanded."""
    parts, depth, start = [], 0, 0
    for position, letter in enumerate(path):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            parts.append(path[start:position])
            start = position + 1
    parts.append(path[start:])
    return [place for part in parts if part.strip() for place in braceexpand(part.strip())]


def is_url(place: str) -> bool:
    """Whether a place is given by a scheme (``https://``) instead of a local path."""
    return "://" in place


def find_tars(path: str) -> list[Path]:
    """All tars of ``path``, in the order given and by name inside a folder. Raises ValueError."""
    tars: list[Path] = []
    places = expand(path)
    if not places:
        raise ValueError("data.path is empty: give a folder with .tar shards, or choose data=synthetic")
    for place in places:
        if place.startswith("pipe:"):
            raise ValueError(f"data.path={place!r}: shell pipes are not run: give a folder, or an http(s) URL")
        if is_url(place):
            raise ValueError(
                f"data.path={place!r}: random access needs local tars: download the shards and give their folder "
                "(VideoShards alone reads http(s) URLs, one after the other)"
            )
        here = Path(place).expanduser()
        if not here.exists():
            raise ValueError(f"data.path={place!r}: no such file or folder (looked for {here.absolute()})")
        found = sorted(here.glob("*.tar")) if here.is_dir() else [here]
        if not found:
            raise ValueError(f"data.path={place!r}: the folder holds no .tar shard: give the folder that holds them")
        tars += found
    return tars


def split(keys: Iterable[str], held_out: float, seed: int = 0) -> tuple[list[str], list[str]]:
    """(train keys, held-out keys), each in the order given.

    A key goes by its own hash with ``seed``, so its side never changes when the data set grows; ``held_out`` is the
    share in [0, 1) that is expected to be held out. Of two or more keys at least one is on either side (the ones
    whose hashes are nearest to the limit), unless ``held_out`` is 0. Copies of a key (``KEY#2``) stay together.
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"data.heldout_share={held_out} must lie in [0, 1)")
    places = {key: _place(key, seed) for key in keys}
    held = {key for key, place in places.items() if place < held_out}
    if held_out > 0 and len(places) >= 2:
        if not held:
            lowest = min(places.values())
            held = {key for key, place in places.items() if place == lowest}
        elif len(held) == len(places):
            highest = max(places.values())
            held = {key for key, place in places.items() if place != highest}
    return [key for key in places if key not in held], [key for key in places if key in held]


def _place(key: str, seed: int) -> float:
    base = key.split("#", 1)[0]
    return int.from_bytes(hashlib.sha256(f"{seed}:{base}".encode()).digest()[:8], "big") / 2**64


def read_meta_lines(lines: Iterable[str], name: str) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """Meta objects by key, and a problem for each line that is not a JSON object with a ``key``."""
    meta: dict[str, dict[str, Any]] = {}
    problems = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(Problem("malformed_meta", f"{name}:{number}", str(error)))
            continue
        if not isinstance(entry, dict) or "key" not in entry:
            problems.append(Problem("malformed_meta", f"{name}:{number}", "not a JSON object with a key"))
            continue
        meta[str(entry["key"])] = entry
    return meta, problems


def _read_meta(tar: Path) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    path = tar.with_suffix(".meta.jsonl")
    if not path.is_file():
        return {}, [Problem("missing_meta_file", str(path), "no meta lines for this tar")]
    with path.open(encoding="utf-8", errors="replace") as lines:
        return read_meta_lines(lines, str(path))


def group_members(members: Iterable[Member]) -> Iterator[tuple[str, list[Member]]]:
    """Members by key: the name up to the first dot of its last part, as WebDataset groups them; in file order."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(member.key, []).append(member)
    yield from groups.items()


def _group(
    tar: Path,
    members: Sequence[Member],
    meta: dict[str, dict[str, Any]],
    seen: Counter[str],
    digest: Any,
    problems: list[Problem],
) -> list[Sample]:
    samples = []
    with tar.open("rb") as file:
        for key, group in group_members(members):
            media = next((m for m in group if m.extension in VIDEO_EXTENSIONS | IMAGE_EXTENSIONS), None)
            if media is None:
                problems.append(Problem("no_media", f"{tar}:{key}", "neither a video nor an image"))
                continue
            if meta and key not in meta:
                problems.append(Problem("missing_meta", f"{tar}:{key}", "no meta line with this key"))
            seen[key] += 1
            unique = key if seen[key] == 1 else f"{key}#{seen[key]}"
            for member in group:
                _fingerprint(digest, unique, member, file)
            samples.append(
                Sample(
                    key=unique,
                    kind="video" if media.extension in VIDEO_EXTENSIONS else "image",
                    tar=tar,
                    media=media,
                    text=next((member for member in group if member.extension == "txt"), None),
                    meta=meta.get(key, {}),
                )
            )
    return samples


def _fingerprint(digest: Any, key: str, member: Member, file: BinaryIO) -> None:
    digest.update(f"{key}\0{member.name}\0{member.size}\0".encode())
    file.seek(member.offset)
    digest.update(file.read(min(512, member.size)))
    file.seek(member.offset + max(0, member.size - 512))
    digest.update(file.read(min(512, member.size)))
