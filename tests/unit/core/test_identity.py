"""Canonical hashes: what is equal, what is not, and that the machine does not matter."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssvae.core.identity import canonical, file_sha256, fingerprint, git_state, provenance

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_known_text_and_hash() -> None:
    """A golden value: identities must not change under anyone's feet."""
    value = {"b": [1, 2.0, 0.1], "a": None, "c": {"y": True, "x": "é"}}
    assert canonical(value) == '{"a":null,"b":[1,2,0.1],"c":{"x":"\\u00e9","y":true}}'
    assert fingerprint(value) == "4c1854af29d7"
    assert fingerprint(value, 8) == "4c1854af"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"x": 1, "y": 2}, {"y": 2, "x": 1}),
        (1.0, 1),
        (1e3, 1000),
        ([1, 2], (1, 2)),
        ({"x": 5.0e-4}, {"x": 0.0005}),
        ({1: "a"}, {"1": "a"}),
        (-0.0, 0),
    ],
)
def test_equal(a: Any, b: Any) -> None:
    assert fingerprint(a) == fingerprint(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (0.1, 0.1 + 2**-56),
        (1, True),
        (0, False),
        (None, "null"),
        ("1", 1),
        ([1, 2], [2, 1]),
        ([], {}),
        ({"x": None}, {}),
        ([[1], 2], [1, [2]]),
        (2.0**53, 2**53 + 1),
    ],
)
def test_different(a: Any, b: Any) -> None:
    assert fingerprint(a) != fingerprint(b)


@pytest.mark.parametrize("value", [{"x": object()}, [Path("/x")], {"x": {1, 2}}, b"bytes"])
def test_only_plain_values_have_a_place(value: Any) -> None:
    with pytest.raises(TypeError, match="no place in an identity"):
        canonical(value)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical({"x": value})


@given(PLAIN)
def test_reading_the_canonical_text_gives_the_same_text(value: Any) -> None:
    import json

    assert canonical(json.loads(canonical(value))) == canonical(value)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_equal_exactly_when_their_texts_are(a: float, b: float) -> None:
    assert (canonical(a) == canonical(b)) == (a == b)


def test_file_hash_is_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(b"x" * (1 << 20) + b"y")
    one = file_sha256(path)
    path.write_bytes(b"x" * (1 << 20) + b"z")
    assert file_sha256(path) != one


def test_git_state_of_a_repository_and_of_a_plain_folder(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    repository = tmp_path / "repository"
    author = ["-c", "user.name=n", "-c", "user.email=e@x"]
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    subprocess.run(["git", "-C", str(repository), *author, "commit", "-q", "--allow-empty", "-m", "m"], check=True)
    clean = git_state(repository)
    assert clean["dirty"] is False
    assert clean["commit"] is not None and len(clean["commit"]) == 40
    (repository / "new").touch()
    assert git_state(repository)["dirty"] is True
    assert git_state(plain) == {"commit": None, "dirty": None}


def test_provenance_names_versions_and_machine(tmp_path: Path) -> None:
    import torch

    found = provenance(tmp_path)
    assert found["versions"]["torch"] == torch.__version__
    assert set(found["machine"]) == {"system", "processor", "python"}
