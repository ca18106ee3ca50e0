"""VideoShards: iterate over the clips of a data set, one window a clip, without any of the bench around it.

Dimension legend
    3 colours, T frames, H W pixels    video (3,T,H,W) float32 in [-1, 1]
"""

from __future__ import annotations

import logging
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.tariterators import group_by_keys, tar_file_iterator

from ssvae.core.ranks import Ranks
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
    it must be set before each pass). Images are skipped.

    Every sample comes from exactly one rank, and there from exactly one worker of a torch DataLoader. rank, world: of
    this process among those that share the data; by default those of torch.distributed's process group, else of the
    variables RANK and WORLD_SIZE, else one process alone. All ranks need the same path, seed, epoch and number of
    workers. Their parts differ by a few samples: a training that needs as many steps on each must stop all of them
    together. Fewer URLs than parts: several read one tar, and each keeps its share of the samples.

    Samples that cannot be used are left out, named in the log and counted in ``rejects``. Raises ValueError for a
    path without samples, a rank outside its world, above ``max_rejected`` as a share of at least 50 attempts, and when
    no clip could be used.
    """

    def __init__(
        self,
        path: str,
        frames: int = 17,
        fps: float = 8.0,
        size: int | tuple[int, int] = (256, 256),
        seed: int = 0,
        max_rejected: float = 0.1,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        self.path = str(path)
        self.frames = frames
        self.fps = fps
        self.size = both_sides(size)
        self.seed = seed
        self.epoch = 0
        if (rank is None) != (world is None) or (rank is not None and world is not None and not 0 <= rank < world):
            raise ValueError(f"rank={rank}, world={world}: give both, with 0 <= rank < world, or neither")
        self._ranks = None if rank is None or world is None else (rank, world)
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
        part, parts = self._part()
        source = self._remote(part, parts) if self.index is None else self._local(self.index, epoch, part, parts)
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

    @property
    def ranks(self) -> tuple[int, int]:
        """(rank, world) of this process."""
        return self._ranks if self._ranks is not None else _ranks_here()

    def __getstate__(self) -> dict[str, Any]:
        # A loader worker that starts afresh is in no process group: it is told what the process that asks is. A copy
        # made before there are ranks finds out for itself.
        return {**self.__dict__, "_ranks": self._ranks or (self.ranks if self.ranks[1] > 1 else None)}

    def _part(self) -> tuple[int, int]:
        """Which part of how many this worker of this rank reads."""
        rank, world = self.ranks
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        # Ranks first: with few samples each rank gets some before a second worker of one does.
        return number * world + rank, workers * world

    def _read(self, data: bytes, position: float) -> Tensor:
        return read_clip(data, frames=self.frames, fps=self.fps, size=self.size, position=position)

    def _local(
        self, index: ShardIndex, epoch: int, part: int, parts: int
    ) -> Iterator[tuple[str, bytes, str | None, int]]:
        samples = [sample for sample in index.samples if sample.kind == "video"]
        if not samples:
            raise ValueError(f"data.path={self.path!r} holds images but no clip: give a folder with clips")
        order = numpy_generator(self.seed, "data.shards.order", epoch).permutation(len(samples))
        for place in order[part::parts]:
            sample = samples[int(place)]
            yield sample.key, sample.read(), sample.caption(), int(place)

    def _remote(self, part: int, parts: int) -> Iterator[tuple[str, bytes, str | None, int]]:
        turn, first = divmod(part, len(self.urls))
        # How many read this part's tar: more than one only where there are fewer tars than parts.
        sharing = len(range(first, parts, len(self.urls)))
        for shard in range(first, len(self.urls), parts):
            meta = _fetch_meta(self.urls[shard])
            for place, (key, files) in enumerate(stream_tar(self.urls[shard])):
                if place % sharing != turn:
                    continue
                media = next((files[extension] for extension in files if extension in VIDEO_EXTENSIONS), None)
                if media is None:
                    continue
                text = files["txt"].decode("utf-8", errors="replace").strip() if "txt" in files else None
                caption = text or meta.get(key, {}).get("caption")
                # 2^32 apart: no two shards share the number of a sample.
                yield key, media, caption, shard * 2**32 + place


def _ranks_here() -> tuple[int, int]:
    """(rank, world) by the process group, else by the variables that launchers set."""
    group = Ranks.current()
    if group.world > 1:
        return group.rank, group.world
    rank, world = (os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if not (rank.isdigit() and world.isdigit() and int(rank) < int(world)):
        raise ValueError(f"RANK={rank}, WORLD_SIZE={world}: are no rank and world; unset both, or give rank and world")
    return int(rank), int(world)


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
