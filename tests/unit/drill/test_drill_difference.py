"""The first difference between two files is named with its place and both values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ssvae.drill.difference import first_difference

Pair = Callable[[str, bytes, bytes], str | None]


@pytest.fixture
def told(tmp_path: Path) -> Pair:
    def compare(name: str, wanted: bytes, found: bytes) -> str | None:
        left, right = tmp_path / f"left-{name}", tmp_path / f"right-{name}"
        left.write_bytes(wanted)
        right.write_bytes(found)
        return first_difference(left, right)

    return compare


def lines(*values: object) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def test_equal_bytes_are_no_difference(told: Pair) -> None:
    for name in ("a.jsonl", "a.json", "a.npy", "a.safetensors", "a.csv"):
        assert told(name, b"{broken", b"{broken") is None


def test_a_file_of_one_run_only(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    assert first_difference(tmp_path / "there", tmp_path / "gone") == "is missing in the disturbed run"
    assert first_difference(tmp_path / "gone", tmp_path / "there") == "is only in the disturbed run"


def test_lines_name_step_key_and_values(told: Pair) -> None:
    whole = lines({"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25})
    other = lines({"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.125})
    assert told("a.jsonl", whole, other) == "line 2 (step 2): loss is 0.25 undisturbed, 0.125 disturbed"
    assert (
        told("a.jsonl", whole, whole.splitlines(keepends=True)[0]) == "line 2 (step 2) is only in the undisturbed run"
    )
    longer = whole + lines({"step": 2, "loss": 0.25})
    assert told("a.jsonl", whole, longer) == "line 3 (step 2) is only in the disturbed run"
    digests = [lines({"step": 1, "keys": keys}) for keys in ("00ff", "00fe")]
    assert told("a.jsonl", *digests) == 'line 1 (step 1): keys is "00ff" undisturbed, "00fe" disturbed'


def test_json_names_the_key(told: Pair) -> None:
    left, right = ([{"name": "psnr", "value": value}] for value in (20.5, 20.25))
    assert told("a.json", lines(left), lines(right)) == "[0].value is 20.5 undisturbed, 20.25 disturbed"
    assert told("a.json", lines({"a": 1}), lines({"a": 1, "b": 2})) == "b is only in the disturbed run"
    assert told("a.json", lines({"a": 1}), b'{"a":  1}\n') == "the values are equal, the bytes are not"


def test_arrays_are_compared_bit_by_bit(tmp_path: Path) -> None:
    left, right = tmp_path / "left.npy", tmp_path / "right.npy"
    values = np.zeros((2, 3), dtype=np.float32)
    values[0, 0] = np.nan
    np.save(left, values)
    values[1, 2] = -0.0
    np.save(right, values)
    told = first_difference(left, right)
    assert told is not None and told.startswith("1 of 6 values differ, first [1, 2]")
    np.save(right, values.astype(np.float64))
    assert first_difference(left, right) == "float32 (2, 3) undisturbed, float64 (2, 3) disturbed"


def test_weights_name_the_tensor(tmp_path: Path) -> None:
    left, right = tmp_path / "left.safetensors", tmp_path / "right.safetensors"
    save_file({"a": np.zeros(3), "b": np.ones((2, 2))}, left)
    save_file({"a": np.zeros(3), "b": np.array([[1.0, 1.0], [2.0, 1.0]])}, right)
    told = first_difference(left, right)
    assert told is not None and told.startswith("tensor b: 1 of 4 values differ, first [1, 0]: ")
    assert "1.0" in told and "2.0" in told
    save_file({"a": np.zeros(3)}, right)
    assert first_difference(left, right) == "tensor b is only in the undisturbed run"


def test_a_damaged_file_is_a_difference(told: Pair) -> None:
    for name in ("a.json", "a.npy", "a.safetensors"):
        said = told(name, b"{", b"[")
        assert said is not None and said.startswith("cannot be read in one of the runs"), name
    assert told("a.csv", b"1,2", b"1,3,4") == "byte 2 of 3 (5 disturbed)"
