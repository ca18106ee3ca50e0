"""A finished VAE in a cell: not trained here, measured and probed as it is. Judged before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from ssvae.config.checks import published_problems
from ssvae.config.problem import Problem
from ssvae.config.reg_checks import Grid
from ssvae.config.tree import Config
from ssvae.core.paths import looks_like_path
from ssvae.core.shapes import latent_grid
from ssvae.models.load import load_vae
from ssvae.models.zoo_source import describe, is_published
from ssvae.stages.init import weights_fingerprint

GridRule = Callable[[int, int, int], Grid]
"""(frames, height, width) of a clip -> (F,h,w) of its latents; ValueError, with the rule, for clips that do not fit."""


@lru_cache(maxsize=16)
def shape_of(weights: str) -> tuple[int, GridRule]:
    """Latent channels and grid of the VAE behind ``weights``; published ones are known without their weights.

    Raises ValueError for a VAE that cannot be had.
    """
    if is_published(weights):
        layout = describe(weights)
        return layout.channels, layout.latent_grid
    vae = load_vae(weights)
    # The rule alone, so that the weights do not stay in memory.
    return vae.channels, partial(_grid, vae.temporal_ratio, vae.spatial_ratio)


def _grid(temporal: int, spatial: int, frames: int, height: int, width: int) -> Grid:
    return latent_grid(frames, height, width, temporal, spatial)


def settle(cells: Sequence[Config]) -> list[Problem]:
    """Give the cells of finished VAEs their number of channels, and names that tell them apart; returns what of them
    does not fit, each once."""
    found: dict[Problem, None] = {}
    contents: dict[str, set[str]] = {}
    finished = [(cfg, weights) for cfg in cells if (weights := cfg.vae.weights) is not None]
    for cfg, weights in finished:
        problems = _of_cell(cfg, weights)
        found.update(dict.fromkeys(problems))
        if not problems:
            contents.setdefault(cfg.vae.name, set()).add(weights_fingerprint("vae.weights", weights))
    if not found:
        for cfg, weights in finished:
            if len(contents[cfg.vae.name]) > 1:
                # Different weights under one file name: rows of one name would be taken for seeds of one VAE.
                cfg.vae.name = f"{cfg.vae.name}-{weights_fingerprint('vae.weights', weights)[:6]}"
    return list(found)


def _of_cell(cfg: Config, weights: str) -> list[Problem]:
    if looks_like_path(weights) and not Path(weights).expanduser().exists():
        return [Problem("vae", weights, "no such file or folder")]
    try:
        cfg.vae.channels, grid_of = shape_of(weights)
    except ValueError as error:
        return [_absent(weights, error)]
    found = [
        replace(problem, remedy=f"{problem.remedy} (latents of vae={cfg.vae.name})")
        for problem in published_problems(cfg, grid_of)
    ]
    try:
        weights_fingerprint("vae.weights", weights)
    except ValueError as error:
        found.append(_absent(weights, error))
    return found


def _absent(weights: str, error: ValueError) -> Problem:
    return Problem("vae", weights, str(error).removeprefix(f"{weights}: "))
