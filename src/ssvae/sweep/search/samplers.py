"""Optuna's samplers, seeded by the trial: a resumed search goes on as an undisturbed one."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from ssvae.config.search import SamplerName
from ssvae.core.seeds import derive


def sampler_for(name: SamplerName, seed: int, trial: int) -> BaseSampler:
    """The sampler that suggests the trial at place ``trial`` among those that count.

    A sampler that was seeded once would draw the same numbers again after every restart, and the same ones in every
    driver. TPE with a constant liar: what other workers are computing counts as bad, so that they are kept apart.
    """
    drawn = derive(seed, "search", trial) % 2**32
    if name is SamplerName.random:
        return RandomSampler(seed=drawn)
    if name is SamplerName.nsga2:
        return NSGAIISampler(seed=drawn)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=drawn, constant_liar=True)
