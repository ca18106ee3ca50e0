"""The data sets of a grid, each opened once."""

from __future__ import annotations

from pathlib import Path

from ssvae.config.data import DataConfig
from ssvae.core.progress import Progress
from ssvae.stages.source import Source, open_source


class Sources:
    """Opens each data set once."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self._root = root
        self._progress = progress
        self._open: dict[str, Source] = {}

    def __call__(self, data: DataConfig) -> Source:
        key = repr(data)
        if key not in self._open:
            self._open[key] = open_source(data, self._root, self._progress)
        return self._open[key]
