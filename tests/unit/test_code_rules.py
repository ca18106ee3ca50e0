"""Rules that the source keeps, read from its syntax, each tried on code that breaks it."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from ssvae.config.compose import CONF
from ssvae.core.paths import PROJECT

SOURCES = [*sorted((PROJECT / "src").rglob("*.py")), PROJECT / "run.py"]
TESTS = sorted((PROJECT / "tests").rglob("*.py"))
LONGEST = 300
Node = TypeVar("Node", bound=ast.AST)


def each(tree: ast.AST, kind: type[Node]) -> Iterator[Node]:
    return (node for node in ast.walk(tree) if isinstance(node, kind))


def name_of(node: ast.AST | None) -> str:
    """Of ``name`` and ``anything.name``; empty for other expressions."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def mutable_defaults(tree: ast.AST) -> list[int]:
    values = [value for one in each(tree, ast.FunctionDef) for value in (*one.args.defaults, *one.args.kw_defaults)]
    shown = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
    made = ("list", "dict", "set", "defaultdict", "Counter")
    return [
        value.lineno
        for value in values
        if isinstance(value, shown) or (isinstance(value, ast.Call) and name_of(value.func) in made)
    ]


def broad_handlers(tree: ast.AST) -> list[int]:
    """``except:``, ``except Exception:``, ``except BaseException:``, also within a tuple."""
    found = []
    for one in each(tree, ast.ExceptHandler):
        kinds = one.type.elts if isinstance(one.type, ast.Tuple) else [one.type]
        if any(kind is None or name_of(kind) in ("Exception", "BaseException") for kind in kinds):
            found.append(one.lineno)
    return found


def prints(tree: ast.AST) -> list[int]:
    return [call.lineno for call in each(tree, ast.Call) if isinstance(call.func, ast.Name) and call.func.id == "print"]


def names_from_strings(tree: ast.AST) -> list[int]:
    """Calls that find code by a text from elsewhere: what it names fails only when it is used."""
    ways = ("import_module", "__import__", "instantiate", "get_class", "get_object", "locate")
    calls = [call for call in each(tree, ast.Call) if name_of(call.func) in ways]
    return [call.lineno for call in calls if not (call.args and isinstance(call.args[0], ast.Constant))]


def found_in_sources(rule: Callable[[ast.AST], list[int]]) -> list[str]:
    every = {path: rule(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES}
    return [f"{path.relative_to(PROJECT)}:{line}" for path, lines in every.items() for line in lines]


def test_no_default_argument_is_shared_between_calls() -> None:
    assert mutable_defaults(ast.parse("def f(a, b=[], *, c=dict(), d=None): ...")) == [1, 1]
    assert found_in_sources(mutable_defaults) == []


def test_errors_are_caught_by_name() -> None:
    """But for those who run the work of others: there its death, of whatever, is named, recorded and reported."""
    broken = "try: ...\nexcept: ...\ntry: ...\nexcept Exception: ...\ntry: ...\nexcept (OSError, BaseException): ...\n"
    assert broad_handlers(ast.parse(broken)) == [2, 4, 6]
    allowed = {"src/ssvae/sweep/schedule.py", "src/ssvae/sweep/job.py"}
    assert {place.partition(":")[0] for place in found_in_sources(broad_handlers)} <= allowed


def test_only_the_command_line_prints() -> None:
    assert prints(ast.parse("print(1)\nconsole.print(2)")) == [1]
    assert [place for place in found_in_sources(prints) if not place.startswith("src/ssvae/cli/")] == []


def test_no_code_is_looked_up_by_a_text() -> None:
    assert names_from_strings(ast.parse("importlib.import_module(x)\nhydra.utils.instantiate(y)")) == [1, 2]
    assert found_in_sources(names_from_strings) == []
    targets = [str(path) for path in CONF.rglob("*.yaml") if "_target_" in path.read_text(encoding="utf-8")]
    assert targets == []


def test_files_are_short() -> None:
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {str(path.relative_to(PROJECT)): size for path, size in sizes.items() if size > LONGEST} == {}


def depths(trees: Sequence[ast.AST]) -> dict[str, int]:
    """Classes in a row of inheritance, by name, counting those of this project."""
    bases = {one.name: [name_of(base) for base in one.bases] for tree in trees for one in each(tree, ast.ClassDef)}

    def depth(name: str) -> int:
        return 1 + max((depth(base) for base in bases[name] if base in bases), default=0)

    return {name: depth(name) for name in bases}


def test_classes_are_composed_not_stacked() -> None:
    assert depths([ast.parse("class A: ...\nclass B(A): ...\nclass C(x.B): ...")]) == {"A": 1, "B": 2, "C": 3}
    found = depths([ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES])
    assert max(found.values()) == 2, "one base, whose children have none"


def imported(tree: ast.AST) -> set[str]:
    """Packages that a file imports; of this project the first two words, ``ssvae.core``."""
    modules = [alias.name for node in each(tree, ast.Import) for alias in node.names]
    modules += [node.module or "" for node in each(tree, ast.ImportFrom)]
    return {".".join(name.split(".")[: 2 if name.startswith("ssvae") else 1]) for name in modules}


@pytest.mark.parametrize("package", ["objective", "regularizers"])
def test_losses_import_neither_plots_nor_logs_nor_configs(package: str) -> None:
    """They are mathematics on tensors, each file to be tested alone."""
    assert imported(ast.parse("import a.b\nfrom ssvae.report.x import y")) == {"a", "ssvae.report"}
    plain = {"__future__", "collections", "contextlib", "dataclasses", "math", "typing"}
    allowed = plain | {"torch", "ssvae.core", "ssvae.stats", f"ssvae.{package}"}
    for path in (PROJECT / "src" / "ssvae" / package).glob("*.py"):
        assert imported(ast.parse(path.read_text(encoding="utf-8"))) <= allowed, path.name


CALLED_FROM_OUTSIDE = {"SsvaeSweeper", "setup", "find_class", "persistent_load"}
"""Hydra and pickle call these by name."""


def without_users(defining: Sequence[ast.AST], using: Sequence[ast.AST]) -> list[str]:
    """Functions and classes that nothing names but their own definition."""
    names = Counter(name_of(node) for tree in using for node in ast.walk(tree))
    defined = [
        node.name for tree in defining for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    return sorted({name for name in defined if not name.startswith("__") and not names[name]} - CALLED_FROM_OUTSIDE)


def test_every_function_and_class_has_a_user() -> None:
    """In the package, or, for what it offers to others, at least in its own test."""
    example = ast.parse("def used(): ...\ndef unused(): ...\nclass Kept: ...\nused(Kept.unknown)")
    assert without_users([example], [example]) == ["unused"]
    sources, tests = ([ast.parse(path.read_text(encoding="utf-8")) for path in paths] for paths in (SOURCES, TESTS))
    assert without_users(sources, sources + tests) == []


@pytest.mark.parametrize(
    "path", [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_no_text_asks_to_change_an_installed_package(path: Path) -> None:
    text = path.read_text(encoding="utf-8").lower()
    assert "site-packages" not in text and "dist-packages" not in text
