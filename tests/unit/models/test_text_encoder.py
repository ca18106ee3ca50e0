"""Text encoders: the same numbers as transformers itself, one text at a time, and every mistake named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssvae.models import text_encoder
from ssvae.models.text_encoder import TextEncoder, load_text_encoder
from text_encoders import KINDS, WIDTH, network, save_encoder, save_tokenizer

TEXTS = ["", "a red circle", "blue", "a red circle on a blue square"]
IDS = [[1], [4, 5, 6, 1], [7, 1], [4, 5, 6, 9, 4, 7, 8, 1]]
"""What the tokeniser of text_encoders.py makes of them, written by hand."""


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_those_of_the_network_itself(kind: str, tmp_path: Path) -> None:
    encoder = load_text_encoder(save_encoder(tmp_path, kind), max_length=12)
    assert (encoder.width, encoder.length) == (WIDTH, 12)
    made = network(kind)
    half = getattr(made, "encoder", made) if kind == "whole_t5" else getattr(made, "text_model", made)
    for ids, found in zip(IDS, encoder.embed(TEXTS), strict=True):
        with torch.no_grad():
            expected = half(input_ids=torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(found, expected)
        assert found.dtype == torch.float32 and not found.requires_grad


def test_an_embedding_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    encoder = TextEncoder(save_encoder(tmp_path, "t5"), max_length=12)
    together = list(encoder.embed(TEXTS))
    for text, found in zip(TEXTS, together, strict=True):
        assert torch.equal(next(iter(encoder.embed([text]))), found)


def test_long_texts_are_cut_and_keep_their_end(tmp_path: Path) -> None:
    encoder = TextEncoder(save_encoder(tmp_path, "t5"), max_length=3)
    (cut,) = encoder.embed(["a red circle on a blue square"])
    (expected,) = encoder.embed(["a red"])
    assert torch.equal(cut, expected)


def test_a_pipelines_folder_is_read_too(tmp_path: Path) -> None:
    flat, pipeline = save_encoder(tmp_path / "flat", "umt5"), tmp_path / "pipeline"
    network("umt5").save_pretrained(pipeline / "text_encoder")
    save_tokenizer(pipeline / "tokenizer")
    pair = [next(iter(TextEncoder(folder, max_length=8).embed(["a red circle"]))) for folder in (flat, pipeline)]
    assert torch.equal(*pair)


def test_the_key_follows_weights_tokeniser_and_length_and_not_the_place(tmp_path: Path) -> None:
    base = TextEncoder(save_encoder(tmp_path / "a", "t5"), max_length=8).key
    assert TextEncoder(save_encoder(tmp_path / "b", "t5"), max_length=8).key == base
    assert TextEncoder(tmp_path / "a", max_length=9).key != base
    assert TextEncoder(save_encoder(tmp_path / "c", "t5", seed=1), max_length=8).key != base
    path = tmp_path / "b" / "tokenizer.json"
    path.write_text(path.read_text().replace('"red"', '"green"'))
    assert TextEncoder(tmp_path / "b", max_length=8).key != base


def test_a_name_is_looked_for_in_the_cache_and_then_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    folder, tokens = save_encoder(tmp_path / "whole", "t5"), tmp_path / "tokens"
    save_tokenizer(tokens)
    asked: list[bool] = []
    answers: dict[bool, Path | Exception] = {True: folder, False: folder}

    def download(name: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        assert name == "owner/name" and not any(pattern.endswith((".bin", ".pt")) for pattern in allow_patterns)
        asked.append(local_files_only)
        answer = answers[local_files_only]
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    load_text_encoder("owner/name", max_length=8)
    assert asked == [True]
    for incomplete in (LocalEntryNotFoundError("not there"), tokens):
        asked.clear()
        answers[True] = incomplete
        load_text_encoder("owner/name", max_length=8)
        assert asked == [True, False]
    answers[False] = OSError("offline\nmore")
    with pytest.raises(ValueError, match=r"hf download owner/name.*offline$"):
        load_text_encoder("owner/name", max_length=8)


def test_what_is_missing_or_damaged_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_encoder(tmp_path / "whole", "t5")
    with pytest.raises(ValueError, match="no folder at"):
        load_text_encoder(str(tmp_path / "nowhere"), max_length=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_text_encoder(tmp_path / "empty", max_length=8)
    with pytest.raises(ValueError, match="at most 12"):
        load_text_encoder(save_encoder(tmp_path / "clip", "clip"), max_length=77)
    with pytest.raises(ValueError, match="at least 1"):
        load_text_encoder(folder, max_length=0)

    tensors = load_file(folder / "model.safetensors")
    lost = next(name for name in tensors if name.endswith("wo.weight"))
    save_file({k: v for k, v in tensors.items() if k != lost}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="1 tensors missing"):
        next(iter(load_text_encoder(folder, max_length=8).embed(["a"])))
    save_file({**tensors, lost: tensors[lost] * float("nan")}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="no finite embedding of 'a'"):
        next(iter(load_text_encoder(folder, max_length=8).embed(["a"])))
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no \*\.safetensors"):
        load_text_encoder(folder, max_length=8)

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(ValueError, match="'bert'; T5, UMT5 and CLIP"):
        load_text_encoder(folder, max_length=8)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match="pip install"):
        load_text_encoder(folder, max_length=8)


def test_a_tokeniser_without_an_end_token_has_no_empty_text(tmp_path: Path) -> None:
    network("t5").save_pretrained(tmp_path)
    save_tokenizer(tmp_path, end=False)
    with pytest.raises(ValueError, match="makes no token of ''"):
        list(TextEncoder(tmp_path, max_length=8).embed([""]))


def test_the_version_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_encoder(tmp_path, "t5")
    before = TextEncoder(folder, max_length=8).key
    monkeypatch.setattr(text_encoder, "VERSION", 2)
    assert TextEncoder(folder, max_length=8).key != before
