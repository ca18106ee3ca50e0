"""Whether the owner of an open run still lives."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from ssvae.track.process import owner_is_gone, process_tags


def test_this_process_lives_and_a_finished_one_is_gone() -> None:
    tags = process_tags()
    assert not owner_is_gone(tags)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = psutil.Process(child.pid).create_time()
    theirs = {**tags, "pid": str(child.pid), "pid_start": f"{start:.2f}"}
    assert not owner_is_gone(theirs)
    child.kill()
    # Killed but not yet waited for: a zombie owns nothing any more.
    for _ in range(500):
        if owner_is_gone(theirs):
            break
        time.sleep(0.01)
    assert owner_is_gone(theirs)
    child.wait()
    assert owner_is_gone(theirs)


def test_a_reused_process_id_is_not_the_owner() -> None:
    tags = process_tags()
    earlier = {**tags, "pid_start": str(float(tags["pid_start"]) - 100)}
    assert owner_is_gone(earlier)


def test_other_machines_and_untagged_runs_are_never_called_dead() -> None:
    tags = process_tags()
    assert not owner_is_gone({**tags, "host": "elsewhere", "pid_start": "0"})
    assert not owner_is_gone({"sweep": "s"})
    assert not owner_is_gone({"host": tags["host"]})
