"""Prompts from a file, and which clip of a folder was made from which.

Formats, told apart by content unless one is named:

* ``lines``: one prompt a line (VBench's ``all_dimension.txt``, MovieGenBench's ``MovieGenVideoBench.txt``). Blank lines
  are skipped, and lines that are ``#`` or begin with ``# ``. Some copies of VBench's list lack a line end between two
  dimensions, which glues two prompts together; its JSON file does not have this.
* ``vbench``: a JSON list of objects with ``prompt_en`` (``VBench_full_info.json``), or of plain texts.
* ``csv``: a table with a header, comma or tab (MovieGenBench's ``MovieGenVideoBenchWithTag.csv``).
* ``jsonl``: one object a line (MovieGenBench's audio lists have ``video_prompt``).

In the last three a field ``video`` (or ``file``, ``filename``) may name the clip that belongs to the prompt.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

PromptFormat = Literal["lines", "vbench", "csv", "jsonl"]
Pairing = Literal["auto", "name", "order"]
PROMPT_FIELDS = ("prompt", "prompt_en", "video_prompt", "caption", "text")
VIDEO_FIELDS = ("video", "file", "filename", "video_name")


@dataclass(frozen=True, slots=True)
class PromptFile:
    """texts: the prompts in the file's order, stripped. videos: the clip that each names, None where it names none.

    duplicates: texts that come more than once, and how often.
    """

    path: Path
    format: PromptFormat
    texts: tuple[str, ...]
    videos: tuple[str | None, ...]

    @property
    def duplicates(self) -> dict[str, int]:
        return {text: count for text, count in Counter(self.texts).items() if count > 1}


def read_prompts(path: Path, kind: PromptFormat | None = None) -> PromptFile:
    """Read a file of prompts. kind: its format; None: told by its content.

    Raises ValueError (file, place, remedy) for a file that cannot be read, is not of its format, holds an entry without
    a prompt, or no prompt at all.
    """
    if kind is not None and kind not in get_args(PromptFormat):
        raise ValueError(f"format {kind!r}: must be one of {', '.join(get_args(PromptFormat))}")
    try:
        # utf-8-sig: spreadsheets begin their files with a mark that would become part of the first prompt.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompts {path}: cannot be read ({error}); give a UTF-8 text file") from error
    kind = kind or detect_format(text)
    try:
        if kind == "lines":
            found = [_entry("", line) for line in _lines(text)]
        else:
            entries = {"vbench": _json_entries, "csv": _csv_entries, "jsonl": _jsonl_entries}[kind](text)
            found = [_entry(where, entry) for where, entry in entries]
    except _FormatError as error:
        raise ValueError(f"prompts {path} (read as {kind}): {error}") from error
    if not found:
        raise ValueError(f"prompts {path} (read as {kind}): holds no prompt")
    return PromptFile(path, kind, tuple(text for text, _ in found), tuple(video for _, video in found))


def detect_format(text: str) -> PromptFormat:
    """The format that a file's content has: structured only where it reads as such, ``lines`` else."""
    first = next((line for line in text.splitlines() if line.strip()), "").strip()
    if first.startswith("["):
        try:
            if isinstance(json.loads(text), list):
                return "vbench"
        except ValueError:
            return "lines"  # "[close-up] a cat"
    if first.startswith("{"):
        try:
            if isinstance(json.loads(first), dict):
                return "jsonl"
        except ValueError:
            return "lines"
    header = [cell.strip().strip('"').casefold() for cell in re.split(r"[,\t]", first)]
    # A prompt may hold the word "text" between commas: a header is all short names, one of them known.
    if any(cell in PROMPT_FIELDS for cell in header) and all(re.fullmatch(r"\w{1,40}", cell) for cell in header):
        return "csv"
    return "lines"


