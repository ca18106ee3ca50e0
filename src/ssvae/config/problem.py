"""One mistake of the user's, and the error that carries all of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """key: what is wrong where; value: what was found; remedy: what to do. cells: which cells of the grid have it."""

    key: str
    value: str
    remedy: str


class InputError(ValueError):
    """All problems of all cells of a grid, found before anything was computed or written."""

    def __init__(self, problems: list[tuple[Problem, list[str]]], cells: int) -> None:
        self.problems = problems
        self.cells = cells
        lines = []
        for problem, where in problems:
            scope = "" if len(where) == cells else f"  [in {len(where)} of {cells} cells: {'; '.join(where[:3])}]"
            lines.append(f"{problem.key} = {problem.value}: {problem.remedy}{scope}")
        super().__init__("\n".join(lines))
