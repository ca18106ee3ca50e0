"""Tests that a table or another test names: are they there?"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache

from ssvae.core.paths import PROJECT


@cache
def _tests_in(path: str) -> frozenset[str]:
    file = PROJECT / path
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = (node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    return frozenset(name for name in names if name.startswith("test_"))


def absent(references: Iterable[str]) -> list[str]:
    """Of references ``tests/file.py::test_name`` those whose file has no such test."""
    return [one for one in references if one.partition("::")[2] not in _tests_in(one.partition("::")[0])]
