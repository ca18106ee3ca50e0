"""Ask the reward model about many clips: several requests in flight, every answer kept as it comes.

A clip's frames become JPEG once and are asked about with the right and the wrong prompt one after the other. Answers
are looked up by what was asked, so the result does not depend on their order, on the number of requests in flight, or
on how often the work was interrupted.

Dimension legend
    N clips, T frames, n frames shown, H W pixels    video (3,T,H,W) uint8, or float in [-1, 1]; frames (n,H,W,3) uint8
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from ssvae.core.progress import Progress
from ssvae.metrics.reward import RewardResult, reward_protocol, shown_frames, wrong_prompts
from ssvae.metrics.reward_client import RewardClient
from ssvae.metrics.reward_parse import Parsed, parse_answer
from ssvae.metrics.reward_prompt import Question
from ssvae.metrics.reward_settings import RewardSettings
from ssvae.metrics.reward_store import AnswerStore, StoredAnswer, answer_key, frames_digest, open_store


@dataclass(frozen=True, slots=True)
class _Ask:
    """One question about one clip."""

    key: str
    clip: str
    prompt: str
    control: bool


def score_videos(
    videos: Iterable[Tensor],
    keys: Sequence[str],
    prompts: Sequence[str],
    settings: RewardSettings,
    store: Path,
    progress: Progress,
) -> RewardResult:
    """What the reward model says about N clips, given one at a time in the order of ``keys`` and ``prompts``.

    videos: each (3,T,H,W), uint8 or float in [-1, 1]; read lazily, a few more than are in flight are held. store: file
    of answers, made or continued. Raises ValueError, before the first clip is read, for empty or repeated keys, no
    prompts to exchange, a server or model that is not there, or a store that another run holds; later for a clip that
    is no video. Raises RewardServerError when the server fails for good; all answers so far are kept, and the same call
    goes on.
    """
    _check(keys, prompts)
    controls = wrong_prompts(prompts, settings.seed) if settings.wrong_prompts else None
    client = RewardClient(settings)
    model = client.check()
    with open_store(store) as answers:
        before = len(answers)
        scorer = _Scorer(settings, client, model, answers)
        progress.start("video reward", len(keys))
        asked = _ask_all(scorer, videos, keys, prompts, controls, settings.concurrency, progress)
        read = [[scorer.read(ask) for ask in asks] for asks in asked]
        new = len(answers) - before
    return RewardResult(
        question=scorer.question,
        protocol=scorer.protocol,
        seed=settings.seed,
        unparsed_share=settings.unparsed_share,
        keys=tuple(keys),
        prompts=tuple(prompts),
        controls=None if controls is None else tuple(controls),
        answers=tuple(row[0] for row in read),
        control_answers=None if controls is None else tuple(row[1] for row in read),
        asked=new,
        reused=len({ask.key for asks in asked for ask in asks}) - new,
        torn=answers.torn,
    )


def encode_frames(frames: Tensor, quality: int) -> list[bytes]:
    """JPEG files of frames (n,H,W,3) uint8, RGB, by Pillow."""
    files = []
    for frame in frames.numpy():
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, format="JPEG", quality=quality)
        files.append(buffer.getvalue())
    return files


def _check(keys: Sequence[str], prompts: Sequence[str]) -> None:
    if len(keys) != len(prompts) or not keys:
        raise ValueError(f"{len(prompts)} prompts for {len(keys)} clips: give one prompt a clip, and at least one clip")
    if repeated := [key for key, count in Counter(keys).items() if count > 1]:
        raise ValueError(f"clips share a name: {', '.join(repeated[:3])}; every clip needs a name of its own")
    if empty := [key for key, prompt in zip(keys, prompts, strict=True) if not prompt.strip()]:
        raise ValueError(f"clip {empty[0]} has an empty prompt ({len(empty)} in all): the reward needs a text")


def _ask_all(
    scorer: _Scorer,
    videos: Iterable[Tensor],
    keys: Sequence[str],
    prompts: Sequence[str],
    controls: Sequence[str] | None,
    concurrency: int,
    progress: Progress,
) -> list[list[_Ask]]:
    """Ask what is not in the store yet; returns what each clip's row is looked up by."""
    asked: list[list[_Ask]] = []
    claimed: set[str] = set()
    pending: set[Future[None]] = set()
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="reward")
    try:
        for index, (video, key, prompt) in enumerate(zip(videos, keys, prompts, strict=True)):
            try:
                frames = shown_frames(video, scorer.frames)
            except ValueError as error:
                raise ValueError(f"clip {key}: {error}") from error
            texts = [(prompt, False)] if controls is None else [(prompt, False), (controls[index], True)]
            asks = scorer.asks(frames, key, texts)
            asked.append(asks)
            # Two clips may be equal, pixels and prompt: they share one answer.
            new = [ask for ask in asks if scorer.needs(ask) and ask.key not in claimed]
            claimed.update(ask.key for ask in new)
            if new:
                pending.add(pool.submit(scorer.answer, frames, new))
            pending = _collect(pending, 2 * concurrency)
            progress.advance(len(asked) - len(pending))
        while pending:
            pending = _collect(pending, len(pending) - 1)
            progress.advance(len(asked) - len(pending))
    finally:
        # After an error nothing new begins, and what is in flight is still kept.
        scorer.stop()
        pool.shutdown(wait=True, cancel_futures=True)
    return asked


