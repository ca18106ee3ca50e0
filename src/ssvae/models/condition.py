"""What a video is generated from: captions, texts, classes, or nothing, as integer ids that batch.

Captions go through a hashing tokeniser: no vocabulary file, no downloaded text encoder, equal ids on every machine.
A token's embedding meets its position in a small network *before* the mean over tokens, so the order of words counts
("red on blue" is not "blue on red").

Texts go through a frozen text encoder, once each: an id names a text, and :class:`TextSource` holds the embedding.
So guidance, dropout and the ranks' shares are the same index arithmetic for every kind of condition.

Dimension legend
    B batch, L tokens of a caption or text, D width of the condition vector, E width of the text encoder
    ids (B,L) for captions, (B,) for texts and classes, int64
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from ssvae.models.dit_blocks import TextTokens

ConditionKind = Literal["caption", "text", "class", "none"]
CONDITION_KINDS: tuple[ConditionKind, ...] = ("caption", "text", "class", "none")
PAD, NULL = 0, 1
"""Reserved token ids: padding behind a caption, and the one token of the null caption."""
FIRST_WORD = 2
_WORD = re.compile(r"[a-z0-9]+")


def token_id(word: str, vocabulary: int) -> int:
    """Stable id of a word in [2, vocabulary), independent of Python's hash seed."""
    digest = hashlib.sha256(word.encode()).digest()
    return FIRST_WORD + int.from_bytes(digest[:8], "big") % (vocabulary - FIRST_WORD)


def encode_captions(captions: Sequence[str | None], *, vocabulary: int = 512, length: int = 24) -> Tensor:
    """Captions -> ids (B, length) int64, cut or padded to ``length``.

    Words are lower-cased runs of letters and digits. None and captions without a word become the null caption.
    Raises ValueError for a vocabulary below 3 or a length below 1.
    """
    if vocabulary <= FIRST_WORD:
        raise ValueError(f"vocabulary {vocabulary} must be above {FIRST_WORD}: two ids are reserved; 512 is usual")
    if length < 1:
        raise ValueError(f"length {length} must be at least 1; 24 is usual")
    ids = torch.full((len(captions), length), PAD, dtype=torch.int64)
    for row, caption in enumerate(captions):
        words = _WORD.findall((caption or "").lower())[:length]
        tokens = [token_id(word, vocabulary) for word in words] or [NULL]
        ids[row, : len(tokens)] = torch.tensor(tokens)
    return ids


def encode_classes(labels: Sequence[int | None], *, classes: int) -> Tensor:
    """Class labels -> ids (B,) int64; None becomes the null class, id ``classes``. Raises ValueError out of range."""
    for label in labels:
        if label is not None and not 0 <= label < classes:
            raise ValueError(f"label {label} is outside [0, {classes}); set classes to at least {label + 1}")
    return torch.tensor([classes if label is None else label for label in labels], dtype=torch.int64)


class CaptionEmbedding(nn.Module):
    """ids (B,L) -> (B,D): token + position through a small network, then the mean over non-padding tokens."""

    def __init__(self, *, width: int, vocabulary: int = 512, length: int = 24) -> None:
        super().__init__()
        self.vocabulary, self.length = vocabulary, length
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.5)
        self.mix = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, ids: Tensor) -> Tensor:
        if ids.ndim != 2 or ids.shape[1] != self.length:
            raise ValueError(f"caption ids must be (B,{self.length}) as encode makes them, got {tuple(ids.shape)}")
        present = (ids != PAD).unsqueeze(-1).to(self.positions.dtype)
        mixed = self.mix(self.tokens(ids) + self.positions) * present
        return mixed.sum(dim=1) / present.sum(dim=1).clamp_min(1)

    def encode(self, captions: Sequence[str | int | None]) -> Tensor:
        """Captions -> ids (B,L)."""
        return encode_captions(_texts(captions), vocabulary=self.vocabulary, length=self.length)


def _texts(conditions: Sequence[str | int | None]) -> list[str | None]:
    """ValueError where a label stands for a text."""
    for condition in conditions:
        if isinstance(condition, int):
            raise ValueError(f"a caption condition needs text, got the label {condition}; use condition='class'")
    return [condition if isinstance(condition, str) else None for condition in conditions]


