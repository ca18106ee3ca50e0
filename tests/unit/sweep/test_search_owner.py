"""Who is taken for dead: a process that is gone, a machine that has been silent; never a living one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ssvae.core.alive import start_of, this_process
from ssvae.sweep.search import owner
from ssvae.sweep.search.owner import GRACE_S, Owner


def test_this_driver_and_its_living_neighbours_are_not_gone(tmp_path: Path) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        there = {**this_process(), "pid": sleeper.pid, "pid_start": start_of(sleeper.pid)}
        with Owner(tmp_path) as mine:
            assert not mine.is_gone(mine.tag)
            assert not mine.is_gone(there)
            sleeper.kill()
            sleeper.wait()
            assert mine.is_gone(there)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_process_number_that_was_used_again_is_not_the_owner(tmp_path: Path) -> None:
    with Owner(tmp_path) as mine:
        assert mine.is_gone({**mine.tag, "pid_start": "1"})


def test_a_trial_without_an_owner_died_before_it_had_one(tmp_path: Path) -> None:
    with Owner(tmp_path) as mine:
        assert mine.is_gone(None)


def test_another_machine_is_given_up_after_a_long_silence_only(tmp_path: Path) -> None:
    far = {"host": "elsewhere", "pid": 7, "pid_start": "99"}
    with Owner(tmp_path) as mine:
        assert mine.is_gone(far), "it took its file away, or never had one"
        beat = tmp_path / "elsewhere-7-99"
        beat.touch()
        assert not mine.is_gone(far)
        now = beat.stat().st_mtime
        os.utime(beat, (now, now - GRACE_S + 60))
        assert not mine.is_gone(far)
        os.utime(beat, (now, now - GRACE_S - 60))
        assert mine.is_gone(far)


def test_a_driver_shows_its_life_and_takes_its_sign_away(tmp_path: Path, monkeypatch: object) -> None:
    before = owner.BEAT_S
    owner.BEAT_S = 0.01
    try:
        with Owner(tmp_path):
            (beat,) = tmp_path.iterdir()
            os.utime(beat, (0, 0))
            for _ in range(1000):
                if beat.stat().st_mtime > 0:
                    break
                subprocess.run(["sleep", "0.01"], check=True)
            assert beat.stat().st_mtime > 0
        assert list(tmp_path.iterdir()) == []
    finally:
        owner.BEAT_S = before
