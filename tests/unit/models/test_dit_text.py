"""Text conditions: cross-attention and the state both carry them, padding does not, and ids batch as the others do."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ssvae.core.seeds import torch_generator
from ssvae.flow.path import RectifiedFlow
from ssvae.flow.sampler import sample
from ssvae.flow.vp import VPrediction
from ssvae.models.condition import BlankTexts, TextEmbedding, drop_conditions
from ssvae.models.dit import VideoDiT
from ssvae.models.dit_blocks import CrossAttention, TextTokens

GRID = (3, 4, 4)
WIDTH, LENGTH = 6, 5


class Table:
    """A word is a vector: embeddings of texts without an encoder. ``rubbish`` stands behind the end of every text."""

    def __init__(self, rubbish: float = 0.0) -> None:
        self.width, self.length, self.rubbish = WIDTH, LENGTH, rubbish
        self.texts = [""]

    def encode(self, texts: Sequence[str | None]) -> Tensor:
        named = [text or "" for text in texts]
        self.texts += [text for text in dict.fromkeys(named) if text not in self.texts]
        return torch.tensor([self.texts.index(text) for text in named])

    def rows(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.full((len(ids), LENGTH, WIDTH), self.rubbish)
        present = torch.zeros(len(ids), LENGTH, dtype=torch.bool)
        for row, number in enumerate(ids.tolist()):
            words = [*self.texts[number].split(), "<end>"]
            for place, word in enumerate(words):
                tokens[row, place] = torch.randn(WIDTH, generator=torch_generator(0, f"word {place} {word}"))
            present[row, : len(words)] = True
        return tokens, present


def awake(source: Table | None = None, **changes: object) -> VideoDiT:
    torch.manual_seed(0)
    arguments: dict = {"channels": 5, "grid": GRID, "width": 24, "depth": 2, "heads": 2, "condition": "text"} | changes
    model = VideoDiT(texts=source or Table(), **arguments)
    rng = torch_generator(0, "awake")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
    return model.eval()


def latents(count: int) -> Tensor:
    return torch.randn(count, 5, *GRID, generator=torch_generator(1, "x"))


def test_a_fresh_block_is_the_identity_whatever_the_text() -> None:
    torch.manual_seed(0)
    model = VideoDiT(channels=5, grid=GRID, width=24, depth=1, heads=2, condition="text", texts=Table())
    text = TextTokens(torch.randn(2, LENGTH, 24), torch.ones(2, LENGTH, dtype=torch.bool))
    tokens = torch.randn(2, 12, 24)
    assert torch.equal(model.blocks[0](tokens, torch.randn(2, 24), text), tokens)


def test_cross_attention_is_attention_over_the_present_tokens_alone() -> None:
    """Against the definition written out, a head and a sample at a time."""
    torch.manual_seed(0)
    layer = CrossAttention(width=8, heads=2)
    torch.nn.init.normal_(layer.out.weight)
    x, tokens = torch.randn(2, 3, 8), torch.randn(2, LENGTH, 8)
    present = torch.tensor([[True, True, False, False, False], [True, True, True, True, False]])
    found = layer(x, TextTokens(tokens, present))
    for row in range(2):
        kept = tokens[row][present[row]]
        key, value = (part.reshape(-1, 2, 4) for part in layer.key_value(kept).chunk(2, dim=-1))
        query = layer.query(x[row]).reshape(-1, 2, 4)
        heads = []
        for head in range(2):
            q, k = layer.query_norm(query[:, head]), layer.key_norm(key[:, head])
            heads.append(((q @ k.T) / 2).softmax(-1) @ value[:, head])
        torch.testing.assert_close(found[row], layer.out(torch.cat(heads, dim=-1)))


def test_the_state_holds_the_mean_over_present_tokens() -> None:
    torch.manual_seed(0)
    source = Table(rubbish=7.0)
    embedding = TextEmbedding(width=8, source=source)
    ids = embedding.encode(["red circle", None])
    state, text = embedding(ids)
    tokens, _ = source.rows(ids)
    for row, count in enumerate((3, 1)):
        normed = embedding.norm(tokens[row, :count])
        torch.testing.assert_close(state[row], embedding.pooled(normed.mean(0)))
        torch.testing.assert_close(text.tokens[row, :count], embedding.tokens(normed))
        assert text.present[row].tolist() == [True] * count + [False] * (LENGTH - count)


def test_what_stands_behind_a_texts_end_reaches_nothing() -> None:
    x, t = latents(3), torch.tensor([0.2, 0.5, 0.9])
    outs = []
    for rubbish in (0.0, 1e3):
        model = awake(Table(rubbish))
        outs.append(model(x, t, model.encode_conditions(["red", "a blue circle", None])))
    torch.testing.assert_close(*outs)


def test_words_their_order_and_the_null_text_count() -> None:
    model = awake()
    same, t = latents(1).expand(4, -1, -1, -1, -1), torch.full((4,), 0.5)
    out = model(same, t, model.encode_conditions(["red blue", "blue red", "red", None])).detach().flatten(1)
    assert float(torch.cdist(out, out).fill_diagonal_(9.0).min()) > 1e-3
    torch.testing.assert_close(model(same, t), model(same, t, model.encode_conditions([""] * 4)))
    torch.testing.assert_close(model(same, t), model(same, t, model.null_conditions(4)))


def test_every_parameter_gets_a_gradient_and_recomputing_changes_none() -> None:
    gradients = []
    for flag in (False, True):
        model = awake(gradient_checkpointing=flag).train()
        ids = model.encode_conditions(["red", "a blue circle"])
        model(latents(2), torch.tensor([0.3, 0.6]), ids).square().sum().backward()
        silent = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 0)]
        assert silent == []
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("path", [RectifiedFlow(), VPrediction()], ids=["flow", "v"])
def test_guidance_and_dropout_work_on_ids(path: RectifiedFlow | VPrediction) -> None:
    model, noise = awake(), latents(3)
    ids, null = model.encode_conditions(["red", "blue", "a circle"]), model.null_conditions(1)
    assert ids is not None and null is not None

    def by_hand(x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        without = model(x, t, model.null_conditions(len(x)))
        return without + 3.0 * (model(x, t, condition) - without)

    guided = sample(path, model, noise, 3, guidance=3.0, condition=ids, null_condition=null)
    torch.testing.assert_close(guided, sample(path, by_hand, noise, 3, condition=ids), atol=1e-4, rtol=1e-4)
    assert torch.equal(drop_conditions(ids, null, 1.0, torch_generator(0, "d")), null.expand(3))


def test_blank_texts_have_sizes_alone_also_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = VideoDiT(
            channels=5, grid=GRID, width=24, depth=1, heads=2, condition="text", texts=BlankTexts(WIDTH, LENGTH)
        )
        out = model(torch.empty(2, 5, *GRID), torch.empty(2), model.null_conditions(2))
    assert out.is_meta and out.shape == (2, 5, *GRID)
    texts = BlankTexts(WIDTH, LENGTH)
    assert texts.rows(texts.encode(["a"]))[0].shape == (1, LENGTH, WIDTH)


def test_wrong_conditions_are_refused() -> None:
    with pytest.raises(ValueError, match="got the label 3"):
        awake().encode_conditions([3])
    with pytest.raises(ValueError, match=r"text ids must be \(B,\)"):
        awake()(latents(1), torch.rand(1), torch.zeros(1, 4, dtype=torch.int64))