def _collect(pending: set[Future[None]], most: int) -> set[Future[None]]:
    """Wait until at most ``most`` jobs are unfinished; the first error of a finished one is raised here."""
    while True:
        limit = 0.0 if len(pending) <= most else None
        done, pending = wait(pending, timeout=limit, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
        if len(pending) <= most:
            return pending


class _Scorer:
    """Settings, server and store of one call."""

    def __init__(self, settings: RewardSettings, client: RewardClient, model: str, answers: AnswerStore) -> None:
        self._settings, self._client, self._model, self._answers = settings, client, model, answers
        self.question: Question = settings.question()
        self.frames = settings.frames

    @property
    def protocol(self) -> str:
        return reward_protocol(
            self.question,
            model=self._model,
            frames=self._settings.frames,
            jpeg_quality=self._settings.jpeg_quality,
            max_tokens=self._settings.max_tokens,
        )

    def asks(self, frames: Tensor, clip: str, texts: Sequence[tuple[str, bool]]) -> list[_Ask]:
        """What to ask about a clip: each (prompt, is it the control)."""
        settings, content = self._settings, frames_digest(frames)
        found = []
        for prompt, control in texts:
            key = answer_key(
                content,
                prompt,
                model=self._model,
                version=settings.version,
                template=self.question.digest,
                frames=settings.frames,
                jpeg_quality=settings.jpeg_quality,
                max_tokens=settings.max_tokens,
            )
            found.append(_Ask(key, clip, prompt, control))
        return found

    def needs(self, ask: _Ask) -> bool:
        return ask.key not in self._answers

    def answer(self, frames: Tensor, asks: Sequence[_Ask]) -> None:
        """Ask and keep the answers; runs in a thread of the pool."""
        pictures = encode_frames(frames, self._settings.jpeg_quality)
        for ask in asks:
            reply = self._client.ask(pictures, self.question.ask(ask.prompt))
            parsed = parse_answer(reply.text, self.question, cut=reply.cut)
            self._answers.append(
                StoredAnswer.of(ask.key, ask.clip, ask.control, ask.prompt, reply.text, reply.cut, parsed)
            )

    def read(self, ask: _Ask) -> Parsed:
        """Scores of a kept answer, read from its text."""
        kept = self._answers[ask.key]
        return parse_answer(kept.text, self.question, cut=kept.cut)

    def stop(self) -> None:
        self._client.stop()
