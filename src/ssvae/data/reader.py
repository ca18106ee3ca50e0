"""Read windows of indexed samples, keeping small clips decoded in memory.

Dimension legend
    T frames, 3 colours, H W pixels    window (T,3,H,W) uint8
"""

from __future__ import annotations

from torch import Tensor

from ssvae.data.clips import Times, pick_frames, read_all, read_window
from ssvae.data.pixels import ClipError, both_sides, read_picture
from ssvae.data.shards import Sample

SMALL_FILE = 64 * 1024
"""Bytes: below this a clip may be decoded as a whole and kept."""


class WindowReader:
    """Windows of ``frames`` frames at ``fps`` and ``size`` pixels from samples of an index.

    size: side, or (H, W). upscale: whether clips smaller than that are enlarged or rejected. cache_mb: upper bound in
    MB (10^6 bytes) of the memory for decoded small clips, 0 for none; every loader worker has its own. Cached and
    uncached windows are bit-identical: frames are resized one by one in both.
    """

    def __init__(
        self, *, frames: int, fps: float, size: int | tuple[int, int], upscale: bool = True, cache_mb: float = 128.0
    ) -> None:
        if frames < 1 or not fps > 0 or min(both_sides(size)) < 1:
            raise ValueError(f"a window needs frames >= 1, fps > 0 and size >= 1, got {frames}, {fps} and {size}")
        self.frames = frames
        self.fps = fps
        self.size = both_sides(size)
        self.upscale = upscale
        self._room = int(cache_mb * 1e6)
        self._largest = self._room // 32
        self._clips: dict[str, tuple[Times, Tensor]] = {}
        self._not_kept: set[str] = set()

    def window(self, sample: Sample, position: float) -> Tensor:
        """(T,3,H,W) uint8 of a clip; ``position`` in [0, 1] places the window. Raises ClipError."""
        kept = self._keep(sample)
        if kept is None:
            return read_window(
                sample.read(),
                frames=self.frames,
                fps=self.fps,
                size=self.size,
                position=position,
                upscale=self.upscale,
            )
        times, pictures = kept
        return pictures[pick_frames(times, frames=self.frames, fps=self.fps, position=position)]

    def picture(self, sample: Sample) -> Tensor:
        """(1,3,H,W) uint8 of an image sample. Raises ClipError."""
        return read_picture(sample.read(), self.size, upscale=self.upscale)

    def _keep(self, sample: Sample) -> tuple[Times, Tensor] | None:
        """The whole decoded clip, if it is small and there is room."""
        kept = self._clips.get(sample.key)
        if kept is not None or sample.media.size > SMALL_FILE or sample.key in self._not_kept or self._room <= 0:
            return kept
        try:
            kept = read_all(sample.read(), size=self.size, upscale=self.upscale)
        except ClipError:
            # Only part of the clip may be damaged: the window itself decides, as it does without a cache.
            self._not_kept.add(sample.key)
            return None
        used = kept[1].numel()
        if used > min(self._largest, self._room):
            # Remembered, so that the whole clip is not decoded again each time.
            self._not_kept.add(sample.key)
            return kept
        self._room -= used
        self._clips[sample.key] = kept
        return kept
