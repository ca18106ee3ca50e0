"""What a cell sends to its store, with a store in memory that can be told to fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from ssvae.track.base import MirrorCount, RunStatus, TrackerError
from ssvae.track.cell import MirroredCell, Point
from ssvae.track.limits import POINTS_PER_CALL


class MemoryStore:
    """Keeps every point it is sent, with no deduplication at all: duplicates show."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.uploads: list[str] = []
        self.run_tags: dict[str, str] = {}
        self.status = "RUNNING"
        self.ended_ms: int | None = None
        self.fail_after: int | None = None
        self.lock = threading.Lock()

    @contextmanager
    def translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrackerError(f"{what}: {error}") from error

    def exclusive(self, run_id: str) -> AbstractContextManager[object]:
        return self.lock

    def key(self, name: str) -> str:
        return name

    def tags(self, run_id: str) -> Mapping[str, str]:
        return dict(self.run_tags)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.run_tags.update(tags)

    def latest(self, run_id: str) -> dict[str, Point]:
        found: dict[str, Point] = {}
        for point in self.points:
            if point.key not in found or point.step >= found[point.key].step:
                found[point.key] = point
        return found

    def history(self, run_id: str, key: str) -> list[Point]:
        return [point for point in self.points if point.key == key]

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        assert len(points) <= POINTS_PER_CALL
        if self.fail_after is not None:
            if self.fail_after == 0:
                raise OSError("store is down")
            self.fail_after -= 1
        self.points += points

    def upload(self, run_id: str, file: Path, where: str, name: str) -> None:
        assert file.stat().st_size > 0
        self.uploads.append(f"{where}/{name}")

    def close_run(self, run_id: str, status: RunStatus, ended_ms: int | None) -> None:
        self.status, self.ended_ms = status, ended_ms

    def keys(self) -> list[tuple[str, int]]:
        return [(point.key, point.step) for point in self.points]


def stage_folder(root: Path, steps: int, *, name: str = "pretrain-ab12", created: int = 1000, width: int = 3) -> Path:
    folder = root / name
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"created_ms": created}))
    (folder / "config.yaml").write_text("a: 1\n")
    write_steps(folder, range(1, steps + 1), width)
    return folder


