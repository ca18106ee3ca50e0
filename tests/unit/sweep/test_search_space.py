"""Suggestions become overrides that compose to exactly the values that were suggested."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ssvae.config.compose import resolve
from ssvae.config.search import ParameterConfig
from ssvae.config.search_checks import number_kind, text_of
from ssvae.sweep.search.space import distributions, overrides


def test_ranges_have_the_type_of_the_configs_own_value() -> None:
    space = [
        ParameterConfig("strength.lcr", low=0.002, high=1.0, log=True),
        ParameterConfig("reg.terms.lcr.threshold", low=0, high=1, step=0.25),
        ParameterConfig("probe.dit.depth", low=1.0, high=5.0, step=2.0),
        ParameterConfig("train.steps", low=10, high=1000, log=True),
    ]
    assert distributions(space) == {
        "strength.lcr": FloatDistribution(0.002, 1.0, log=True),
        "reg.terms.lcr.threshold": FloatDistribution(0.0, 1.0, step=0.25),
        "probe.dit.depth": IntDistribution(1, 5, step=2),
        "train.steps": IntDistribution(10, 1000, log=True),
    }


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("strength.lcr", float),
        ("reg.terms.lcr.weight.value", float),
        ("train.ema_decay", float),
        ("reg.terms.cov.modes", int),
        ("reg.terms.lcr.window", object),
        ("train.optimizer", object),
        ("reg.terms", object),
        ("strength.lccr", None),
        ("strength.lcr.deeper", None),
    ],
)
def test_the_type_of_a_key(key: str, kind: type | None) -> None:
    assert number_kind(key) is kind


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("strength.lcr", 1.2345678901234567e-05),
        ("reg.terms.lcr.threshold", -0.1),
        ("train.steps", 17),
        ("reg.terms.lcr.window", [1, 4, 4]),
        ("train.grad_clip", None),
        ("train.gradient_checkpointing", True),
        ("strength.note", "it's 50 %, {a: [1]}"),
        ("strength.note", "null"),
        ("strength.note", "12"),
        ("resolution.lmr", {"ratios": [0, 0.5], "probabilities": [0.25, 0.75], "block": [1, 2, 2]}),
    ],
)
def test_an_override_composes_to_its_value(key: str, value: Any) -> None:
    (suggested,) = distributions([ParameterConfig(key, choices=[value, "other"])]).values()
    assert isinstance(suggested, CategoricalDistribution)
    assert suggested.choices[0] == text_of(value)
    (cell,) = resolve(("reg=lcr", *overrides({key: suggested.choices[0]})))
    found: Any = cell.cfg
    for word in key.split("."):
        found = getattr(found, word)
    if isinstance(value, dict):
        assert {name: getattr(found, name) for name in value} == value
    else:
        assert found == value


def test_numbers_are_written_in_full() -> None:
    number = 0.1 + 0.2
    (text,) = overrides({"strength.lcr": number})
    assert float(text.partition("=")[2]) == number
