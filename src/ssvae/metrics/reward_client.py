"""HTTP to an OpenAI-compatible server (vLLM, SGLang): is it there, and one question about one clip.

A request is one user message: the frames as JPEG data URLs in order of time, then the text, so that a server that
caches prefixes sees the pictures of a clip once for all questions about it. Temperature 0.

What may pass is tried again (429, 408, 5xx, time limits, lost connections), with waits that double and no random part;
``Retry-After`` is honoured up to the longest wait. Every other refusal is an error at once.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from typing import Any

import requests
from urllib3.exceptions import ReadTimeoutError

from ssvae.metrics.reward_settings import RewardSettings

LARGEST_ANSWER = 4 << 20
"""Bytes; an answer of max_tokens is far smaller."""
MAY_PASS = (408, 425, 429)


class RewardServerError(RuntimeError):
    """The server refused a request, or could not be reached although it was tried again."""


class _Passing(Exception):
    """A failure that may pass. after: seconds that the server asks to wait, or None."""

    def __init__(self, reason: str, after: float | None = None, *, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.after, self.unreachable = after, unreachable


@dataclass(frozen=True, slots=True)
class Reply:
    """text: what the model said. cut: it was stopped at max_tokens."""

    text: str
    cut: bool


class _Bearer(requests.auth.AuthBase):
    """The key in its header; without an auth object requests would look for one in ~/.netrc and send that instead."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class RewardClient:
    """Asks the server of ``settings``; safe to use from several threads.

    pause: waits so many seconds between two tries; None: that long, or until :meth:`stop`. Raises ValueError when the
    variable that should hold the key is not set.
    """

    def __init__(self, settings: RewardSettings, pause: Callable[[float], object] | None = None) -> None:
        self._settings, self._base = settings, settings.base_url()
        self._key = settings.api_key()
        self._local = threading.local()
        self._stopped = threading.Event()
        self._pause = self._stopped.wait if pause is None else pause

    def check(self) -> str:
        """Is the server there, and has it the model? Returns what the model is called in records and protocols.

        That is its name, with what the server says it was loaded from, since a name says little about weights.
        Raises ValueError for a server that cannot be reached, refuses, or offers other models (which are named).
        """
        where = f"reward.endpoint = {self._base}"
        try:
            answer = self._send("GET", "/v1/models", None, checking=True)
        except RewardServerError as error:
            raise ValueError(f"{error}; is the server up? Start it with: vllm serve MODEL --port PORT") from error
        models = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(models, list) or not all(isinstance(one, dict) and "id" in one for one in models):
            raise ValueError(f"{where}: /v1/models lists no models; give an OpenAI-compatible server")
        found = {str(one["id"]): one for one in models}
        name = self._settings.model
        if name not in found:
            offered = ", ".join(sorted(found)) or "no model"
            raise ValueError(f"reward.model = {name}: {self._base} offers {offered}; give a name that it offers")
        root = str(found[name].get("root") or name)
        if PurePosixPath(root).is_absolute():
            root = PurePosixPath(root).name  # where a machine keeps its models is no property of the model
        # ';' separates the parts of a protocol.
        return (name if root == name else f"{name}({root})").replace(";", ",")

    def ask(self, pictures: Sequence[bytes], text: str) -> Reply:
        """The model's answer to JPEG ``pictures`` followed by ``text``.

        Raises :class:`RewardServerError` when the server refuses, stays away, or answers something else than a chat
        completion.
        """
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(one).decode()}}
            for one in pictures
        ]
        content.append({"type": "text", "text": text})
        body = {
            "model": self._settings.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": self._settings.max_tokens,
        }
        answer = self._send("POST", "/v1/chat/completions", body, checking=False)
        try:
            choice = answer["choices"][0]
            said, finish = choice["message"]["content"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise RewardServerError(f"{self._base}: the answer is no chat completion ({error!r})") from error
        if said is not None and not isinstance(said, str):
            raise RewardServerError(f"{self._base}: the answer's content is {type(said).__name__}, not text")
        return Reply(said or "", finish == "length")

    def stop(self) -> None:
        """End all waits between tries, from any thread: what is in flight fails at its next failure."""
        self._stopped.set()

    def _send(self, method: str, path: str, body: dict[str, Any] | None, *, checking: bool) -> Any:
        """The answer's JSON, after as many tries as it takes and the settings allow.

        checking: a server that refuses the connection is not waited for.
        """
        settings, tries = self._settings, 0
        while True:
            tries += 1
            try:
                return self._once(method, path, body)
            except _Passing as failure:
                if tries > settings.retries or self._stopped.is_set() or (checking and failure.unreachable):
                    count = f" ({tries} tries)" if tries > 1 else ""
                    raise RewardServerError(f"{self._base}{path}: {failure}{count}") from failure
                wait = settings.backoff_s * 2.0 ** (tries - 1)
                if failure.after is not None:
                    wait = max(wait, failure.after)
                self._pause(min(wait, settings.longest_wait_s))

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        limit = self._settings.timeout_s
        deadline = time.monotonic() + limit
        url = self._base + path
        try:
            # A redirect would turn a POST into a GET, and could carry the key to another host.
            with self._session().request(
                method, url, json=body, timeout=limit, stream=True, allow_redirects=False, auth=_Bearer(self._key)
            ) as answer:
                content = _read(answer, deadline, limit)
        except requests.exceptions.SSLError as error:
            raise RewardServerError(f"{url}: no secure connection ({self._safe(str(error))})") from error
        except requests.Timeout as error:
            raise _Passing(f"no answer within {limit:g} s") from error
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            if error.args and isinstance(error.args[0], ReadTimeoutError):  # so requests calls one within a body
                raise _Passing(f"no answer within {limit:g} s") from error
            reason = f"no connection, or it was lost ({self._safe(str(error))})"
            raise _Passing(reason, unreachable=isinstance(error, requests.ConnectionError)) from error
        except requests.RequestException as error:
            raise RewardServerError(f"{url}: {self._safe(str(error))}") from error
        if answer.status_code in MAY_PASS or answer.status_code >= 500:
            raise _Passing(self._refusal(answer, content), _retry_after(answer.headers.get("Retry-After")))
        if answer.status_code != 200:
            raise RewardServerError(f"{url}: {self._refusal(answer, content)}")
        try:
            return json.loads(content)
        except ValueError as error:
            raise RewardServerError(f"{url}: answered no JSON ({self._first_line(content)})") from error

    def _session(self) -> requests.Session:
        """One a thread: a session is not made to be shared."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            # A proxy of the environment cannot reach a server on this machine.
            session.trust_env = not self._settings.is_local()
            self._local.session = session
        return session

    def _refusal(self, answer: requests.Response, content: bytes) -> str:
        said = self._first_line(content)
        return f"HTTP {answer.status_code} {answer.reason or ''}".rstrip() + (f": {said}" if said else "")

    def _first_line(self, content: bytes) -> str:
        lines = content.decode("utf-8", errors="replace").strip().splitlines()
        return self._safe(lines[0]) if lines else ""

    def _safe(self, text: str) -> str:
        """At most 300 characters, without the key, which servers like to repeat."""
        return (text if self._key is None else text.replace(self._key, "***"))[:300]


def _read(answer: requests.Response, deadline: float, limit: float) -> bytes:
    """The whole body, within the time limit: that of requests starts again with every byte that arrives."""
    content = bytearray()
    for piece in answer.iter_content(1):
        content += piece
        if time.monotonic() > deadline:
            raise requests.Timeout(f"the answer was not complete within {limit:g} s")
        if len(content) > LARGEST_ANSWER:
            raise requests.RequestException(f"the answer is larger than {LARGEST_ANSWER} bytes")
    return bytes(content)


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, given in seconds or as a date; None for none, or one that cannot be read."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