def write_steps(folder: Path, steps: Sequence[int], width: int = 3, shift: float = 0.0) -> None:
    rows = [{"step": step, **{f"m{i}": step + i + shift for i in range(width)}} for step in steps]
    (folder / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_metrics(folder: Path, values: Mapping[str, float | None]) -> None:
    (folder / "metrics.json").write_text(json.dumps([{"name": k, "value": v} for k, v in values.items()]))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def test_no_point_is_sent_before_run_json_exists(tmp_path: Path, store: MemoryStore) -> None:
    cell = MirroredCell(store, "r")
    assert cell.mirror("pretrain", tmp_path / "pretrain-ab12") == MirrorCount()
    folder = stage_folder(tmp_path, 2)
    run_json = (folder / "run.json").read_text()
    (folder / "run.json").unlink()
    assert cell.mirror("pretrain", folder) == MirrorCount(files=1)
    (folder / "run.json").write_text(run_json)
    assert cell.mirror("pretrain", folder) == MirrorCount(points=6)


def test_points_carry_step_and_deterministic_time(tmp_path: Path, store: MemoryStore) -> None:
    folder = stage_folder(tmp_path, 2, created=5000, width=1)
    assert MirroredCell(store, "r").mirror("pretrain", folder).points == 2
    assert store.points == [Point("pretrain/m0", 1.0, 5001, 1), Point("pretrain/m0", 2.0, 5002, 2)]


@pytest.mark.parametrize("new_process", [False, True])
def test_mirroring_again_sends_nothing(tmp_path: Path, store: MemoryStore, new_process: bool) -> None:
    folder = stage_folder(tmp_path, 5)
    write_metrics(folder, {"psnr_db": 30.0, "fvd": None})
    cell = MirroredCell(store, "r")
    first = cell.mirror("pretrain", folder)
    assert (first.points, first.finals, first.files, first.skipped) == (15, 1, 2, 1)
    before = list(store.points)
    again = (MirroredCell(store, "r") if new_process else cell).mirror("pretrain", folder)
    assert (again.points, again.finals, again.files) == (0, 0, 0)
    assert store.points == before
    assert store.run_tags["not_measured.pretrain"] == "fvd"


@pytest.mark.parametrize("batches", [0, 1, 2])
@pytest.mark.parametrize("new_process", [False, True])
def test_after_a_failure_between_batches_the_rest_follows_once(
    tmp_path: Path, store: MemoryStore, batches: int, new_process: bool
) -> None:
    steps = POINTS_PER_CALL  # 3 points a step: 3 full batches and a bit
    folder = stage_folder(tmp_path, steps)
    cell = MirroredCell(store, "r")
    store.fail_after = batches
    with pytest.raises(TrackerError, match="store is down"):
        cell.mirror("pretrain", folder)
    assert len(store.points) == batches * (POINTS_PER_CALL // 3 * 3)
    store.fail_after = None
    (MirroredCell(store, "r") if new_process else cell).mirror("pretrain", folder)
    assert sorted(store.keys()) == sorted((f"pretrain/m{i}", s) for i in range(3) for s in range(1, steps + 1))


def test_one_line_wider_than_a_batch_is_split(tmp_path: Path, store: MemoryStore) -> None:
    folder = stage_folder(tmp_path, 2, width=POINTS_PER_CALL + 1)
    store.fail_after = 1
    cell = MirroredCell(store, "r")
    with pytest.raises(TrackerError):
        cell.mirror("pretrain", folder)
    store.fail_after = None
    cell.mirror("pretrain", folder)
    assert len(store.keys()) == len(set(store.keys())) == 2 * (POINTS_PER_CALL + 1)


@pytest.mark.parametrize("new_process", [False, True])
@pytest.mark.parametrize("shift", [0.0, 0.125])
def test_a_resumed_run_that_writes_steps_again_adds_only_new_ones(
    tmp_path: Path, store: MemoryStore, new_process: bool, shift: float
) -> None:
    folder = stage_folder(tmp_path, 9)
    cell = MirroredCell(store, "r")
    cell.mirror("pretrain", folder)
    write_steps(folder, range(1, 5))
    if new_process:
        cell = MirroredCell(store, "r")
    cell.mirror("pretrain", folder)
    write_steps(folder, range(1, 13), shift=shift)
    cell.mirror("pretrain", folder)
    assert sorted(store.keys()) == sorted((f"pretrain/m{i}", s) for i in range(3) for s in range(1, 13))


def test_a_step_written_twice_is_sent_once(tmp_path: Path, store: MemoryStore) -> None:
    folder = stage_folder(tmp_path, 0)
    write_steps(folder, [1, 2, 2, 3], width=1)
    MirroredCell(store, "r").mirror("pretrain", folder)
    assert store.keys() == [("pretrain/m0", 1), ("pretrain/m0", 2), ("pretrain/m0", 3)]


def test_another_folder_of_the_same_stage_gets_curves_of_its_own(tmp_path: Path, store: MemoryStore) -> None:
    MirroredCell(store, "r").mirror("pretrain", stage_folder(tmp_path, 2, width=1))
    newer = stage_folder(tmp_path, 2, name="pretrain-ffff", created=9000, width=1)
    MirroredCell(store, "r").mirror("pretrain", newer)
    assert store.keys()[2:] == [("pretrain-ffff/m0", 1), ("pretrain-ffff/m0", 2)]


def test_one_final_metric_from_two_stages_settles(tmp_path: Path, store: MemoryStore) -> None:
    early, late = stage_folder(tmp_path, 0, created=10), stage_folder(tmp_path, 0, name="measure-cd", created=20)
    write_metrics(early, {"psnr_db": 20.0})
    write_metrics(late, {"psnr_db": 25.0})
    for _ in range(3):  # as after two resumes
        cell = MirroredCell(store, "r")
        cell.mirror("pretrain", early)
        cell.mirror("measure", late)
    assert store.points == [Point("psnr_db", 20.0, 10, 0), Point("psnr_db", 25.0, 20, 1)]


def test_files_are_uploaded_once_and_again_when_they_change(tmp_path: Path, store: MemoryStore) -> None:
    folder = stage_folder(tmp_path, 0)
    clip = folder / "samples" / "step_000100.mp4"
    clip.write_bytes(b"one")
    cell = MirroredCell(store, "r")
    cell.mirror("pretrain", folder)
    cell.mirror("pretrain", folder)
    assert store.uploads == ["stages/pretrain/config.yaml", "videos/pretrain/step/step_00000100.mp4"]
    clip.write_bytes(b"three")
    cell.mirror("pretrain", folder)
    assert store.uploads[2:] == ["videos/pretrain/step/step_00000100.mp4"]


def test_a_malformed_line_is_counted_and_passed(tmp_path: Path, store: MemoryStore) -> None:
    folder = stage_folder(tmp_path, 0)
    (folder / "steps.jsonl").write_text(
        '{"step": 1, "a": 1.0}\n{"step": 2, "a{"step": 2, "a": 2.0}\n{"step": 3, "a": 3.0}\n'
    )
    cell = MirroredCell(store, "r")
    assert cell.mirror("pretrain", folder).malformed == 1
    assert cell.mirror("pretrain", folder).malformed == 0
    assert store.keys() == [("pretrain/a", 1), ("pretrain/a", 3)]


def test_a_malformed_metrics_file_is_a_tracker_error(tmp_path: Path, store: MemoryStore) -> None:
    folder = stage_folder(tmp_path, 1)
    (folder / "metrics.json").write_text('[{"value": 1.0}]')
    with pytest.raises(TrackerError, match="name"):
        MirroredCell(store, "r").mirror("pretrain", folder)


def test_finish_sets_status_and_clears_an_older_reason(store: MemoryStore) -> None:
    cell = MirroredCell(store, "r")
    cell.finish("FAILED", "non-finite loss")
    assert (store.status, store.run_tags["reason"]) == ("FAILED", "non-finite loss")
    cell.finish("FINISHED")
    assert (store.status, store.run_tags["reason"]) == ("FINISHED", "")


def test_the_end_of_a_cell_that_is_filled_in_later_is_its_own(store: MemoryStore) -> None:
    MirroredCell(store, "r").finish("FINISHED", None, 1234)
    assert (store.status, store.ended_ms) == ("FINISHED", 1234)


@pytest.mark.parametrize("later", ["both at once", "one after the other"])
def test_two_processes_that_mirror_the_same_cell_double_nothing(tmp_path: Path, store: MemoryStore, later: str) -> None:
    """Two mirrors of one run, of which neither knows of the other; the store keeps every point that it is sent."""
    folder = stage_folder(tmp_path, 0, created=1_700_000_000_000)
    (folder / "system").mkdir()
    mirrors = [MirroredCell(store, "r") for _ in range(2)]
    for upto in range(0, 41, 8):
        write_steps(folder, range(1, upto + 1))
        write_system(folder, range(upto))
        write_metrics(folder, {"psnr_db": 30.0, "ssim": 0.5})
        if later == "both at once":
            threads = [threading.Thread(target=one.mirror, args=("pretrain", folder)) for one in mirrors]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        else:
            for one in mirrors:
                one.mirror("pretrain", folder)
    steps = [(f"pretrain/m{i}", step) for i in range(3) for step in range(1, 41)]
    system = [("system/rank_0/cpu_utilization_percentage", 1_700_000_000 + second) for second in range(40)]
    assert sorted(store.keys()) == sorted([*steps, *system, ("psnr_db", 0), ("ssim", 0)])


def write_system(folder: Path, seconds: Sequence[int], rank: int = 0) -> None:
    rows = [
        {"step": 1_700_000_000 + s, "time_ms": 1_700_000_000_250 + 1000 * s, "cpu_utilization_percentage": float(s)}
        for s in seconds
    ]
    (folder / "system" / f"rank_{rank:03d}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("new_process", [False, True])
def test_system_metrics_of_all_ranks_and_stages_appear_once_with_their_time(
    tmp_path: Path, store: MemoryStore, new_process: bool
) -> None:
    early, late = stage_folder(tmp_path, 0), stage_folder(tmp_path, 0, name="measure-cd", created=2000)
    cell = MirroredCell(store, "r")
    for folder, begin in ((late, 100), (early, 0)):  # the stage that ran later is mirrored first
        (folder / "system").mkdir()
        for rank in (0, 1):
            write_system(folder, range(begin, begin + 3), rank)
        assert cell.mirror(folder.name.partition("-")[0], folder).system == 6
    assert Point("system/rank_1/cpu_utilization_percentage", 101.0, 1_700_000_101_250, 1_700_000_101) in store.points
    cell = MirroredCell(store, "r") if new_process else cell
    write_system(early, range(5))
    assert cell.mirror("pretrain", early).system == 2
    assert cell.mirror("measure", late).system == 0
    assert len(store.keys()) == len(set(store.keys())) == 14


@pytest.mark.parametrize("new_process", [False, True])
def test_system_metrics_follow_once_after_a_failure_between_calls(
    tmp_path: Path, store: MemoryStore, new_process: bool
) -> None:
    folder = stage_folder(tmp_path, 0)
    (folder / "system").mkdir()
    write_system(folder, range(2500))
    cell = MirroredCell(store, "r")
    store.fail_after = 1
    with pytest.raises(TrackerError, match="store is down"):
        cell.mirror("pretrain", folder)
    assert len(store.points) == 1000
    store.fail_after = None
    (MirroredCell(store, "r") if new_process else cell).mirror("pretrain", folder)
    assert [point.step for point in store.points] == [1_700_000_000 + second for second in range(2500)]


def test_a_thinned_file_of_system_metrics_adds_only_what_is_new(tmp_path: Path, store: MemoryStore) -> None:
    folder = stage_folder(tmp_path, 0)
    (folder / "system").mkdir()
    cell = MirroredCell(store, "r")
    write_system(folder, range(10))
    cell.mirror("pretrain", folder)
    write_system(folder, [*range(1, 10, 2), 11])
    assert cell.mirror("pretrain", folder).system == 1
    assert len(store.points) == 11
