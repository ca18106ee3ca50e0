"""How a reward model is asked: everything that a user chooses, checked before anything is sent."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ssvae.metrics.reward_prompt import Question, RewardVersion, reward_question

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PATHS = ("/v1/chat/completions", "/chat/completions", "/v1")
"""What users paste behind the server's address, longest first."""


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """endpoint: http(s) address of an OpenAI-compatible server, with or without ``/v1``. model: its name there.

    template: file with another wording, None for ours. frames: shown a clip. jpeg_quality: 1 to 100. max_tokens: of an
    answer. wrong_prompts: ask each clip again with another clip's prompt; ``seed`` draws which. unparsed_share: the
    metric is refused when more than this share of answers cannot be read. concurrency: requests in flight. timeout_s:
    of one request. retries: further tries after a failure that may pass. backoff_s: wait before the first of them, then
    doubled; longest_wait_s: limit of every wait. api_key_env: environment variable with the server's key, or None.

    Raises ValueError (key, value, remedy) for values that cannot work.
    """

    endpoint: str
    model: str
    version: RewardVersion
    template: Path | None
    frames: int
    jpeg_quality: int
    max_tokens: int
    wrong_prompts: bool
    seed: int
    unparsed_share: float
    concurrency: int
    timeout_s: float
    retries: int
    backoff_s: float
    longest_wait_s: float
    api_key_env: str | None

    def __post_init__(self) -> None:
        self.base_url()
        if not self.model.strip():
            raise ValueError(
                f"reward.model = {self.model!r}: give the name under which the server offers the reward model"
            )
        ranges: dict[str, tuple[float, float]] = {
            "frames": (1, 512),
            "jpeg_quality": (1, 100),
            "max_tokens": (1, math.inf),
            "seed": (0, math.inf),
            "unparsed_share": (0, 1),
            "concurrency": (1, 256),
            "retries": (0, 100),
            "backoff_s": (0, math.inf),
            "longest_wait_s": (0, math.inf),
        }
        for name, (low, high) in ranges.items():
            # Written so that NaN fails too.
            if not low <= getattr(self, name) <= high:
                bound = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
                raise ValueError(f"reward.{name} = {getattr(self, name)}: must be {bound}")
        if not 0 < self.timeout_s < math.inf:
            raise ValueError(f"reward.timeout_s = {self.timeout_s}: must be a finite number above 0")
        self.question()

    def base_url(self) -> str:
        """The address up to and without ``/v1``. Raises ValueError for what is no http(s) address of a server."""
        url = self.endpoint.strip().rstrip("/")
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(
                f"reward.endpoint = {self.endpoint!r}: {error}; give an address such as http://localhost:8080"
            ) from error
        if parts.username is not None or parts.password is not None:
            # Not repeated: it holds a secret.
            raise ValueError("reward.endpoint: holds a user or password; name the key's variable in api_key_env")
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise ValueError(
                f"reward.endpoint = {self.endpoint!r}: must be http:// or https:// and a server, such as "
                "http://localhost:8080"
            )
        return next((url.removesuffix(path) for path in PATHS if url.endswith(path)), url)

    def is_local(self) -> bool:
        """Is the server on this machine?"""
        host = urlsplit(self.base_url()).hostname or ""
        return host in LOOPBACK or host.startswith("127.")

    def question(self) -> Question:
        """What is asked. Raises ValueError for a template that cannot be read or has no place for the prompt."""
        if self.template is None:
            return reward_question(self.version)
        try:
            text = self.template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"reward.template = {self.template}: cannot be read ({error}); give a text file with {{prompt}} in it"
            ) from error
        return reward_question(self.version, text)

    def api_key(self) -> str | None:
        """The server's key from the environment. Raises ValueError when the named variable is not set."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "")
        if not key:
            raise ValueError(
                f"reward.api_key_env = {self.api_key_env}: this variable is not set; export it, or give null if the "
                "server needs no key"
            )
        return key
