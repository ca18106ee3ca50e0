"""Kept answers: whole after a kill, one owner at a time, found again by everything that they depend on."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from ssvae.metrics.reward_parse import parse_answer
from ssvae.metrics.reward_prompt import QUESTIONS
from ssvae.metrics.reward_store import StoredAnswer, answer_key, frames_digest, open_store, read_answers


def answer(key: str, text: str = "Alignment") -> StoredAnswer:
    parsed = parse_answer(text, QUESTIONS["v2"], cut=False)
    return StoredAnswer.of(key, f"{key}.mp4", False, "a prompt", text, False, parsed)


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "scores.jsonl"
    odd = answer("b", 'Ünïcode, a cut pair \ud83d, a line\nend \u2028 and a quote "')
    with open_store(path) as store:
        store.append(answer("a"))
        store.append(odd)
        assert ("a" in store, "c" in store, len(store), store.torn) == (True, False, 2, 0)
    with open_store(path) as store:
        assert store["b"] == odd and store["a"] == answer("a") and len(store) == 2
    assert [json.loads(line)["clip"] for line in path.read_text().splitlines()] == ["a.mp4", "b.mp4"]


def test_every_cut_of_the_last_line_is_repaired(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "scores.jsonl"
    with open_store(path) as store:
        store.append(answer("a"))
        first = path.stat().st_size
        store.append(answer("b"))
    whole = path.read_bytes()
    for cut in (first + 1, first + 40, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with caplog.at_level(logging.WARNING), open_store(path) as store:
            assert (store.torn, "a" in store, "b" in store) == (1, True, False)
            store.append(answer("b"))
        assert path.read_bytes() == whole
        assert "torn by a kill" in caplog.text
        caplog.clear()
    path.write_bytes(whole[:10])
    with open_store(path) as store:
        assert (store.torn, len(store)) == (1, 0)


def test_a_damaged_line_elsewhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with open_store(path) as store:
        store.append(answer("a"))
    path.write_bytes(b'{"half": \n' + path.read_bytes())
    with pytest.raises(ValueError, match=r"scores\.jsonl: line 1 is no answer of this bench"), open_store(path):
        pass
    path.write_text('{"key": "of something else"}\n')
    with pytest.raises(ValueError, match="line 1 is no answer"):
        list(read_answers(path))


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with open_store(path), pytest.raises(ValueError, match="another run is adding to it"), open_store(path):
        pass
    with open_store(path) as store:
        assert len(store) == 0


def test_the_same_answer_twice_is_an_error(tmp_path: Path) -> None:
    with open_store(tmp_path / "scores.jsonl") as store:
        store.append(answer("a"))
        with pytest.raises(AssertionError, match="asked twice"):
            store.append(answer("a"))


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with open_store(path) as store, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.append(answer(str(number), "x" * 3000)), range(64)))
    assert sorted(int(one.key) for one in read_answers(path)) == list(range(64))


def test_a_missing_file_holds_nothing(tmp_path: Path) -> None:
    assert list(read_answers(tmp_path / "none.jsonl")) == []


def test_keys_differ_in_everything_that_an_answer_depends_on() -> None:
    frames = torch.arange(2 * 3 * 4 * 3, dtype=torch.uint8).view(2, 3, 4, 3)
    base: dict[str, Any] = {
        "content": frames_digest(frames),
        "prompt": "p",
        "model": "m",
        "version": "v1",
        "template": "t",
        "frames": 8,
        "jpeg_quality": 95,
        "max_tokens": 4096,
    }
    other = frames.clone()
    other[1, 2, 3, 2] += 1
    changes: list[dict[str, Any]] = [
        {"content": frames_digest(other)},
        {"content": frames_digest(frames.view(2, 4, 3, 3))},
        {"content": frames_digest(frames.flip(0))},
        {"prompt": "p "},
        {"model": "n"},
        {"version": "v2"},
        {"template": "u"},
        {"frames": 9},
        {"jpeg_quality": 94},
        {"max_tokens": 4095},
    ]
    keys = [answer_key(**{**base, **change}) for change in [{}, *changes]]
    assert len(set(keys)) == len(keys)
    assert answer_key(**{**base, "content": frames_digest(frames.clone())}) == keys[0]