def pair_clips(names: Sequence[str], prompts: PromptFile, how: Pairing = "auto") -> tuple[list[str], str]:
    """The prompt of each clip of ``names`` (file names), and in words how they were matched.

    By name: through the file's own video field; else through VBench's names, ``<prompt>.mp4`` or ``<prompt>-<n>.mp4``
    (several clips of one prompt). By order: sorted names, numbers by value (2 before 10), against the prompts in the
    file's order, one each. auto: by name where every clip has a match; by order where none has and the counts agree.
    Raises ValueError otherwise.
    """
    if how not in get_args(Pairing):
        raise ValueError(f"pairing {how!r}: must be one of {', '.join(get_args(Pairing))}")
    lookup = _NameLookup(prompts)
    matched = {name: text for name in names if (text := lookup.prompt(name)) is not None}
    if how != "order" and len(matched) == len(names) and names:
        return [matched[name] for name in names], "by name"
    unmatched = [name for name in names if name not in matched]
    counts = f"{len(names)} clips, {len(prompts.texts)} prompts"
    if how == "name" or (how == "auto" and matched):
        raise ValueError(
            f"{counts}: {len(unmatched)} clips have no prompt of their name ({', '.join(unmatched[:3])}); call them "
            "<prompt>-<number>.mp4, or name each clip in a column 'video' of a csv or jsonl file"
        )
    if len(names) != len(prompts.texts):
        raise ValueError(
            f"{counts}: they can be matched by order only if there is one prompt a clip; else call the clips "
            "<prompt>-<number>.mp4, or name each clip in a column 'video' of a csv or jsonl file"
        )
    texts = dict(zip(sorted(names, key=natural_order), prompts.texts, strict=True))
    return [texts[name] for name in names], "by order of names"


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorting key by which clip_2 comes before clip_10."""
    parts = [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
    return parts, name


class _FormatError(Exception):
    """A place in a file and what is wrong there."""


def _lines(text: str) -> Iterator[str]:
    # Only the line ends of text files: others, such as U+2028, may stand inside a prompt.
    for line in re.split(r"\r\n|\n|\r", text):
        stripped = line.strip()
        if stripped and stripped != "#" and not stripped.startswith("# "):
            yield stripped


def _json_entries(text: str) -> Iterator[tuple[str, Any]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise _FormatError(f"is no JSON: {error}") from error
    if not isinstance(found, list):
        raise _FormatError(f"must hold a list, not {type(found).__name__}")
    yield from ((f"entry {number}", entry) for number, entry in enumerate(found, start=1))


def _jsonl_entries(text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except ValueError as error:
            raise _FormatError(f"line {number} is no JSON: {error}") from error


def _csv_entries(text: str) -> Iterator[tuple[str, Any]]:
    text = text.lstrip("\r\n")
    tabs = "\t" in text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", strict=True)
    try:
        header = [cell.strip().casefold() for cell in next(reader, [])]
        if not any(name in header for name in PROMPT_FIELDS):
            raise _FormatError(f"the header ({', '.join(header)[:80]}) has no column {', '.join(PROMPT_FIELDS)}")
        for row in reader:
            if row:
                yield f"line {reader.line_num}", dict(zip(header, row, strict=False))
    except csv.Error as error:
        raise _FormatError(f"line {reader.line_num}: {error}") from error


def _entry(where: str, entry: Any) -> tuple[str, str | None]:
    """(prompt, clip that it names) of one object, or of a plain text."""
    fields: Mapping[str, Any] = {"prompt": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, Mapping):
        raise _FormatError(f"{where} is {type(entry).__name__}, not an object with one of {', '.join(PROMPT_FIELDS)}")
    prompt = next((fields[name] for name in PROMPT_FIELDS if name in fields), None)
    if not isinstance(prompt, str) or not prompt.strip():
        raise _FormatError(f"{where} has no text in any of {', '.join(PROMPT_FIELDS)}")
    video = next((fields[name] for name in VIDEO_FIELDS if fields.get(name)), None)
    return prompt.strip(), None if video is None else PurePath(str(video)).name


class _NameLookup:
    """From a clip's name to its prompt."""

    def __init__(self, prompts: PromptFile) -> None:
        pairs = zip(prompts.videos, prompts.texts, strict=True)
        self._named = {video: text for video, text in pairs if video is not None}
        self._known = set(prompts.texts)

    def prompt(self, name: str) -> str | None:
        """None for a name that leads to no prompt."""
        stem = PurePath(name).stem
        if self._named:
            return self._named.get(name, self._named.get(stem))
        texts = (stem.strip(), re.sub(r"-\d+$", "", stem).strip())
        return next((text for text in texts if text in self._known), None)
