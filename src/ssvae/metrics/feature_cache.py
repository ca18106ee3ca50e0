"""Statistics of a reference set on disk: real clips pass through a large network once, not once a model.

A file's name is a hash of everything that its numbers depend on, and the file repeats that key in full. A file is whole
or absent; processes that make the same one at the same time write the same content, and the last one stays.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from ssvae.core.files import write_atomic
from ssvae.core.identity import canonical, fingerprint
from ssvae.metrics.feature_set import FeatureStatistics

log = logging.getLogger(__name__)

CACHE_PROTOCOL = "feature_statistics/1"
"""Goes up whenever the same key would stand for other numbers."""

KEY_LENGTH = 32


@dataclass(frozen=True, slots=True)
class StatisticsKey:
    """What decides the statistics of a reference set.

    weights: hash of the network's weights. preprocessing: how clips reach it (frames, resize, range), with the metric's
    own version. data: hash of the clips, see :func:`data_hash`. window: (frames, height, width) of each clip, fps: its
    frame rate, None where it has none. count: how many features there are (n).
    """

    weights: str
    preprocessing: str
    data: str
    window: tuple[int, int, int]
    fps: float | None
    count: int

    def to_json(self) -> dict[str, Any]:
        """The key with the version of the file's layout, JSON-ready."""
        return {"protocol": CACHE_PROTOCOL, **asdict(self), "window": list(self.window)}

    @property
    def file_name(self) -> str:
        """``<hash>.safetensors``."""
        return f"{fingerprint(self.to_json(), KEY_LENGTH)}.safetensors"


def data_hash(source: str, clips: Sequence[str]) -> str:
    """Hash of a list of clips: the fingerprint of their content, ``source``, and their keys in order."""
    return fingerprint({"source": source, "clips": list(clips)}, KEY_LENGTH)


def cached_statistics(folder: Path, key: StatisticsKey, compute: Callable[[], FeatureStatistics]) -> FeatureStatistics:
    """The statistics of ``key`` from ``folder``, or from ``compute``, which are then kept there.

    A file that is damaged or was made for another key is named in a warning, computed again and replaced. Raises
    ValueError when ``compute`` gives another count than the key says.
    """
    path = folder / key.file_name
    try:
        return _read(path, key)
    except FileNotFoundError:
        log.debug("feature statistics: no %s yet", path)
    except _Unusable as reason:
        log.warning("feature statistics: %s %s; computed again and replaced", path, reason)
    found = compute()
    if found.count != key.count:
        raise ValueError(f"the reference set gave {found.count} features, {key.count} were asked for: take fewer clips")
    state = {name: value.contiguous() for name, value in found.state_dict().items()}
    metadata = {"key": canonical(key.to_json()), "sha256": _content_hash(state)}
    write_atomic(path, lambda temporary: save_file(state, temporary, metadata=metadata))
    return found


class _Unusable(Exception):
    """Why a file cannot be taken."""


def _read(path: Path, key: StatisticsKey) -> FeatureStatistics:
    # At once: safetensors' own reader opens a path twice, and another process may replace the file in between.
    content = path.read_bytes()
    try:
        state = load(content)
    except SafetensorError as error:
        raise _Unusable(f"is damaged ({str(error).splitlines()[0]})") from error
    metadata = _metadata(content)
    if metadata.get("sha256") != _content_hash(state):
        raise _Unusable("is damaged (its content is not what was written)")
    if metadata.get("key") != canonical(key.to_json()):
        raise _Unusable("was made for another key")
    statistics = FeatureStatistics(len(state["mean"]))
    statistics.load_state_dict(state)
    return statistics


def _metadata(content: bytes) -> dict[str, str]:
    """Of a safetensors file that could be read: eight bytes give the length of its JSON header."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header.get("__metadata__", {})


def _content_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes; safetensors itself checks only sizes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}{tuple(state[name].shape)}{state[name].dtype}".encode())
        digest.update(state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
