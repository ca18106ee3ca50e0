"""Composition of further cells while Hydra is at work on the command line: it knows one at a time."""

from __future__ import annotations

from hydra.core.global_hydra import GlobalHydra

from ssvae.config.compose import Cell, resolve


def resolve_beside(overrides: tuple[str, ...]) -> tuple[Cell, ...]:
    """As :func:`ssvae.config.compose.resolve`, also from inside the sweeper."""
    one = GlobalHydra.instance()
    running = one.hydra
    one.clear()
    try:
        return resolve(overrides)
    finally:
        one.clear()
        one.hydra = running
