"""Named streams of random numbers.

Every draw of the bench comes from a generator seeded by (seed, stream name, indices). Nothing depends on how
many draws came before, so a resumed run continues exactly, with any number of loader workers.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, stream: str, *index: int) -> int:
    """63-bit seed of the stream ``stream`` at ``index``; equal inputs give equal seeds on every machine."""
    text = ":".join([str(int(seed)), stream, *(str(int(i)) for i in index)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, stream: str, *index: int) -> torch.Generator:
    """A CPU torch generator at the start of the named stream."""
    return torch.Generator().manual_seed(derive(seed, stream, *index))


def numpy_generator(seed: int, stream: str, *index: int) -> np.random.Generator:
    """A numpy generator at the start of the named stream."""
    return np.random.default_rng(derive(seed, stream, *index))


def seed_everything(seed: int, stream: str) -> None:
    """Seed torch's global generator (weight initialisation) from a named stream."""
    torch.manual_seed(derive(seed, stream))
