"""Conditions: ids are stable, null is its own thing, word order counts, dropout drops what it says."""

from __future__ import annotations

import pytest
import torch

from ssvae.core.seeds import torch_generator
from ssvae.models.condition import (
    NULL,
    PAD,
    CaptionEmbedding,
    ClassEmbedding,
    drop_conditions,
    encode_captions,
    encode_classes,
    token_id,
)


def test_token_ids_are_golden() -> None:
    """Checkpoints store embeddings by id, so the hash must never move."""
    assert [token_id(word, 512) for word in ("red", "circle", "moves")] == [191, 55, 36]


def test_captions_are_lower_cased_padded_and_cut() -> None:
    ids = encode_captions(["A red  CIRCLE!", "a red circle", None, "...", "a b c d e f"], vocabulary=512, length=4)
    assert torch.equal(ids[0], ids[1])
    assert ids[0, 3] == PAD
    assert ids[2].tolist() == ids[3].tolist() == [NULL, PAD, PAD, PAD]
    assert int((ids[4] == PAD).sum()) == 0
    assert int(ids.max()) < 512


def test_classes_reserve_a_null_id() -> None:
    assert encode_classes([0, None, 4], classes=5).tolist() == [0, 5, 4]
    with pytest.raises(ValueError, match="at least 6"):
        encode_classes([5], classes=5)


def test_order_of_words_counts_and_padding_does_not() -> None:
    torch.manual_seed(0)
    embedding = CaptionEmbedding(width=16, vocabulary=64, length=6)
    swapped = embedding(embedding.encode(["red on blue", "blue on red"])).detach()
    assert float((swapped[0] - swapped[1]).abs().max()) > 1e-3
    ids = embedding.encode(["red on blue"])
    before = embedding(ids)
    with torch.no_grad():
        embedding.tokens.weight[PAD] += 10.0
    torch.testing.assert_close(embedding(ids), before)


def test_wrong_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="condition='class'"):
        CaptionEmbedding(width=16).encode([3])
    with pytest.raises(ValueError, match="condition='caption'"):
        ClassEmbedding(width=16, classes=4).encode(["red"])
    with pytest.raises(ValueError, match="classes 0"):
        ClassEmbedding(width=16, classes=0)
    with pytest.raises(ValueError, match=r"\(B,24\)"):
        CaptionEmbedding(width=16)(torch.ones(2, 5, dtype=torch.int64))


def test_dropout_replaces_whole_rows_at_the_stated_rate() -> None:
    ids = torch.full((4000, 3), 7)
    null = torch.tensor([[NULL, PAD, PAD]])
    dropped = drop_conditions(ids, null, 0.2, torch_generator(0, "drop"))
    rows = (dropped == null).all(dim=1)
    assert abs(float(rows.double().mean()) - 0.2) < 0.03
    assert bool((dropped[~rows] == 7).all())
    assert torch.equal(drop_conditions(ids, null, 0.0, torch_generator(0, "drop")), ids)
    assert bool((drop_conditions(ids, null, 1.0, torch_generator(0, "drop")) == null).all())
    assert torch.equal(drop_conditions(ids, null, 0.2, torch_generator(0, "drop")), dropped)
    with pytest.raises(ValueError, match="probability"):
        drop_conditions(ids, null, 1.5, torch_generator(0, "drop"))
    with pytest.raises(ValueError, match="one row"):
        drop_conditions(ids, null[:, :2], 0.5, torch_generator(0, "drop"))
