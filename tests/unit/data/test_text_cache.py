"""The text cache: every text is embedded once, by whichever process comes first, and read back exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssvae.core.seeds import torch_generator
from ssvae.data.text_cache import TextCache


class Counting:
    """An encoder whose embedding is a function of the text alone, and which notes what it was asked for."""

    def __init__(self, key: str = "k", width: int = 3, length: int = 6) -> None:
        self.key, self.width, self.length = key, width, length
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> Iterator[Tensor]:
        for text in texts:
            self.asked.append(text)
            yield self.of(text)

    def of(self, text: str) -> Tensor:
        count = min(1 + len(text.split()), self.length)
        return torch.randn(count, self.width, generator=torch_generator(0, f"{self.key}/{text}"))


def test_rows_are_what_the_encoder_made_and_zero_behind_the_end(tmp_path: Path) -> None:
    encoder = Counting()
    cache = TextCache(tmp_path, encoder)
    texts = ["a red circle", None, "blue", "a red circle", ""]
    ids = cache.encode(texts)
    assert ids.tolist() == [1, 0, 2, 1, 0], "equal texts share a number; nothing and the empty text are number 0"
    tokens, present = cache.rows(ids)
    assert tokens.shape == (5, 6, 3) and present.dtype == torch.bool
    for row, text in enumerate(texts):
        expected = encoder.of(text or "")
        assert int(present[row].sum()) == len(expected) and bool(present[row, : len(expected)].all())
        assert torch.equal(tokens[row, : len(expected)], expected)
        assert float(tokens[row, len(expected) :].abs().sum()) == 0


def test_every_text_is_embedded_once_for_all_processes(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    TextCache(tmp_path, first).encode(["red", "blue", "red"])
    again = TextCache(tmp_path, second)
    tokens, _ = again.rows(again.encode(["blue", "green"]))
    assert first.asked == ["", "red", "blue"]
    assert second.asked == ["green"]
    assert torch.equal(tokens[0, :2], first.of("blue"))


def test_another_encoder_reads_nothing_of_the_first(tmp_path: Path) -> None:
    TextCache(tmp_path, Counting("one")).encode(["red"])
    other = Counting("two")
    cache = TextCache(tmp_path, other)
    tokens, _ = cache.rows(cache.encode(["red"]))
    assert other.asked == ["", "red"]
    assert torch.equal(tokens[0, :2], other.of("red"))


def test_a_small_memory_changes_nothing(tmp_path: Path) -> None:
    texts = [f"word {index}" for index in range(9)]
    caches = [TextCache(tmp_path, Counting(), memory_bytes=size) for size in (0, 1 << 20)]
    for _ in range(2):
        found = [cache.rows(cache.encode(texts)) for cache in caches]
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert len(caches[0]._held) == 1
    assert len(caches[1]._held) == 9


def test_a_stop_in_the_middle_leaves_whole_files_and_goes_on(tmp_path: Path) -> None:
    class Failing(Counting):
        def embed(self, texts: Sequence[str]) -> Iterator[Tensor]:
            for index, embedding in enumerate(super().embed(texts)):
                if index == 1:
                    raise KeyboardInterrupt
                yield embedding

    with pytest.raises(KeyboardInterrupt):
        TextCache(tmp_path, Failing()).encode(["red", "blue"])
    assert all(path.suffix == ".safetensors" for path in tmp_path.rglob("*") if path.is_file())
    after = Counting()
    TextCache(tmp_path, after).encode(["red", "blue"])
    assert after.asked == ["blue"]


def test_a_damaged_file_and_a_foreign_shape_are_named(tmp_path: Path) -> None:
    cache = TextCache(tmp_path, Counting())
    ids = cache.encode(["red"])
    path = max(tmp_path.rglob("*.safetensors"), key=lambda p: p.stat().st_mtime_ns)
    path.write_bytes(b"torn")
    with pytest.raises(ValueError, match=f"{path.name} is damaged or gone; remove it"):
        cache.rows(ids)
    path.unlink()
    with pytest.raises(ValueError, match="damaged or gone"):
        cache.rows(ids)

    class Wide(Counting):
        def of(self, text: str) -> Tensor:
            return torch.zeros(2, self.width + 1)

    with pytest.raises(ValueError, match="expected at most 6 tokens of width 3"):
        TextCache(tmp_path / "wide", Wide())
