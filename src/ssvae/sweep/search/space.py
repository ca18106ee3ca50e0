"""The space of a search, as Optuna's distributions on one side and as overrides of a cell on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ssvae.config.search import ParameterConfig
from ssvae.config.search_checks import number_kind, text_of

Value = float | int | str
"""A suggestion. Choices go by their override text: Optuna takes no lists, and a text is what people can read."""


def distributions(space: Sequence[ParameterConfig]) -> dict[str, BaseDistribution]:
    """Key -> distribution, in the order of the space."""
    return {parameter.key: _distribution(parameter) for parameter in space}


def overrides(params: Mapping[str, Value]) -> tuple[str, ...]:
    """A suggestion as overrides of a command line, numbers in full precision."""
    return tuple(f"{key}={value if isinstance(value, str) else repr(value)}" for key, value in params.items())


def _distribution(parameter: ParameterConfig) -> BaseDistribution:
    if parameter.choices is not None:
        return CategoricalDistribution([text_of(value) for value in parameter.choices])
    low, high, step = parameter.low, parameter.high, parameter.step
    assert low is not None and high is not None
    if number_kind(parameter.key) is int:
        return IntDistribution(int(low), int(high), log=parameter.log, step=1 if step is None else int(step))
    return FloatDistribution(low, high, log=parameter.log, step=step)
