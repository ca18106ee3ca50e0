"""Hydra's door to the bench: the sweeper ``ssvae`` resolves any grid (also of one) and hands it to the scheduler."""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ssvae.config.tree import register

register()
ConfigStore.instance().store(
    group="hydra/sweeper",
    name="ssvae",
    node={"_target_": "hydra_plugins.ssvae_sweeper.SsvaeSweeper", "params": {}},
    provider="ssvae",
)


_MODE = ("hydra.mode=MULTIRUN", "hydra.mode=RUN")


class SsvaeSweeper(Sweeper):
    """params: axes given in a file, ``hydra.sweeper.params.channels: 48,128``, as Hydra's basic sweeper reads them."""

    def __init__(self, params: DictConfig | dict[str, Any] | None = None) -> None:
        self.params = params or {}
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Resolve all cells and run them; returns the scheduler's outcome."""
        from omegaconf import OmegaConf

        from ssvae.config.compose import resolve
        from ssvae.sweep.main import run_grid

        assert self.config is not None
        hydra_overrides = [text for text in self.config.hydra.overrides.hydra if text not in _MODE]
        overrides = (*hydra_overrides, *arguments)
        launcher = OmegaConf.to_container(self.config.hydra.launcher, resolve=False)
        assert isinstance(launcher, dict)
        cells, values = resolve(overrides), {str(key): value for key, value in launcher.items()}
        if cells[0].cfg.search is not None:
            from ssvae.sweep.search.main import run_search

            raise SystemExit(run_search(cells, overrides, values))
        code = run_grid(cells, overrides, values)
        # Hydra drops a sweeper's result; an exit code must not be lost.
        raise SystemExit(code)
