"""Text encoders with random weights, a few hundred numbers large, and a tokeniser that was built here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5Model,
    UMT5Config,
    UMT5EncoderModel,
)

WORDS = ("<pad>", "</s>", "<unk>", "<s>", "a", "red", "circle", "blue", "square", "on")
WIDTH = 16
T5 = {"vocab_size": len(WORDS), "d_model": WIDTH, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}
CLIP = {
    "vocab_size": len(WORDS),
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 12,
    "bos_token_id": 3,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 14,
    "patch_size": 7,
}
KINDS = ("t5", "umt5", "clip", "whole_t5", "whole_clip")


def save_tokenizer(folder: Path, *, end: bool = True) -> None:
    """Words at white space; ``end``: an end token behind every text."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if end:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def network(kind: str, seed: int = 0) -> Any:
    """Random weights. whole_*: the model that the text encoder is a half of."""
    torch.manual_seed(seed)
    if kind in ("t5", "whole_t5"):
        return (T5EncoderModel if kind == "t5" else T5Model)(T5Config(**T5)).eval()
    if kind == "umt5":
        return UMT5EncoderModel(UMT5Config(**T5)).eval()
    if kind == "clip":
        return CLIPTextModel(CLIPTextConfig(**CLIP)).eval()
    return CLIPModel(CLIPConfig(text_config=CLIP, vision_config=VISION)).eval()


def save_encoder(folder: Path, kind: str, seed: int = 0) -> Path:
    """Network and tokeniser in one folder, as on the hub."""
    network(kind, seed).save_pretrained(folder)
    save_tokenizer(folder)
    return folder
