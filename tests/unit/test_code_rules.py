"""Rules that the source keeps, read from its syntax: what a linter's settings could silently stop watching."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssvae.config.compose import CONF
from ssvae.core.paths import PROJECT

SOURCES = [*sorted((PROJECT / "src").rglob("*.py")), PROJECT / "run.py"]
TESTS = sorted((PROJECT / "tests").rglob("*.py"))
CALLED_FROM_OUTSIDE = {"SsvaeSweeper", "setup", "find_class", "persistent_load"}
"""Names that Hydra and pickle look for."""


def nodes[T: ast.AST](tree: ast.AST, kind: type[T]) -> Iterator[T]:
    return (node for node in ast.walk(tree) if isinstance(node, kind))
