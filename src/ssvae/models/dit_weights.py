"""A diffusion transformer's weights as one safetensors file, whose header says what they belong to.

Weights do not depend on the grid, so a model of another resolution or clip length goes on from them (dit.py,
``base_grid``). What they do depend on is compared, and named where it differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssvae.core.files import write_atomic
from ssvae.core.identity import canonical
from ssvae.models.dit import VideoDiT
from ssvae.models.dit_tokens import join

SHOWN = 3
HEADER, PATCH, BASE_GRID = "dit", "patch", "base_grid"
"""One entry holds all, as JSON: safetensors writes several in any order, and equal weights are to be equal files."""


def save_dit_weights(path: Path, dit: VideoDiT, averaged: Mapping[str, Tensor] | None = None) -> None:
    """Write the weights of ``dit``, or ``averaged`` ones of the same names, to ``path``, whole or not at all."""
    chosen = dit.state_dict() if averaged is None else averaged
    assert chosen.keys() == dit.state_dict().keys(), "averages of other parameters"
    tensors = {name: value.detach().cpu().contiguous() for name, value in chosen.items()}
    # The patch may trade places with the channels and leave every shape as it is; the grid is in none of them.
    header = {HEADER: canonical({PATCH: join(dit.patch), BASE_GRID: join(dit.base_grid)})}
    write_atomic(path, lambda temporary: save_file(tensors, temporary, metadata=header))


def load_dit_weights(dit: VideoDiT, path: str | Path) -> None:
    """Fill ``dit`` with the weights of a file, strictly; its grid may be another one.

    Raises ValueError when there is no such file, it is damaged, or the model differs: in channels, width, depth, heads,
    patch, kind of condition, or the names that are left.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no weights of a diffusion transformer at {path}: give a dit.safetensors or a kept one")
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(file.metadata())
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    differing = _differences(dit, found, header)
    if differing:
        raise ValueError(f"{path} holds weights of another diffusion transformer: {'; '.join(differing)}")
    dit.load_state_dict(found, strict=True)


def read_base_grid(path: str | Path) -> tuple[int, int, int] | None:
    """(F,h,w) whose positions a file's weights know, for ``base_grid`` of the model that goes on from them.

    That is the grid of the first training, however often it was gone on with since. None where the file does not say.
    Raises ValueError for a file that cannot be read.
    """
    try:
        with safe_open(Path(path), framework="pt") as file:
            text = _header(file.metadata()).get(BASE_GRID)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no safetensors file of a diffusion transformer: {error}") from error
    if text is None:
        return None
    frames, height, width = (int(size) for size in text.split("x"))
    return frames, height, width


def _header(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """What :func:`save_dit_weights` wrote there; nothing in another's file."""
    found = json.loads((metadata or {}).get(HEADER, "{}"))
    assert isinstance(found, dict)
    return found


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What shapes and names tell of a model; nothing for a file of something else."""
    if not {"embed.weight", "blocks.0.attention.query_norm.weight"} <= tensors.keys():
        return {}
    width, values = tensors["embed.weight"].shape
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    sizes = {
        "width": str(width),
        "depth": str(depth),
        "heads": str(width // len(tensors["blocks.0.attention.query_norm.weight"])),
        "values of a patch (channels x patch)": str(values),
        "condition": _condition(tensors),
        "input_skip": str("skip_gain.weight" in tensors).lower(),
    }
    if "conditioner.norm.weight" in tensors:
        sizes["width of the text encoder"] = str(len(tensors["conditioner.norm.weight"]))
    if "conditioner.table.weight" in tensors:
        sizes["classes"] = str(len(tensors["conditioner.table.weight"]) - 1)
    return sizes


def _condition(tensors: Mapping[str, Tensor]) -> str:
    marks = {
        "conditioner.norm.weight": "text",
        "conditioner.table.weight": "class",
        "conditioner.positions": "caption",
    }
    return next((kind for name, kind in marks.items() if name in tensors), "none")


def _differences(dit: VideoDiT, found: Mapping[str, Tensor], header: Mapping[str, str]) -> list[str]:
    """One text for each thing that differs, in a user's words; the first names of what has no such word."""
    expected = dit.state_dict()
    mine, theirs = _sizes(expected), _sizes(found)
    if not theirs:
        return [f"its tensors are {sorted(found)[:SHOWN]}, which are none"]
    if PATCH in header:
        mine, theirs = {**mine, PATCH: join(dit.patch)}, {**theirs, PATCH: header[PATCH]}
    differing = [
        f"{name} {theirs.get(name, 'none')}, this model has {mine.get(name, 'none')}"
        for name in {**mine, **theirs}
        if mine.get(name) != theirs.get(name)
    ]
    if differing:
        return differing
    names = sorted(expected.keys() ^ found.keys())
    if names:
        return [f"{len(names)} tensors are unknown or missing, first {names[:SHOWN]}"]
    shapes = [name for name, value in expected.items() if value.shape != found[name].shape]
    if shapes:
        name = shapes[0]
        return [f"{name} has shape {tuple(found[name].shape)}, this model {tuple(expected[name].shape)}"]
    broken = [name for name, value in found.items() if not bool(torch.isfinite(value).all())]
    return [f"{broken[0]} is not finite"] if broken else []
