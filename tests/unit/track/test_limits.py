"""MLflow's limits, asked of MLflow's own validation."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Metric, Param, RunTag
from mlflow.protos.service_pb2 import LogBatch
from mlflow.utils import validation
from mlflow.utils.proto_json_utils import message_to_json

from ssvae.track.limits import (
    KEY_LIMIT,
    PARAM_LIMIT,
    PARAMS_PER_CALL,
    POINTS_PER_CALL,
    REQUEST_BYTES,
    TAG_LIMIT,
    calls,
    cut_param,
    cut_tag,
    row_bytes,
    store_key,
    unique_keys,
)

AWKWARD = ["a//b", "/a", "a/", "..", ".", "../a", "a/./b", "a/../b", "", "a[0]", "é/ü", "a\tb", "x" * 500, "a" * 250]


def test_the_numbers_are_mlflows() -> None:
    assert KEY_LIMIT == validation.MAX_ENTITY_KEY_LENGTH
    assert PARAM_LIMIT == validation.MAX_PARAM_VAL_LENGTH
    assert TAG_LIMIT <= validation.MAX_TAG_VAL_LENGTH
    assert PARAMS_PER_CALL == validation.MAX_PARAMS_TAGS_PER_BATCH
    assert POINTS_PER_CALL == validation.MAX_METRICS_PER_BATCH
    assert REQUEST_BYTES < validation.MAX_BATCH_LOG_REQUEST_SIZE


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_names_become_names_that_mlflow_takes(name: str) -> None:
    validation._validate_metric(store_key(name), 1.0, 0, 0)
    validation._validate_param(store_key(name), "v")
    validation._validate_tag(store_key(name), "v")


@given(st.text(max_size=300))
def test_every_name_becomes_one_that_mlflow_takes_and_stays_it(name: str) -> None:
    key = store_key(name)
    validation._validate_metric(key, 1.0, 0, 0)
    assert store_key(key) == key


def test_good_names_stay_as_they_are() -> None:
    for name in ("pretrain/loss", "system/rank_0/cpu", "a b: c-d.e_f", "x" * KEY_LIMIT):
        assert store_key(name) == name


@given(st.lists(st.text(max_size=20), unique=True, max_size=30))
def test_different_parameters_stay_different(names: list[str]) -> None:
    keys = unique_keys([*names, "k" * 400, "k" * 401, "a[0]", "a(0)", "a_0_"])
    assert len(set(keys.values())) == len(keys)
    assert max(map(len, keys.values())) <= KEY_LIMIT


def test_a_value_that_is_too_long_ends_with_where_the_whole_is() -> None:
    assert cut_param("k", "v" * PARAM_LIMIT) == ("v" * PARAM_LIMIT, None)
    value, file = cut_param("a/b", "v" * (PARAM_LIMIT + 1))
    assert len(value) == PARAM_LIMIT
    assert file is not None
    assert value.endswith(f"(cut; the whole is in params/{file})")
    assert "/" not in file
    assert cut_param("a_b", "v" * 7000)[1] != file
    assert len(cut_tag("v" * 9000)) == TAG_LIMIT
    assert cut_tag("v") == "v"


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 7), st.integers(10, 120))
def test_calls_keep_the_order_and_both_limits(sizes: list[int], most: int, limit: int) -> None:
    found = [list(part) for part in calls(sizes, most, lambda size: size, limit)]
    assert [size for part in found for size in part] == sizes
    for part in found:
        assert 0 < len(part) <= most
        assert len(part) == 1 or sum(part) <= limit
    for one, two in pairwise(found):
        assert len(one) == most or sum(one) + two[0] > limit, "no call is smaller than it has to be"


@pytest.mark.parametrize("letter", ["x", "é", "🎞"])
def test_a_rows_bytes_are_not_underestimated(letter: str) -> None:
    key, value = letter * 200, letter * 500
    batch = {
        "metrics": ([Metric(key, 1e-300, 1_700_000_000_000, 10**9).to_proto()] * 50, row_bytes(key)),
        "params": ([Param(key, value).to_proto()] * 50, row_bytes(key, value)),
        "tags": ([RunTag(key, value).to_proto()] * 50, row_bytes(key, value)),
    }
    for name, (rows, bytes_each) in batch.items():
        request = message_to_json(LogBatch(run_id="r" * 32, **{name: rows}))
        assert len(json.dumps(json.loads(request))) <= 50 * bytes_each + 200, name
        assert len(request) <= 50 * bytes_each + 2000, name
