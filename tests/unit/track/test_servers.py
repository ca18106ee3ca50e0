"""MLflow's own REST server, on loopback, that refuses, hangs, errs for a while or loses a part: nobody is held up, and
everything is there afterwards."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mlflow_server import Door, mlflow_server, refused_uri
from ssvae.track import live as live_module
from ssvae.track.base import Problems, TrackerError
from ssvae.track.live import Live
from ssvae.track.mlflow import MlflowTracker
from ssvae.track.sync import sync_sweep

pytestmark = pytest.mark.xdist_group("mlflow_server")
LONG_S = 60.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[tuple[str, Door]]:
    with mlflow_server(place) as found:
        yield found


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(live_module, "_LONGEST_PAUSE_S", 0.05)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")


def make_cell(root: Path, cell_id: str, steps: int = 40) -> tuple[Path, Path]:
    """(record, folder of its stage)."""
    folder = root / "runs" / "stages" / f"pretrain-{cell_id}"
    (folder / "system").mkdir(parents=True)
    (folder / "run.json").write_text('{"created_ms": 1700000000000}')
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "steps.jsonl").write_text("".join(f'{{"step": {s}, "loss": {1 / s}}}\n' for s in range(1, steps + 1)))
    (folder / "metrics.json").write_text('[{"name": "psnr_db", "value": 30.5}]')
    (folder / "system" / "rank_000.jsonl").write_text('{"step": 1700000001, "time_ms": 1700000001500, "cpu": 5.0}\n')
    record = root / "runs" / "sweeps" / "grid" / "cells" / f"{cell_id}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    values = {"cell_id": cell_id, "fields": {"reg": cell_id}, "overrides": [], "status": "finished", "reason": None}
    where = str(folder.relative_to(root))
    record.write_text(json.dumps({**values, "stages": {"pretrain": where}, "reused": [], "seconds": 1.0}))
    record.with_suffix(".yaml").write_text("seed: 0\n")
    return record, folder


def start(root: Path, uri: str) -> Live:
    return Live(root, lambda: MlflowTracker(root, root.name, uri), Problems(), 0.02)


def run_all(live: Live, root: Path, names: tuple[str, ...] = ("a", "b")) -> None:
    live.open_sweep("grid", {"command": "python run.py"})
    for name in names:
        record, folder = make_cell(root, name)
        live.open_cell("grid", record)
        live.watch("grid", name, "pretrain", folder)
        live.stage_done("grid", name, "pretrain", folder)
        live.close_cell("grid", name, "FINISHED", None, [])


def stored(place: Path, root: Path) -> dict[str, Any]:
    """Everything that a tracker shows of the experiment of ``root``, without ids and times of its own."""
    with closing(sqlite3.connect(place / "server.db")) as connection:
        query = (
            "SELECT r.run_uuid, r.name, r.status FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id "
            "WHERE e.name = ?"
        )
        runs = connection.execute(query, [root.name]).fetchall()
        found = {}
        for run, name, status in runs:
            points = connection.execute(
                "SELECT key, step, value, timestamp FROM metrics WHERE run_uuid = ? ORDER BY 1, 2, 3", [run]
            ).fetchall()
            params = connection.execute("SELECT key, value FROM params WHERE run_uuid = ? ORDER BY 1", [run]).fetchall()
            files = sorted(
                path.relative_to(folder).as_posix()
                for folder in (place / "artifacts").glob(f"*/{run}/artifacts")
                for path in folder.rglob("*")
                if path.is_file()
            )
            assert name not in found, "one run each"
            found[name] = {"status": status, "points": points, "params": params, "files": files}
    return found


def expected(place: Path, root: Path, names: tuple[str, ...] = ("a", "b")) -> None:
    found = stored(place, root)
    assert set(found) == {"grid", *(f"reg={name}" for name in names)}
    for name in names:
        cell = found[f"reg={name}"]
        assert cell["status"] == "FINISHED"
        assert [row[:2] for row in cell["points"]] == [
            *(("pretrain/loss", step) for step in range(1, 41)), ("psnr_db", 0), ("system/rank_0/cpu", 1_700_000_001),
        ]  # fmt: skip
        assert cell["files"] == ["stages/pretrain/config.yaml", "stages/pretrain/metrics.json"]
        assert ("seed", "0") in cell["params"]
    assert found["grid"]["status"] == "FINISHED"


def test_a_server_that_refuses(tmp_path: Path, server: tuple[str, Door], place: Path) -> None:
    root = tmp_path / "refused"
    live = start(root, refused_uri())
    run_all(live, root)
    live.close_sweep("grid", "FINISHED")
    assert live.close(LONG_S) == ["cell a", "cell b", "sweep grid"]
    assert not live._thread.is_alive(), "given up, not timed out"
    assert "cannot be opened" in str(live._problems.first)
    sync_sweep(MlflowTracker(root, root.name, server[0]), root, "grid")
    expected(place, root)


def test_a_server_that_never_answers(
    tmp_path: Path, server: tuple[str, Door], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call below is made while a request hangs."""
    root = tmp_path / "hanging"
    uri, door = server
    door.set("hangs")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    live = start(root, uri)
    live.open_sweep("grid", {"command": "python run.py"})
    assert door.reached.wait(LONG_S)
    run_all(live, root)
    live.close_sweep("grid", "FINISHED")
    assert live.close(0.05) == ["cell a", "cell b", "sweep grid"]
    door.mend()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    sync_sweep(MlflowTracker(root, root.name, uri), root, "grid")
    expected(place, root)


