"""``reward``: a folder of clips against a real server on loopback, killed and resumed, and everything it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from reward_server import MODEL, Asked, Reaction, RewardServer, v1_answer, v2_answer
from ssvae.cli.main import main
from ssvae.cli.reward import shown
from ssvae.config.compose import CONF
from ssvae.core.paths import PROJECT
from ssvae.data.video_file import write_video
from ssvae.data.video_stream import open_clip
from ssvae.metrics.reward import shown_frames
from ssvae.metrics.reward_prompt import QUESTIONS

CLIPS = 5
PROMPTS = [f"a scene of grey {i}" for i in range(CLIPS)]


def honest(asked: Asked) -> Reaction:
    index = which(asked)
    fits = asked.prompt == PROMPTS[index]
    return Reaction(v1_answer(1 + index % 4, 2, 3, 4 if fits else 1, 2))


def which(asked: Asked) -> int:
    return round((float(asked.frames()[0].mean()) - 30) / 40)


@pytest.fixture
def server() -> Iterator[RewardServer]:
    with RewardServer(honest) as one:
        yield one


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for index in range(CLIPS):
        levels = (30 + 40 * index + 2 * torch.arange(20.0)) / 127.5 - 1
        write_video(folder / f"{index}.mp4", levels.view(1, 20, 1, 1).expand(3, 20, 32, 48), fps=10)
    (folder / "notes.txt").write_text("no clip")
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return path


def words(videos: Path, prompts: Path, out: Path, url: str, *more: str) -> list[str]:
    given = {"videos": videos, "prompts": prompts, "out": out, "endpoint": url, "model": MODEL}
    options = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return ["reward", *options, *(more if "--version" in more else ("--version", "v1", *more)), "--backoff-s", "0.01"]


def rows(out: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((out / "metrics.json").read_text())}


def answers(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


def test_scores_and_control_of_a_folder(
    server: RewardServer, videos: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(words(videos, prompts, out, server.url)) == 0
    found = rows(out)
    means = [(1 + i % 4 + 2 + 3 + 4 + 2) / 5 for i in range(CLIPS)]
    assert found["reward_mean"]["value"] == pytest.approx(np.mean(means), abs=1e-12)
    assert found["reward_mean"]["n"] == CLIPS and found["reward_mean"]["ci95"] is not None
    assert found["reward_prompt_gap"]["value"] == pytest.approx(3 / 5, abs=1e-12)
    assert found["reward_mean_wrong_prompt"]["direction"] == "none"
    digest = QUESTIONS["v1"].digest[:12]
    protocol = (
        f"unified_reward/1;version=v1;model={MODEL};frames=8;jpeg=95;template={digest};max_tokens=4096;temperature=0"
    )
    assert found["reward_mean"]["protocol"] == protocol
    # The control is on without being asked for: two questions a clip, eight frames each.
    assert Counter(which(one) for one in server.asked) == dict.fromkeys(range(CLIPS), 2)
    assert {len(one.files) for one in server.asked} == {8}
    assert Counter(row["control"] for row in answers(out)) == {True: CLIPS, False: CLIPS}
    record = json.loads((out / "run.json").read_text())
    assert (record["asked"], record["reused"], record["paired"]) == (2 * CLIPS, 0, "by order of names")
    assert record["protocol"] == protocol and len(record["prompts_sha256"]) == 64
    told = capsys.readouterr().out
    assert "reward_mean" in told and "10 asked now, 0 answered before" in told


def test_the_same_call_again_asks_nothing(server: RewardServer, videos: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(words(videos, prompts, out, server.url, "--no-wrong-prompts")) == 0
    first = rows(out)
    assert "reward_prompt_gap" not in first and len(server.asked) == CLIPS
    assert main(words(videos, prompts, out, server.url, "--no-wrong-prompts")) == 0
    assert rows(out) == first and len(server.asked) == CLIPS


def test_version_two_with_names_as_of_vbench(server: RewardServer, videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "named"
    folder.mkdir()
    for index, name in enumerate(["a cat-0", "a cat-1", "a dog-0", "rain"]):
        (folder / f"{name}.mp4").write_bytes((videos / f"{index}.mp4").read_bytes())
    listed = tmp_path / "full_info.json"
    listed.write_text(json.dumps([{"prompt_en": text} for text in ("a dog", "rain", "a cat", "never used", "rain")]))
    asked: dict[int, str] = {}

    def react(one: Asked) -> Reaction:
        asked[which(one)] = one.prompt
        return Reaction(v2_answer(1 + which(one), 2.5, 3.5))

    server.react = react
    out = tmp_path / "out"
    more = ("--version", "v2", "--no-wrong-prompts", "--concurrency", "1", "--frames", "5", "--max-tokens", "99")
    assert main(words(folder, listed, out, server.url, *more)) == 0
    assert asked == {0: "a cat", 1: "a cat", 2: "a dog", 3: "rain"}
    assert {(len(one.files), one.body["max_tokens"]) for one in server.asked} == {(5, 99)}
    found = rows(out)
    # Both clips of "a cat" are one sample: their mean, 1.5, with 3 and 4.
    assert (found["reward_alignment"]["value"], found["reward_alignment"]["n"]) == (pytest.approx(8.5 / 3), 3)
    assert "reward_final" not in found


def test_killed_and_resumed_no_clip_is_scored_twice(
    server: RewardServer, videos: Path, prompts: Path, tmp_path: Path
) -> None:
    """SIGKILL while a request is under way; then a torn line, as a kill in the middle of a write leaves it."""
    out = tmp_path / "out"
    process: list[subprocess.Popen[bytes]] = []

    def deadly(asked: Asked) -> Reaction:
        if asked.number == 4:
            os.kill(process[0].pid, signal.SIGKILL)
            return Reaction(drop=True)
        return honest(asked)

    server.react = deadly
    call = words(videos, prompts, out, server.url, "--concurrency", "1")
    process.append(subprocess.Popen([sys.executable, "-m", "ssvae", *call], cwd=PROJECT, stdout=subprocess.DEVNULL))
    assert process[0].wait(60) == -signal.SIGKILL
    assert len(answers(out)) == 4 and not (out / "metrics.json").exists()
    last = (out / "scores.jsonl").read_bytes().splitlines()[-1]
    with (out / "scores.jsonl").open("ab") as file:
        file.write(last[: len(last) // 2])
    server.react = honest
    assert main(call) == 0
    assert len(server.answered) == 2 * CLIPS
    assert set(Counter((which(one), one.prompt) for one in server.answered).values()) == {1}
    assert len(answers(out)) == 2 * CLIPS
    record = json.loads((out / "run.json").read_text())
    assert (record["asked"], record["reused"], record["torn"]) == (2 * CLIPS - 4, 4, 1)


def test_a_server_that_fails_on_the_way(
    server: RewardServer, videos: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    server.react = lambda asked: Reaction(status=400, raw=b"too long") if which(asked) == 3 else honest(asked)
    call = words(videos, prompts, out, server.url, "--concurrency", "1", "--no-wrong-prompts")
    assert main(call) == 1
    told = capsys.readouterr().out
    assert "HTTP 400 Bad Request: too long" in told and "the same command goes on" in told
    # The request behind the one that failed may have been on its way.
    kept = {answer["clip"] for answer in answers(out)}
    assert {"0.mp4", "1.mp4", "2.mp4"} <= kept and "3.mp4" not in kept and not (out / "metrics.json").exists()
    server.react = honest
    assert main(call) == 0 and rows(out)["reward_mean"]["n"] == CLIPS


def test_unreadable_answers_refuse_the_metrics(
    server: RewardServer, videos: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    server.react = lambda asked: Reaction("What a video!") if which(asked) == 3 else honest(asked)
    call = words(videos, prompts, out, server.url, "--no-wrong-prompts")
    assert main(call) == 1
    assert "reward_mean: 1 of 5 answers could not be read" in capsys.readouterr().out
    assert not (out / "metrics.json").exists() and len(answers(out)) == CLIPS
    assert main([*call, "--unparsed-share", "0.2"]) == 0
    assert (rows(out)["reward_unparsed"]["value"], rows(out)["reward_mean"]["n"]) == (1.0, 4)
    assert "answers that could not be read: missing 1" in capsys.readouterr().out
    assert len(server.asked) == CLIPS


@pytest.mark.parametrize("count", [3, 8, 16, 64])
def test_a_long_clip_is_read_for_its_shown_frames_only(videos: Path, count: int) -> None:
    """Picked while decoding, and picked again by the scoring, they are those of the whole clip."""
    clip = open_clip(videos / "2.mp4")
    (whole,) = clip.pieces(100)
    assert torch.equal(shown_frames(shown(clip, count), count), shown_frames(whole[0], count))
    assert shown(clip, count).shape == (3, min(count, 20), 32, 48)


def test_the_defaults_are_those_of_the_publication() -> None:
    for version, question in QUESTIONS.items():
        values = yaml.safe_load((CONF / "reward" / f"unified_{version}.yaml").read_text())
        assert (values["version"], values["frames"]) == (version, question.frames)
        assert (values["jpeg_quality"], values["max_tokens"], values["wrong_prompts"]) == (95, 4096, True)


def refused(call: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(call) == 2
    return capsys.readouterr().err


def test_what_cannot_work_is_refused_before_anything_is_written(
    server: RewardServer, videos: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, short = tmp_path / "out", tmp_path / "short.txt"
    short.write_text("one\n")
    same = tmp_path / "same.txt"
    same.write_text("x\n" * CLIPS)
    empty, bad = tmp_path / "empty", tmp_path / "bad"
    empty.mkdir()
    bad.mkdir()
    for index in range(CLIPS):
        content = (videos / f"{index}.mp4").read_bytes()
        (bad / f"{index}.mp4").write_bytes(content[: len(content) // 2] if index == 3 else content)
    with RewardServer(honest) as gone:
        nobody = gone.url
    url = server.url
    cases = [
        (words(videos, prompts, out, nobody), "is the server up?"),
        (words(videos, prompts, out, "localhost:8080"), "must be http:// or https://"),
        ([*words(videos, prompts, out, url), "--model", "other"], f"reward.model = other: {url} offers {MODEL}"),
        (words(tmp_path / "none", prompts, out, url), "no such folder"),
        (words(empty, prompts, out, url), "holds no clip"),
        (words(bad, prompts, out, url), "3.mp4: truncated"),
        (words(videos, tmp_path / "none.txt", out, url), "none.txt: cannot be read"),
        (words(videos, short, out, url), "5 clips, 1 prompts"),
        (words(videos, same, out, url), "no wrong prompt is left"),
        (words(videos, prompts, out, url, "--frames", "0"), "reward.frames = 0"),
        (words(videos, prompts, out, url, "--template", str(prompts)), "must stand there once"),
        (words(videos, prompts, out, url, "--api-key-env", "NO_SUCH_KEY"), "NO_SUCH_KEY: this variable is not set"),
        (words(videos, prompts, out, url, "--pair", "name"), "no prompt of their name"),
        (words(videos, prompts, out, url, "--format", "csv"), "read as csv"),
    ]
    for call, message in cases:
        told = refused(call, capsys)
        assert told.startswith("reward: ") and message in told, (message, told)
        assert not out.exists(), message
    assert server.asked == []


def test_a_folder_of_something_else_is_left_alone(
    server: RewardServer, videos: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "done.json").write_text("{}")
    assert "holds other things (done.json)" in refused(words(videos, prompts, tmp_path, server.url), capsys)
    assert "is a file" in refused(words(videos, prompts, tmp_path / "done.json", server.url), capsys)
    assert server.listed == []


def test_a_wording_from_a_file(server: RewardServer, videos: Path, prompts: Path, tmp_path: Path) -> None:
    template = tmp_path / "question.txt"
    template.write_text("Published words. Text Prompt: [{prompt}]")
    out = tmp_path / "out"
    assert main(words(videos, prompts, out, server.url, "--no-wrong-prompts", "--template", str(template))) == 0
    assert {one.text for one in server.asked} == {f"Published words. Text Prompt: [{prompt}]" for prompt in PROMPTS}
    assert QUESTIONS["v1"].digest[:12] not in rows(out)["reward_mean"]["protocol"]
