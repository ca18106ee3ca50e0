"""A server on loopback that speaks the chat-completions protocol and keeps everything that it was asked."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssvae.metrics.reward_settings import RewardSettings

MODEL = "UnifiedReward"


@dataclass(frozen=True)
class Asked:
    """One request that arrived: its number (from 0), body, decoded frames (n,H,W,3), text and prompt."""

    number: int
    body: dict[str, Any]
    headers: dict[str, str]
    files: list[bytes]
    text: str
    prompt: str

    def frames(self) -> NDArray[np.uint8]:
        return np.stack([np.array(Image.open(io.BytesIO(file))) for file in self.files])


@dataclass(frozen=True)
class Reaction:
    """What the server does: waits, then answers; ``raw`` replaces the whole body; ``drop`` closes without a word."""

    text: str = ""
    finish: str = "stop"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    raw: bytes | None = None
    drop: bool = False
    trickle: float = 0.0  # seconds between two bytes of the body


def v1_answer(*scores: float, final: float = 5) -> str:
    labels = (
        "visual quality",
        "temporal consistency",
        "dynamic degree",
        "text-to-video alignment",
        "factual consistency",
    )
    lines = [f"{label}: {score}" for label, score in zip(labels, scores, strict=True)]
    return "\n".join([*lines, f"Final Score: {final}"])


def v2_answer(alignment: float, physics: float, style: float) -> str:
    return f"Alignment Score (1-5): {alignment}\nPhysics Score (1-5): {physics}\nStyle Score (1-5): {style}"


class RewardServer:
    """A context; ``react`` decides what each question gets, ``models`` what /v1/models lists."""

    def __init__(self, react: Callable[[Asked], Reaction]) -> None:
        self.react = react
        self.models: list[dict[str, Any]] = [{"id": MODEL, "object": "model"}]
        self.models_reaction = Reaction()
        self.asked: list[Asked] = []
        self.answered: list[Asked] = []
        self.listed: list[dict[str, str]] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.listed.append(dict(self.headers))
                body = json.dumps({"object": "list", "data": outer.models}).encode()
                given = outer.models_reaction
                self._send(replace(given, raw=body if given.raw is None else given.raw))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.path == "/v1/chat/completions", self.path
                with outer._lock:
                    asked = read_request(len(outer.asked), body, dict(self.headers))
                    outer.asked.append(asked)
                    outer._now += 1
                    outer.most_at_once = max(outer.most_at_once, outer._now)
                reaction = outer.react(asked)
                time.sleep(reaction.delay)
                with outer._lock:
                    outer._now -= 1
                message = {"role": "assistant", "content": reaction.text}
                choices = [{"index": 0, "message": message, "finish_reason": reaction.finish}]
                raw = json.dumps({"object": "chat.completion", "choices": choices}).encode()
                if not reaction.drop:
                    self._send(replace(reaction, raw=raw if reaction.raw is None else reaction.raw))
                    outer.answered.append(asked)

            def _send(self, reaction: Reaction) -> None:
                assert reaction.raw is not None
                try:
                    self.send_response(reaction.status)
                    for name, value in reaction.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(reaction.raw)))
                    self.end_headers()
                    if not reaction.trickle:
                        self.wfile.write(reaction.raw)
                        return
                    for byte in reaction.raw:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        time.sleep(reaction.trickle)
                except (BrokenPipeError, ConnectionResetError):
                    return  # the client's time limit was shorter

            def log_message(self, format: str, *args: Any) -> None:
                return None

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> RewardServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()


def read_request(number: int, body: dict[str, Any], headers: dict[str, str]) -> Asked:
    """Takes a request apart; whatever is not of the agreed form fails here."""
    (message,) = body["messages"]
    assert message["role"] == "user"
    *pictures, last = message["content"]
    assert last["type"] == "text" and all(one["type"] == "image_url" for one in pictures)
    head = "data:image/jpeg;base64,"
    urls = [one["image_url"]["url"] for one in pictures]
    assert all(url.startswith(head) for url in urls)
    files = [base64.b64decode(url.removeprefix(head), validate=True) for url in urls]
    text = last["text"]
    prompt = text[text.rindex(": [") + 3 :].removesuffix("]")
    return Asked(number, body, headers, files, text, prompt)


def make_settings(url: str, **changes: Any) -> RewardSettings:
    """Small waits, no control; ``changes`` by name."""
    values: dict[str, Any] = {
        "endpoint": url,
        "model": MODEL,
        "version": "v1",
        "template": None,
        "frames": 4,
        "jpeg_quality": 95,
        "max_tokens": 256,
        "wrong_prompts": False,
        "seed": 0,
        "unparsed_share": 0.05,
        "concurrency": 4,
        "timeout_s": 5.0,
        "retries": 3,
        "backoff_s": 0.001,
        "longest_wait_s": 0.2,
        "api_key_env": None,
    }
    return RewardSettings(**{**values, **changes})
