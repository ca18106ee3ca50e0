"""VideoShards: iterate over the clips of a data set, one window a clip, without any of the bench around it.

Dimension legend
    3 colours, T frames, H W pixels    video (3,T,H,W) float32 in [-1, 1]
"""

from __future__ import annotations

import logging
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.tariterators import group_by_keys, tar_file_iterator

from ssvae.core.seeds import derive, numpy_generator
from ssvae.data.clips import read_clip
from ssvae.data.pixels import ClipError, both_sides
from ssvae.data.rejects import RejectLog
from ssvae.data.shards import VIDEO_EXTENSIONS, ShardIndex, expand, index_shards, is_url, read_meta_lines

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60.0


class VideoShards(IterableDataset[dict[str, Any]]):
    """One pass over the clips of ``path`` per ``iter()``: {"video": (3,T,H,W), "key": str, "caption": str | None}.

    path: folders of tars or tars, comma separated, braces expanded; or http(s) URLs of tars. frames, fps, size
    (H, W): the window; where it starts is uniform, drawn from (seed, epoch, sample). Local clips come in an order
    shuffled by (seed, epoch), each exactly once; URLs are read one after the other in their own order. The epoch
    counts the passes of this object; set ``epoch`` to choose (a DataLoader with workers iterates over copies, so there
    it must be set before each pass). In a torch DataLoader every sample comes from exactly one worker. Images are
    skipped.

    Samples that cannot be used are left out, named in the log and counted in ``rejects``. Raises ValueError for a
    path without samples, above ``max_rejected`` as a share of at least 50 attempts, and when no clip could be used.
    """

    def __init__(
        self,
        path: str,
        frames: int = 17,
        fps: float = 8.0,
        size: int | tuple[int, int] = (256, 256),
        seed: int = 0,
        max_rejected: float = 0.1,
    ) -> None:
        self.path = str(path)
        self.frames = frames
        self.fps = fps
        self.size = both_sides(size)
        self.seed = seed
        self.epoch = 0
        self.max_rejected = max_rejected
        self.rejects = RejectLog(max_rejected)
        places = expand(self.path)
        remote = [place for place in places if is_url(place)]
        for place in remote:
            if not place.startswith(("http://", "https://")):
                raise ValueError(f"data.path={place!r}: only http:// and https:// URLs can be read")
        if remote and len(remote) != len(places):
            raise ValueError(f"data.path={self.path!r} mixes URLs and local paths: use two data sets")
        self.urls = remote
        self.index: ShardIndex | None = None if remote else index_shards(self.path)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        self.rejects = RejectLog(self.max_rejected)
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        source = (
            self._remote(number, workers) if self.index is None else self._local(self.index, epoch, number, workers)
        )
        for key, data, caption, place in source:
            position = derive(self.seed, "data.shards.position", epoch, place) / 2**63
            try:
                video = self._read(data, position)
            except ClipError as error:
                self.rejects.add(0, [(key, error.reason)])
                continue
            self.rejects.add(1, [])
            yield {"video": video, "key": key, "caption": caption}
        if self.rejects.rejected and not self.rejects.accepted:
            raise ValueError(f"data.path={self.path!r}: no clip could be used ({self.rejects.describe()})")

    def _read(self, data: bytes, position: float) -> Tensor:
        return read_clip(data, frames=self.frames, fps=self.fps, size=self.size, position=position)

    def _local(
        self, index: ShardIndex, epoch: int, number: int, workers: int
    ) -> Iterator[tuple[str, bytes, str | None, int]]:
        samples = [sample for sample in index.samples if sample.kind == "video"]
        if not samples:
            raise ValueError(f"data.path={self.path!r} holds images but no clip: give a folder with clips")
        order = numpy_generator(self.seed, "data.shards.order", epoch).permutation(len(samples))
        for place in order[number::workers]:
            sample = samples[int(place)]
            yield sample.key, sample.read(), sample.caption(), int(place)

    def _remote(self, number: int, workers: int) -> Iterator[tuple[str, bytes, str | None, int]]:
        for shard in range(number, len(self.urls), workers):
            meta = _fetch_meta(self.urls[shard])
            for place, (key, files) in enumerate(stream_tar(self.urls[shard])):
                media = next((files[extension] for extension in files if extension in VIDEO_EXTENSIONS), None)
                if media is None:
                    continue
                text = files["txt"].decode("utf-8", errors="replace").strip() if "txt" in files else None
                caption = text or meta.get(key, {}).get("caption")
                # 2^32 apart: no two shards share the number of a sample.
                yield key, media, caption, shard * 2**32 + place


def stream_tar(url: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {extension: bytes}) of each sample of a tar behind a URL, read from front to back, never kept.

    Members are grouped into samples by the webdataset package; opening stays with urllib, because webdataset's own
    opener also runs shell commands. A tar that breaks off is named in the log and ends
    there. Raises ValueError when the URL cannot be opened.
    """
    try:
        response = urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)
    except (urllib.error.URLError, TimeoutError) as error:
        raise ValueError(f"data.path={url!r} cannot be opened: {error}") from error
    key = ""
    with response:
        try:
            members = ({"__url__": url, **member} for member in tar_file_iterator(response))
            for sample in group_by_keys(members):
                key = sample["__key__"]
                yield key, {name: value for name, value in sample.items() if isinstance(value, bytes)}
        except (tarfile.TarError, OSError) as error:
            logger.warning("data: %s breaks off after sample %r: %s", url, key, error)


def _fetch_meta(url: str) -> dict[str, dict[str, Any]]:
    """The meta lines beside a tar's URL; none when there is no such file, for meta lines are hints."""
    place = url.removesuffix(".tar") + ".meta.jsonl"
    try:
        with urllib.request.urlopen(place, timeout=TIMEOUT_SECONDS) as response:
            lines = response.read().decode("utf-8", errors="replace").splitlines()
    except (urllib.error.URLError, TimeoutError) as error:
        logger.warning("data: no meta lines at %s (%s)", place, error)
        return {}
    meta, problems = read_meta_lines(lines, place)
    for problem in problems:
        logger.warning("data: %s %s (%s)", problem.reason, problem.name, problem.detail)
    return meta
