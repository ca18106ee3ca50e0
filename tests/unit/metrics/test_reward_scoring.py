"""Scoring many clips over a real server: right frames, right prompts, any order, and nothing asked twice."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reward_server import MODEL, Asked, Reaction, RewardServer, make_settings, v1_answer, v2_answer
from ssvae.core.progress import Silent
from ssvae.metrics.reward import reward_values, wrong_prompts
from ssvae.metrics.reward_client import RewardServerError
from ssvae.metrics.reward_prompt import QUESTIONS
from ssvae.metrics.reward_scoring import score_videos
from ssvae.metrics.reward_store import read_answers

N, T, H, W = 7, 9, 16, 24
KEYS = [f"clip{i}" for i in range(N)]
PROMPTS = [f"a thing of grey {i}" for i in range(N)]


def clip(index: int) -> Tensor:
    """Flat frames (3,T,H,W) whose grey level tells clip and frame: 20 + 30·clip + 3·frame."""
    levels = 20 + 30 * index + 3 * torch.arange(T)
    return levels.view(1, T, 1, 1).expand(3, T, H, W).to(torch.uint8)


def clips() -> list[Tensor]:
    return [clip(index) for index in range(N)]


def which(asked: Asked) -> int:
    return round((float(asked.frames()[0].mean()) - 20) / 30)


def honest(asked: Asked) -> Reaction:
    """Scores that depend on the clip, and on whether the prompt is its own."""
    index = which(asked)
    fits = asked.prompt == PROMPTS[index]
    return Reaction(v1_answer(1 + index % 4, 2, 3, 4 if fits else 1, 2, final=1 + index))


@pytest.fixture
def server() -> Iterator[RewardServer]:
    with RewardServer(honest) as one:
        yield one


def test_every_clip_arrives_as_it_is(server: RewardServer, tmp_path: Path) -> None:
    settings = make_settings(server.url, version="v2", frames=4)
    server.react = lambda asked: Reaction(v2_answer(1 + which(asked) / 2, 2, 3))
    result = score_videos(clips(), KEYS, PROMPTS, settings, tmp_path / "s.jsonl", Silent())
    assert len(server.asked) == N == result.asked
    for asked in server.asked:
        index = which(asked)
        frames = asked.frames()
        assert frames.shape == (4, H, W, 3)
        expected = clip(index)[0, [0, 2, 4, 6], 0, 0].numpy()
        np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), expected, atol=1.0)
        assert asked.text == QUESTIONS["v2"].ask(PROMPTS[index])
        assert asked.body["model"] == MODEL and asked.body["temperature"] == 0
    # Order of the result is that of the clips, whatever the order of the answers.
    scores = [answer.scores["alignment"] for answer in result.answers if answer.scores is not None]
    assert scores == [1 + i / 2 for i in range(N)]


def test_pictures_are_colour_jpegs_of_the_stated_quality(server: RewardServer, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(3, 2, 2, 3, generator=generator)
    video = torch.nn.functional.interpolate(smooth, size=(32, 48), mode="bilinear") * 2 - 1
    tables = {}
    for quality in (95, 60):
        server.asked.clear()
        server.react = lambda _: Reaction(v1_answer(1, 2, 3, 4, 1))
        settings = make_settings(server.url, jpeg_quality=quality)
        score_videos([video], ["one"], ["p"], settings, tmp_path / f"{quality}.jsonl", Silent())
        (asked,) = server.asked
        with Image.open(io.BytesIO(asked.files[0])) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (48, 32))
            tables[quality] = list(picture.quantization[0])  # type: ignore[attr-defined] # of JPEG files only
        sent = asked.frames().astype(float)
        if quality == 95:
            # Of colour a JPEG keeps a quarter of the pixels; exchanged channels would be off by dozens.
            assert np.abs(sent - (video.permute(1, 2, 3, 0).numpy() + 1) * 127.5).mean() < 1.5
    # The first entry of the standard luminance table is 16; quality q scales it by (200 - 2q)/100, or 50/q below 50.
    assert (tables[95][0], tables[60][0]) == (2, 13)


def test_the_result_does_not_depend_on_how_many_are_in_flight(server: RewardServer, tmp_path: Path) -> None:
    slow_first = {0: 0.15, 1: 0.1}
    server.react = lambda asked: Reaction(honest(asked).text, delay=slow_first.get(which(asked), 0.01))
    found = []
    for concurrency in (1, 6):
        server.most_at_once = 0
        settings = make_settings(server.url, concurrency=concurrency, wrong_prompts=True)
        store = tmp_path / f"{concurrency}.jsonl"
        found.append(score_videos(clips(), KEYS, PROMPTS, settings, store, Silent()))
        assert server.most_at_once <= concurrency
        assert (server.most_at_once > 1) == (concurrency > 1)
    assert found[0] == found[1]
    orders = [[one.clip for one in read_answers(tmp_path / f"{n}.jsonl")] for n in (1, 6)]
    assert orders[0] != orders[1] and Counter(orders[0]) == Counter(orders[1])


def test_the_control_asks_with_other_prompts_and_shows_in_the_gap(server: RewardServer, tmp_path: Path) -> None:
    settings = make_settings(server.url, wrong_prompts=True, seed=3)
    result = score_videos(clips(), KEYS, PROMPTS, settings, tmp_path / "s.jsonl", Silent())
    wrong = wrong_prompts(PROMPTS, 3)
    asked = Counter((which(one), one.prompt) for one in server.asked)
    assert asked == Counter([*enumerate(PROMPTS), *enumerate(wrong)])
    assert result.controls == tuple(wrong)
    values = {value.name: value.value for value in reward_values(result)}
    # One of five dimensions falls from 4 to 1.
    assert values["reward_prompt_gap"] == pytest.approx(3 / 5, abs=1e-12)
    assert values["reward_mean"] - values["reward_mean_wrong_prompt"] == pytest.approx(3 / 5, abs=1e-12)


def test_answers_that_are_there_are_not_asked_for_again(server: RewardServer, tmp_path: Path) -> None:
    store = tmp_path / "s.jsonl"
    settings = make_settings(server.url)
    first = score_videos(clips()[:4], KEYS[:4], PROMPTS[:4], settings, store, Silent())
    assert (first.asked, first.reused) == (4, 0)
    second = score_videos(clips(), KEYS, PROMPTS, settings, store, Silent())
    assert (second.asked, second.reused) == (3, 4)
    third = score_videos(clips(), KEYS, PROMPTS, settings, store, Silent())
    assert (third.asked, third.reused, third.answers) == (0, N, second.answers)
    assert sorted(which(one) for one in server.asked) == list(range(N))
    # With the control only the control is new; another setting is another question about every clip.
    with_control = make_settings(server.url, wrong_prompts=True)
    assert score_videos(clips(), KEYS, PROMPTS, with_control, store, Silent()).asked == N
    assert score_videos(clips(), KEYS, PROMPTS, make_settings(server.url, frames=3), store, Silent()).asked == N
    server.models = [{"id": MODEL, "root": "other/weights"}]
    assert score_videos(clips(), KEYS, PROMPTS, settings, store, Silent()).asked == N


def test_equal_clips_with_equal_prompts_share_one_answer(server: RewardServer, tmp_path: Path) -> None:
    videos = [clip(0), clip(0), clip(0)]
    result = score_videos(videos, ["a", "b", "c"], ["p", "p", "q"], make_settings(server.url), tmp_path / "s", Silent())
    assert len(server.asked) == 2 and (result.asked, result.reused) == (2, 0)
    assert result.answers[0] == result.answers[1]


def test_unreadable_answers_are_kept_counted_and_not_repeated(server: RewardServer, tmp_path: Path) -> None:
    ramble = "It is a nice video. visual quality: 3\nvisual quality: 2\nvisual quality: 4"
    replies = {
        0: Reaction(ramble),
        1: Reaction("I would rather not say."),
        2: Reaction(v1_answer(1, 2, 3, 4, 1)[:-2], finish="length"),
        3: Reaction("Let me look closer. In frame 2 it moves.\n\n" + v1_answer(4, 3, 2, 1, 1)),
    }
    server.react = lambda asked: replies.get(which(asked), honest(asked))
    store = tmp_path / "s.jsonl"
    settings = make_settings(server.url, unparsed_share=0.5)
    for _ in range(2):
        result = score_videos(clips(), KEYS, PROMPTS, settings, store, Silent())
        assert result.failures() == {"contradictory": 1, "missing": 1, "truncated": 1}
        values = {value.name: value for value in reward_values(result)}
        assert (values["reward_unparsed"].value, values["reward_mean"].n) == (3.0, N - 3)
    assert len(server.asked) == N
    kept = {one.clip: one for one in read_answers(store)}
    assert (kept["clip0"].text, kept["clip0"].failure, kept["clip0"].scores) == (ramble, "contradictory", None)
    assert kept["clip3"].scores is not None and kept["clip3"].scores["visual_quality"] == 4
    strict = make_settings(server.url, unparsed_share=0.1)
    with pytest.raises(ValueError, match=r"reward_mean: 3 of 7 .*reward\.unparsed_share = 0\.1"):
        reward_values(score_videos(clips(), KEYS, PROMPTS, strict, store, Silent()))


def test_a_server_that_fails_keeps_what_it_gave(server: RewardServer, tmp_path: Path) -> None:
    store = tmp_path / "s.jsonl"
    broken = threading.Event()
    broken.set()
    server.react = lambda asked: (
        Reaction(status=400, raw=b"no") if broken.is_set() and which(asked) == 4 else honest(asked)
    )
    settings = make_settings(server.url, concurrency=2)
    with pytest.raises(RewardServerError, match="HTTP 400 Bad Request: no"):
        score_videos(clips(), KEYS, PROMPTS, settings, store, Silent())
    kept = {one.clip for one in read_answers(store)}
    assert kept == {KEYS[which(one)] for one in server.answered if which(one) != 4} and len(kept) >= 3
    assert len(kept) < N
    broken.clear()
    result = score_videos(clips(), KEYS, PROMPTS, settings, store, Silent())
    assert result.reused == len(kept)
    assert Counter(which(one) for one in server.asked) == {i: 2 if i == 4 else 1 for i in range(N)}


def test_one_bad_hour_of_the_server_passes(server: RewardServer, tmp_path: Path) -> None:
    seen: Counter[int] = Counter()

    def moody(asked: Asked) -> Reaction:
        index = which(asked)
        seen[index] += 1
        moods = [Reaction(status=503), Reaction(drop=True), Reaction(status=429, headers={"Retry-After": "0"})]
        return honest(asked) if seen[index] > 2 else moods[(index + seen[index]) % 3]

    server.react = moody
    result = score_videos(clips(), KEYS, PROMPTS, make_settings(server.url), tmp_path / "s", Silent())
    assert result.asked == N and result.failures() == {}
    assert set(seen.values()) == {3}


def test_videos_are_read_as_they_are_needed(server: RewardServer, tmp_path: Path) -> None:
    """Held are those in flight, as many again, the one just read, and those whose end was not noticed yet."""
    many, concurrency = 20, 2
    held: list[int] = []

    def videos() -> Iterator[Tensor]:
        for index in range(many):
            held.append(index + 1 - len(server.answered))
            yield clip(index % N)

    server.react = lambda _: Reaction(v1_answer(1, 2, 3, 4, 1), delay=0.02)
    names = [str(index) for index in range(many)]
    settings = make_settings(server.url, concurrency=concurrency)
    result = score_videos(videos(), names, names, settings, tmp_path / "s", Silent())
    assert result.asked == many and max(held) <= 3 * concurrency + 1


def test_progress_tells_of_finished_clips(server: RewardServer, tmp_path: Path) -> None:
    class Log(Silent):
        def __init__(self) -> None:
            self.totals: list[int] = []
            self.done: list[int] = []

        def start(self, what: str, total: int, done: int = 0) -> None:
            self.totals.append(total)

        def advance(self, done: int, note: str = "") -> None:
            self.done.append(done)

    log = Log()
    score_videos(clips(), KEYS, PROMPTS, make_settings(server.url), tmp_path / "s", log)
    assert log.totals == [N] and log.done == sorted(log.done) and log.done[-1] == N


@pytest.mark.parametrize(
    ("keys", "prompts", "message"),
    [
        (["a", "a"], ["p", "q"], "clips share a name: a"),
        (["a", "b"], ["p"], "1 prompts for 2 clips"),
        ([], [], "0 prompts for 0 clips"),
        (["a", "b"], ["p", " "], "clip b has an empty prompt"),
        (["a", "b"], ["p", "P"], "no wrong prompt is left"),
    ],
)
def test_bad_lists_are_refused_before_the_server_is_asked(
    server: RewardServer, tmp_path: Path, keys: list[str], prompts: list[str], message: str
) -> None:
    settings = make_settings(server.url, wrong_prompts=True)
    with pytest.raises(ValueError, match=message):
        score_videos(clips(), keys, prompts, settings, tmp_path / "s", Silent())
    assert server.listed == [] and not (tmp_path / "s").exists()


def test_a_clip_that_is_none_is_named(server: RewardServer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clip b: a clip to be scored must be \(3,T,H,W\)"):
        score_videos([clip(0), clip(1)[0]], ["a", "b"], ["p", "q"], make_settings(server.url), tmp_path / "s", Silent())
    assert [one.clip for one in read_answers(tmp_path / "s")] == ["a"]


def test_nothing_is_written_without_a_server(tmp_path: Path) -> None:
    with RewardServer(honest) as gone:
        url = gone.url
    with pytest.raises(ValueError, match="is the server up"):
        score_videos(clips(), KEYS, PROMPTS, make_settings(url), tmp_path / "new" / "s", Silent())
    assert not (tmp_path / "new").exists()