class TextSource(Protocol):
    """Embeddings of texts by a frozen encoder, by id."""

    @property
    def width(self) -> int:
        """E."""
        ...

    @property
    def length(self) -> int:
        """L, the most tokens that a text has."""
        ...

    def encode(self, texts: Sequence[str | None]) -> Tensor:
        """Texts -> ids (B,) int64 on the CPU; None is the empty text. Embeds what has no embedding yet."""
        ...

    def rows(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids (B,) -> embeddings (B,L,E), zero behind the end of a text, and which of them are there, (B,L) bool."""
        ...


class BlankTexts:
    """A :class:`TextSource` that knows only sizes and makes zeros, on the device of the ids: to count and to cost."""

    def __init__(self, width: int, length: int) -> None:
        self.width, self.length = width, length

    def encode(self, texts: Sequence[str | None]) -> Tensor:
        return torch.zeros(len(texts), dtype=torch.int64)

    def rows(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(ids), self.length)
        return torch.zeros(*shape, self.width, device=ids.device), torch.ones(
            shape, dtype=torch.bool, device=ids.device
        )


class TextEmbedding(nn.Module):
    """ids (B,) -> a vector (B,D) for the time's state, and tokens (B,L,D) for cross-attention.

    Embeddings are RMS-normalised first: encoders differ in scale by orders of magnitude. Their mean over present tokens
    goes through a small network into the vector, the tokens through one linear layer. The null condition is the empty
    text. ``source`` holds no weights of the model and is no part of its state.
    """

    def __init__(self, *, width: int, source: TextSource) -> None:
        super().__init__()
        self.source = source
        self.norm = nn.RMSNorm(source.width, eps=1e-6)
        self.tokens = nn.Linear(source.width, width)
        self.pooled = nn.Sequential(nn.Linear(source.width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, ids: Tensor) -> tuple[Tensor, TextTokens]:
        if ids.ndim != 1:
            raise ValueError(f"text ids must be (B,) as encode makes them, got {tuple(ids.shape)}")
        weight = self.tokens.weight
        embedded, present = self.source.rows(ids)
        embedded = self.norm(embedded.to(weight.device, weight.dtype))
        present = present.to(weight.device)
        shares = present.unsqueeze(-1).to(weight.dtype)
        mean = (embedded * shares).sum(dim=1) / shares.sum(dim=1).clamp_min(1)
        return self.pooled(mean), TextTokens(self.tokens(embedded), present)

    def encode(self, texts: Sequence[str | int | None]) -> Tensor:
        """Texts -> ids (B,); those that are new go through the encoder."""
        return self.source.encode(_texts(texts))


class ClassEmbedding(nn.Module):
    """ids (B,) -> (B,D), with one extra row for the null class."""

    def __init__(self, *, width: int, classes: int) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes {classes} must be at least 1 for condition='class'; or use condition='none'")
        self.classes = classes
        self.table = nn.Embedding(classes + 1, width)

    def forward(self, ids: Tensor) -> Tensor:
        if ids.ndim != 1:
            raise ValueError(f"class ids must be (B,), got {tuple(ids.shape)}")
        return self.table(ids)

    def encode(self, labels: Sequence[str | int | None]) -> Tensor:
        """Labels -> ids (B,)."""
        for label in labels:
            if isinstance(label, str):
                raise ValueError(f"a class condition needs integer labels, got {label!r}; use condition='caption'")
        numbers = [label if isinstance(label, int) else None for label in labels]
        return encode_classes(numbers, classes=self.classes)


def drop_conditions(ids: Tensor, null: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Replace rows of ids (B,...) by ``null``, (1,...) or (B,...), with ``probability``: for classifier-free guidance.

    One draw a row from ``generator``, on its device. Raises ValueError for a probability outside [0, 1] or shapes that
    do not match.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"dropout probability {probability} must lie in [0, 1]; 0.1 is usual")
    if null.shape[1:] != ids.shape[1:] or null.shape[0] not in (1, ids.shape[0]):
        raise ValueError(f"null ids {tuple(null.shape)} must be one row of the ids {tuple(ids.shape)}, or one each")
    drawn = torch.rand(ids.shape[0], generator=generator, device=generator.device) < probability
    return torch.where(drawn.to(ids.device).reshape(-1, *([1] * (ids.ndim - 1))), null, ids)
