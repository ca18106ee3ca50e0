"""Group ``reward``: the video reward model that is asked, and how."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING


class RewardVersion(Enum):
    """``v1``: five dimensions from 1 to 4 and a final score; ``v2``: alignment, physics, style from 1 to 5."""

    v1 = "v1"
    v2 = "v2"


@dataclass
class RewardConfig:
    name: str = MISSING
    endpoint: str = MISSING  # OpenAI-compatible server, such as http://localhost:8080
    model: str = MISSING  # name that the server gives it
    version: RewardVersion = MISSING
    template: str | None = MISSING  # text file with {prompt} once, in place of our wording; null: ours
    frames: int = MISSING  # shown of a clip of T: those at int(i·T/frames)
    jpeg_quality: int = MISSING
    max_tokens: int = MISSING  # of an answer
    wrong_prompts: bool = MISSING  # ask again with another clip's prompt, as a control
    unparsed_share: float = MISSING  # no metric when more than this share of answers cannot be read
    concurrency: int = MISSING  # requests in flight
    timeout_s: float = MISSING  # of one request
    retries: int = MISSING  # of a request that failed for a reason that may pass
    backoff_s: float = MISSING  # before the first retry; doubles each time
    longest_wait_s: float = MISSING  # between two tries, whatever the server asks for
    api_key_env: str | None = MISSING  # environment variable that holds the server's key; null: none
