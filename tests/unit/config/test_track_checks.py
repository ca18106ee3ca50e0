"""What is refused of the group ``track`` before anything runs, and that no password is shown or kept."""

from __future__ import annotations

import pytest

from ssvae.config.compose import resolve
from ssvae.config.problem import InputError
from ssvae.config.run import TrackConfig
from ssvae.config.track_checks import track_problems


def config(**changes: object) -> TrackConfig:
    values: dict[str, object] = {
        "enabled": True, "uri": None, "experiment": "e", "every_s": 10.0, "patience_s": 30.0, "system_every_s": 10.0,
        "samples": 4, **changes,
    }  # fmt: skip
    return TrackConfig(**values)  # type: ignore[arg-type]  # types are the config's own affair


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"uri": "http://host:5000"},
        {"uri": "sqlite:////data/m.db"},
        {"uri": "databricks", "experiment": "/Users/me/ssvae"},
        {"system_every_s": None},
        {"system_every_s": 0.0},
        {"system_every_s": 1.0},
        {"enabled": False},
    ],
)
def test_what_makes_sense_is_taken(changes: dict[str, object]) -> None:
    assert list(track_problems(config(**changes))) == []


@pytest.mark.parametrize(
    ("changes", "key", "remedy"),
    [
        ({"uri": "./mlruns"}, "track.uri", "migrate-filestore"),
        ({"uri": "./mlruns", "enabled": False}, "track.uri", "migrate-filestore"),
        ({"uri": "sqlite:///m.db"}, "track.uri", "four slashes"),
        ({"uri": "http://me:pa55@host"}, "track.uri", "MLFLOW_TRACKING_URI"),
        ({"uri": "databricks"}, "track.experiment", "Databricks wants a path"),
        ({"experiment": " "}, "track.experiment", "1 to 500"),
        ({"experiment": "x" * 501}, "track.experiment", "1 to 500"),
        ({"system_every_s": 0.5}, "track.system_every_s", "at least 1"),
    ],
)
def test_what_does_not_is_named_with_its_remedy(changes: dict[str, object], key: str, remedy: str) -> None:
    (problem,) = track_problems(config(**changes))
    assert problem.key == key
    assert remedy in problem.remedy
    assert "pa55" not in str(problem)


def test_the_environment_is_judged_too_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:/home/me/mlruns")
    (problem,) = track_problems(config())
    assert problem.key == "MLFLOW_TRACKING_URI"
    assert list(track_problems(config(uri="http://host"))) == []
    assert list(track_problems(config(enabled=False))) == []
    # A password is welcome there: nothing of it is written down.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pa55@host")
    assert list(track_problems(config())) == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://me:pa55@host")
    (problem,) = track_problems(config())
    assert problem.value == "htp://me:***@host"


def test_the_whole_config_is_refused_before_anything_runs() -> None:
    with pytest.raises(InputError) as caught:
        resolve(("track.uri=http://me:pa55@host",))
    assert "track.uri" in str(caught.value)
    assert "pa55" not in str(caught.value)
    with pytest.raises(InputError, match=r"track\.system_every_s = -1"):
        resolve(("track.system_every_s=-1",))
