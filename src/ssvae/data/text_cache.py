"""Embeddings of texts on disk: a frozen encoder sees every text once, and training reads what it made.

Layout of a folder: ``<encoder's key>/<first two digits>/<SHA-256 of the text>.safetensors``, one text a file, each
whole or absent, so that any number of processes may fill one folder. The encoder's key holds its weights, its tokeniser
and the largest length, so what another encoder made is never read.

Dimension legend
    B texts, n tokens of one text, L the most that a text has, E the encoder's width    embedding (n,E) float32
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssvae.core.files import write_atomic

MEMORY_BYTES = 2 * 1024**3
TENSOR = "embedding"


class Encoder(Protocol):
    """What :class:`TextCache` needs of a text encoder (models/text_encoder.py)."""

    width: int
    length: int
    key: str

    def embed(self, texts: Sequence[str]) -> Iterator[Tensor]:
        """One embedding (n,E) float32 a text, 1 <= n <= length."""
        ...


class TextCache:
    """Texts by number: :meth:`encode` gives each a number, :meth:`rows` their embeddings.

    Number 0 is the empty text, which stands for no condition. Numbers follow the order of asking and hold in this
    process only; files go by the text. memory_bytes: embeddings that are kept in memory, the latest first.
    """

    def __init__(self, folder: str | Path, encoder: Encoder, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self.folder = Path(folder) / encoder.key
        self.width, self.length = encoder.width, encoder.length
        self._encoder = encoder
        self._memory_bytes = memory_bytes
        self._held: OrderedDict[int, Tensor] = OrderedDict()
        self._held_bytes = 0
        self._texts: list[str] = []
        self._numbers: dict[str, int] = {}
        self.encode([None])

    def encode(self, texts: Sequence[str | None]) -> Tensor:
        """Texts -> numbers (B,) int64, None as the empty text; those without a file go through the encoder, once each.

        Raises ValueError as the encoder does.
        """
        named = [text or "" for text in texts]
        new = list(dict.fromkeys(text for text in named if text not in self._numbers))
        missing = [text for text in new if not self._path(text).is_file()]
        if missing:
            for text, embedding in zip(missing, self._encoder.embed(missing), strict=True):
                self._check(embedding, text)
                write_atomic(self._path(text), partial(save_file, {TENSOR: embedding.float().contiguous()}))
        for text in new:
            self._numbers[text] = len(self._texts)
            self._texts.append(text)
        return torch.tensor([self._numbers[text] for text in named], dtype=torch.int64)

    def rows(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers (B,) -> embeddings (B,L,E) on the CPU, zero behind a text's end, and which are there, (B,L) bool.

        Raises ValueError for a damaged file; remove it, and the next run makes it again.
        """
        tokens = torch.zeros(len(ids), self.length, self.width)
        present = torch.zeros(len(ids), self.length, dtype=torch.bool)
        for row, number in enumerate(ids.tolist()):
            embedding = self._embedding(number)
            tokens[row, : len(embedding)] = embedding
            present[row, : len(embedding)] = True
        return tokens, present

    def _embedding(self, number: int) -> Tensor:
        """(n,E), from memory where it was asked for lately."""
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        embedding = self._read(self._texts[number])
        self._held[number] = embedding
        self._held_bytes += embedding.nbytes
        while self._held_bytes > self._memory_bytes and len(self._held) > 1:
            _, dropped = self._held.popitem(last=False)
            self._held_bytes -= dropped.nbytes
        return embedding

    def _read(self, text: str) -> Tensor:
        path = self._path(text)
        try:
            embedding = load_file(path)[TENSOR]
        except (OSError, KeyError, SafetensorError) as error:
            raise ValueError(f"{path} is damaged or gone; remove it, and it is made again: {error}") from error
        self._check(embedding, text)
        return embedding

    def _check(self, embedding: Tensor, text: str) -> None:
        count, width = embedding.shape
        if not 1 <= count <= self.length or width != self.width:
            raise ValueError(
                f"the embedding of {text!r} in {self.folder} has shape {(count, width)}, "
                f"expected at most {self.length} tokens of width {self.width}; remove the folder"
            )

    def _path(self, text: str) -> Path:
        name = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"
