"""A frozen text encoder (T5, UMT5 or CLIP's text side) as a function from one text to its token embeddings.

The network and its tokeniser are those of ``transformers``, an optional package that is imported only here. Weights are
read from safetensors only, and no code that comes with them is run.

Dimension legend
    n tokens of a text, its end token included, n <= max_length; E the encoder's width       embedding (n,E) float32
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ssvae.core.identity import file_sha256, fingerprint

FILES = ("*.json", "*.model", "*.txt", "model*.safetensors", "text_encoder/*.safetensors")
"""What is fetched of a repository on the hub: of a pipeline's only the text encoder and the tokeniser."""
TOKENIZER_FILES = ("*.json", "*.model", "*.txt")
OTHER_HALVES = ("decoder.", "lm_head.", "vision_model.", "visual_projection.", "text_projection.", "logit_scale")
"""Begins of names that whole models have beside the text encoder."""
VERSION = 1
"""Of how a text becomes an embedding: the last layer's output behind the final norm, one text at a time."""


class TextEncoder:
    """A text encoder in a folder; its network is in memory only while it embeds.

    folder: config.json, safetensors and a tokeniser, or a diffusers pipeline with text_encoder/ and tokenizer/.
    max_length: longer texts are cut. width: E. key: what an embedding depends on, as a hash of weights, config,
    tokeniser, length and version. Raises ValueError, with the remedy, for what is missing or does not fit.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_length: int, device: torch.device | str = "cpu") -> None:
        self.folder = Path(folder)
        self.length = max_length
        self.device = torch.device(device)
        parts = (self.folder / "text_encoder", self.folder / "tokenizer")
        self._network_folder, self._tokenizer_folder = parts if parts[0].is_dir() else (self.folder, self.folder)
        config = self._config()
        self.width = int(config.hidden_size)
        limit = getattr(config, "max_position_embeddings", None)
        if max_length < 1 or (limit is not None and max_length > limit):
            most = "" if limit is None else f" and at most {limit}, the encoder's positions"
            raise ValueError(f"text max_length {max_length} must be at least 1{most}")
        self.key = self._key()

    def embed(self, texts: Sequence[str]) -> Iterator[Tensor]:
        """One embedding (n,E) float32 on the CPU a text, in order.

        Each text goes through alone, without padding: its embedding does not depend on its neighbours. Raises
        ValueError for a text that has no tokens, and for an embedding that is not finite.
        """
        network = self._load()
        tokenizer = self._tokenizer()
        for text in texts:
            ids = tokenizer(text, truncation=True, max_length=self.length)["input_ids"]
            if not ids:
                raise ValueError(f"the tokeniser of {self.folder} makes no token of {text!r}: it adds no end token")
            with torch.no_grad():
                batch = torch.tensor([ids], device=self.device)
                found = network(input_ids=batch, attention_mask=torch.ones_like(batch)).last_hidden_state[0]
            if not bool(torch.isfinite(found).all()):
                raise ValueError(f"{self.folder} makes no finite embedding of {text!r}: the weights are damaged")
            yield found.float().cpu()

    def _config(self) -> Any:
        """That of the text encoder, also where the folder holds a whole CLIP."""
        transformers = _transformers(str(self.folder))
        try:
            config = transformers.AutoConfig.from_pretrained(self._network_folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"text encoder: {self._network_folder} holds no config.json of transformers: {_first_line(error)}"
            ) from error
        if config.model_type not in ("t5", "umt5", "clip", "clip_text_model"):
            raise ValueError(
                f"text encoder {self.folder} is of type {config.model_type!r}; T5, UMT5 and CLIP are supported"
            )
        return config.text_config if config.model_type == "clip" else config

    def _key(self) -> str:
        weights = sorted(self._network_folder.glob("*.safetensors"))
        if not weights:
            raise ValueError(
                f"text encoder: no *.safetensors in {self._network_folder}; other formats run code when they are read. "
                "Load the model once with transformers and save_pretrained(folder), or take a repository that has them"
            )
        tokens = {path for pattern in TOKENIZER_FILES for path in self._tokenizer_folder.glob(pattern)}
        files = [self._network_folder / "config.json", *weights, *sorted(tokens)]
        known = {f"{path.parent.name if path.parent != self.folder else ''}/{path.name}": path for path in files}
        hashes = {name: file_sha256(path) for name, path in known.items()}
        return fingerprint({"files": hashes, "max_length": self.length, "version": VERSION}, length=24)

    def _tokenizer(self) -> Any:
        transformers = _transformers(str(self.folder))
        try:
            return transformers.AutoTokenizer.from_pretrained(self._tokenizer_folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ValueError(f"text encoder: no tokeniser in {self._tokenizer_folder}: {_first_line(error)}") from error

    def _load(self) -> nn.Module:
        """The network, every tensor of which came from the file."""
        transformers = _transformers(str(self.folder))
        kinds = {"t5": transformers.T5EncoderModel, "umt5": transformers.UMT5EncoderModel}
        kind = kinds.get(self._config().model_type, transformers.CLIPTextModel)
        try:
            network, report = kind.from_pretrained(
                self._network_folder,
                local_files_only=True,
                use_safetensors=True,
                # Named here, for a config file may name one whose code would be fetched from the hub.
                attn_implementation="eager" if kind is not transformers.CLIPTextModel else "sdpa",
                dtype=torch.float32,
                output_loading_info=True,
            )
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ValueError(f"text encoder {self.folder}: weights cannot be read: {_first_line(error)}") from error
        unknown = {name for name in report["unexpected_keys"] if not name.startswith(OTHER_HALVES)}
        missing = set(report["missing_keys"])
        if missing or unknown:
            # transformers fills what is missing with random numbers and goes on.
            raise ValueError(
                f"{self.folder} is no {kind.__name__}: {len(missing)} tensors missing {sorted(missing)[:2]}, "
                f"{len(unknown)} unknown {sorted(unknown)[:2]}"
            )
        network.requires_grad_(False)
        return network.to(self.device).eval()


def load_text_encoder(
    name_or_path: str | os.PathLike[str], *, max_length: int, device: torch.device | str = "cpu"
) -> TextEncoder:
    """The encoder of a folder, or of a name on the hub such as ``google-t5/t5-base``: the local cache comes first.

    Raises ValueError, with the remedy, when the package or the files cannot be had.
    """
    name = os.fspath(name_or_path)
    _transformers(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return TextEncoder(folder, max_length=max_length, device=device)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise ValueError(f"text encoder: no folder at {name}: give one with config.json and *.safetensors")
    return TextEncoder(_from_cache_or_hub(name), max_length=max_length, device=device)


def _from_cache_or_hub(name: str) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = list(FILES)
    try:
        cached = snapshot_download(name, allow_patterns=wanted, local_files_only=True)
        if any(Path(cached).rglob("*.safetensors")):  # or somebody fetched the tokeniser alone
            return cached
    except HFValidationError as error:
        raise ValueError(
            f"text encoder {name}: neither a folder nor a name on the hub: {_first_line(error)}"
        ) from error
    except LocalEntryNotFoundError:
        pass  # not in the cache
    try:
        return snapshot_download(name, allow_patterns=wanted)
    except (OSError, HfHubHTTPError) as error:
        raise ValueError(
            f"text encoder {name}: neither in the local hub cache nor to be had from the hub. Download it where there "
            f"is a network (hf download {name}) and give the folder, or check the name. The hub said: "
            f"{_first_line(error)}"
        ) from error


def _transformers(name: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            f"text encoder {name}: the package transformers is missing: pip install -e '.[dino]'"
        ) from error
    return transformers


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