PLACES = ["", "experiments", "runs/search", "runs/create", "log-batch", "mlflow-artifacts", "runs/update"]


@pytest.mark.parametrize(("mode", "where"), [("hangs", ""), *(("errs on paths with", place) for place in PLACES)])
def test_a_server_that_comes_back(tmp_path: Path, server: tuple[str, Door], place: Path, mode: str, where: str) -> None:
    root = tmp_path / f"back-{mode[:4]}-{where.replace('/', '-')}"
    uri, door = server
    door.set("hangs") if mode == "hangs" else door.set("errs on paths with", where)
    live = start(root, uri)
    run_all(live, root)
    assert door.reached.wait(LONG_S)
    door.mend()
    live.close_sweep("grid", "FINISHED")
    assert live.close(LONG_S) == []
    assert live._problems.count > 0 or mode == "hangs"
    expected(place, root)


def test_a_server_that_goes_away_at_the_end(tmp_path: Path, server: tuple[str, Door], place: Path) -> None:
    """What is missing is named, and filled in later; the rest is not sent again."""
    root = tmp_path / "end"
    uri, door = server
    live = start(root, uri)
    run_all(live, root, ("a",))
    for _ in range(1000):
        if live.missing() == []:
            break
        live._thread.join(0.05)
    door.set("errs")
    record, folder = make_cell(root, "b")
    live.open_cell("grid", record)
    live.stage_done("grid", "b", "pretrain", folder)
    live.close_cell("grid", "b", "FINISHED", None, [])
    live.close_sweep("grid", "FINISHED")
    assert live.close(0.5) == ["cell b", "sweep grid"]
    door.mend()
    count = sync_sweep(MlflowTracker(root, root.name, uri), root, "grid")
    assert (count.mirrored.points, count.mirrored.finals, count.cells) == (40, 1, {"finished": 2})
    expected(place, root)


def test_passwords_stay_out_of_every_text(tmp_path: Path, server: tuple[str, Door]) -> None:
    uri, door = server
    secret = uri.replace("http://", "http://me:pa55word@")
    door.set("errs")
    with pytest.raises(TrackerError) as caught:
        MlflowTracker(tmp_path, "secret", secret)
    assert caught.value.unreachable
    assert caught.value.__cause__ is None
    assert "me:***@" in str(caught.value)
    assert "pa55word" not in str(caught.value)
    door.mend()
    with pytest.raises(TrackerError) as caught:
        MlflowTracker(tmp_path, "secret", refused_uri().replace("http://", "http://me:pa55word@"))
    assert "pa55word" not in str(caught.value)


def test_requests_stay_below_the_servers_limit(tmp_path: Path, server: tuple[str, Door], place: Path) -> None:
    """A server refuses requests above 1,000,000 bytes, and every letter that is not ASCII takes six."""
    root = tmp_path / "wide"
    params = {f"p{i}": "é" * 6000 for i in range(120)}
    tags = {f"t{i}": "é" * 5000 for i in range(60)}
    cell = MlflowTracker(root, "wide", server[0]).open_sweep("s", {}, {}).open_cell("c", {"reg": "w"}, params, {})
    cell._store.set_tags(cell.run_id, tags)  # type: ignore[attr-defined]  # the store below a cell is its own affair
    _, folder = make_cell(root, "w")
    wide = {"é" * 240 + str(i): 1.0 for i in range(2000)}
    (folder / "steps.jsonl").write_text(json.dumps({"step": 1, **wide}) + "\n")
    assert cell.mirror("pretrain", folder).points == 2000
    found = stored(place, root)["reg=w"]
    assert len(found["params"]) == 121
    assert len(found["points"]) == 2002
