"""What is different between two files that ought to be equal: the first place, in the terms of the format."""

from __future__ import annotations

import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file


def first_difference(wanted: Path, found: Path) -> str | None:
    """None for equal bytes, else where the two files part, with both values."""
    if not found.exists():
        return "is missing in the disturbed run"
    if not wanted.exists():
        return "is only in the disturbed run"
    if wanted.read_bytes() == found.read_bytes():
        return None
    compare = {".jsonl": _lines, ".json": _json, ".safetensors": _tensors, ".npy": _arrays}.get(wanted.suffix, _bytes)
    try:
        told = compare(wanted, found)
    # A damaged file of one of these formats.
    except (ValueError, KeyError, OSError, SafetensorError) as error:
        return f"cannot be read in one of the runs: {type(error).__name__}: {error}"
    return told or "the values are equal, the bytes are not"


def _lines(wanted: Path, found: Path) -> str | None:
    """Lines with a ``step``: the first one that differs, and its values."""
    both = zip_longest(wanted.read_text(encoding="utf-8").splitlines(), found.read_text(encoding="utf-8").splitlines())
    for number, (left, right) in enumerate(both, 1):
        if left == right:
            continue
        if left is None or right is None:
            side = "undisturbed" if right is None else "disturbed"
            return f"line {number} ({_step(left or right)}) is only in the {side} run"
        return f"line {number} ({_step(left)}): {_values(json.loads(left), json.loads(right), '')}"
    return None


def _step(line: str | None) -> str:
    return f"step {json.loads(line or '{}').get('step', '?')}"


def _json(wanted: Path, found: Path) -> str | None:
    left, right = (json.loads(path.read_text(encoding="utf-8")) for path in (wanted, found))
    return _values(left, right, "")


def _values(left: Any, right: Any, where: str) -> str | None:
    """The first key at which two JSON values differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in dict.fromkeys([*left, *right]):
            inner = f"{where}.{key}" if where else str(key)
            if (key in left) != (key in right):
                return f"{inner} is only in the {'undisturbed' if key in left else 'disturbed'} run"
            if told := _values(left[key], right[key], inner):
                return told
        return None
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return next((told for index, (one, other) in pairs if (told := _values(one, other, f"{where}[{index}]"))), None)
    return None if left == right else f"{where or 'value'} is {_short(left)} undisturbed, {_short(right)} disturbed"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _tensors(wanted: Path, found: Path) -> str | None:
    left, right = load_file(wanted), load_file(found)
    if names := sorted(left.keys() ^ right.keys()):
        return f"tensor {names[0]} is only in the {'undisturbed' if names[0] in left else 'disturbed'} run"
    return next((f"tensor {name}: {told}" for name in left if (told := _array(left[name], right[name]))), None)


def _arrays(wanted: Path, found: Path) -> str | None:
    return _array(np.load(wanted, allow_pickle=False), np.load(found, allow_pickle=False))


def _array(left: np.ndarray, right: np.ndarray) -> str | None:
    if left.shape != right.shape or left.dtype != right.dtype:
        return f"{left.dtype} {left.shape} undisturbed, {right.dtype} {right.shape} disturbed"
    # Bits, not values: NaN is equal to itself here, and -0.0 is not 0.0.
    kind = np.dtype(f"u{left.dtype.itemsize}")
    differ = left.reshape(-1).view(kind) != right.reshape(-1).view(kind)
    if not differ.any():
        return None
    first = int(differ.argmax())
    place = ", ".join(map(str, np.unravel_index(first, left.shape)))
    values = f"{left.reshape(-1)[first]!r} undisturbed, {right.reshape(-1)[first]!r} disturbed"
    return f"{int(differ.sum())} of {left.size} values differ, first [{place}]: {values}"


def _bytes(wanted: Path, found: Path) -> str:
    left, right = wanted.read_bytes(), found.read_bytes()
    pairs = zip(left, right, strict=False)
    place = next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(left), len(right)))
    return f"byte {place} of {len(left)} ({len(right)} disturbed)"
