"""The latent cache: what a VAE makes of a data set, encoded once and read many times.

Layout of a folder (it appears in one rename)::

    latents.npy       raw posterior means, float32 (N,C,F,h,w), read as a memory map
    samples.jsonl     a line a latent: key, caption, label
    manifest.json     what the writer was told (VAE, data, window, ...)
    normalizer.json   per-channel mean and standard deviation, float64

Latents are stored raw and the statistics apart from them, so that statistics can change without encoding again.

Dimension legend
    N latents, C channels, F latent frames, h w latent pixels    latents (N,C,F,h,w)
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LATENTS, SAMPLES, MANIFEST, NORMALIZER = "latents.npy", "samples.jsonl", "manifest.json", "normalizer.json"


@dataclass(frozen=True, slots=True)
class LatentSample:
    """What a latent was made from."""

    key: str
    caption: str | None
    label: int | None


class LatentWriter:
    """Write a latent cache batch by batch; nothing is at ``folder`` before :meth:`close`.

    As a context manager it closes on success and leaves nothing behind on an error. ``manifest`` is stored as it is
    (JSON). A cache that is already at ``folder`` is replaced.
    """

    def __init__(self, folder: str | Path, manifest: dict[str, Any] | None = None) -> None:
        self.folder = Path(folder).absolute()
        self._manifest = dict(manifest or {})
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._building = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}-", dir=self.folder.parent))
        self._file: BinaryIO = (self._building / LATENTS).open("wb")
        self._shape: tuple[int, ...] | None = None
        self._samples: list[LatentSample] = []

    def add(
        self,
        latents: Tensor,
        keys: Sequence[str],
        captions: Sequence[str | None] | None = None,
        labels: Sequence[int | None] | None = None,
    ) -> None:
        """Append raw latents (B,C,F,h,w) with the key, caption and class of each."""
        array = np.ascontiguousarray(latents.detach().to("cpu", torch.float32).numpy())
        if array.ndim != 5 or len(keys) != len(array):
            raise ValueError(f"latents must be (B,C,F,h,w) with a key each, got {array.shape} and {len(keys)} keys")
        if self._shape is None:
            self._shape = array.shape[1:]
            self._write_header(0)
        if array.shape[1:] != self._shape:
            raise ValueError(f"latents of shape {array.shape[1:]} in a cache of shape {self._shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"latents of {keys[0]!r} and its batch are not finite: the VAE has diverged")
        self._file.write(array.tobytes())
        for row, key in enumerate(keys):
            self._samples.append(
                LatentSample(key, captions[row] if captions else None, labels[row] if labels else None)
            )

    def close(self) -> LatentCache:
        """Finish, compute the normaliser over all latents, publish the folder and open it."""
        if self._shape is None:
            self.abandon()
            raise ValueError(f"no latents were written to {self.folder}: the data set is empty or all was rejected")
        self._file.seek(0)
        self._write_header(len(self._samples))
        _close_on_disk(self._file)
        with (self._building / SAMPLES).open("w", encoding="utf-8") as lines:
            for sample in self._samples:
                row = {"key": sample.key, "caption": sample.caption, "label": sample.label}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        (self._building / MANIFEST).write_text(json.dumps(self._manifest, indent=1, sort_keys=True) + "\n")
        mean, std = channel_statistics(np.load(self._building / LATENTS, mmap_mode="r"))
        write_normalizer(self._building, mean, std)
        self._building.chmod(0o755)
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self._building.rename(self.folder)
        return LatentCache.open(self.folder)

    def abandon(self) -> None:
        """Remove what was written so far."""
        self._file.close()
        shutil.rmtree(self._building, ignore_errors=True)

    def __enter__(self) -> LatentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abandon()
        elif not self._file.closed:
            self.close()

    def _write_header(self, count: int) -> None:
        # numpy pads the header so that the first axis can grow in place; that is what this rewriting relies on.
        assert self._shape is not None
        shape = (count, *self._shape)
        np.lib.format.write_array_header_1_0(self._file, {"descr": "<f4", "fortran_order": False, "shape": shape})


class LatentCache:
    """A finished latent cache: ``len(cache)``, ``cache.raw(i)``, ``cache.samples[i]``; :class:`NormalizedLatents`.

    latents: (N,C,F,h,w) float32, a read-only memory map. mean, std: (C,) float64.
    """

    def __init__(
        self,
        folder: Path,
        latents: NDArray[np.float32],
        samples: list[LatentSample],
        manifest: dict[str, Any],
        mean: Tensor,
        std: Tensor,
    ) -> None:
        self.folder = folder
        self.latents = latents
        self.samples = samples
        self.manifest = manifest
        self.mean = mean
        self.std = std

    @classmethod
    def open(cls, folder: str | Path) -> LatentCache:
        """Open the cache at ``folder``. Raises ValueError when there is none, or its files contradict each other."""
        folder = Path(folder)
        missing = [name for name in (LATENTS, SAMPLES, MANIFEST, NORMALIZER) if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"{folder} is no latent cache ({', '.join(missing)} missing): encode the data set first")
        latents = np.load(folder / LATENTS, mmap_mode="r")
        with (folder / SAMPLES).open(encoding="utf-8") as lines:
            samples = [LatentSample(**json.loads(line)) for line in lines]
        normalizer = json.loads((folder / NORMALIZER).read_text())
        mean, std = (torch.tensor(normalizer[name], dtype=torch.float64) for name in ("mean", "std"))
        if len(samples) != len(latents) or mean.shape != std.shape or mean.numel() != latents.shape[1]:
            raise ValueError(f"{folder}: latents, samples and normaliser do not belong together: encode again")
        return cls(folder, latents, samples, json.loads((folder / MANIFEST).read_text()), mean, std)

    def __len__(self) -> int:
        return len(self.samples)

    def raw(self, which: int | slice | Sequence[int]) -> Tensor:
        """Raw latents, float32: (C,F,h,w) for one index, (n,C,F,h,w) for several."""
        return torch.from_numpy(np.array(self.latents[which]))


class LatentRows(Protocol):
    """Latents (N,C,F,h,w) by rows: a tensor, or :class:`NormalizedLatents`."""

    @property
    def shape(self) -> torch.Size: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        """rows (n,) int64 -> (n,C,F,h,w)."""


class NormalizedLatents:
    """Rows of a cache in the coordinates of ``by`` (itself by default), read when they are asked for: a data set's
    latents may be larger than memory. ``shape``, ``len`` and indexing by rows are a tensor's, (N,C,F,h,w) float32."""

    def __init__(self, cache: LatentCache, by: LatentCache | None = None) -> None:
        self._cache = cache
        self._by = cache if by is None else by

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self._cache.latents.shape)

    def __len__(self) -> int:
        return len(self._cache)

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        """rows (n,) int64 -> (n,C,F,h,w)."""
        shape = (-1, 1, 1, 1)
        raw = self._cache.raw(rows.tolist()).double()
        return ((raw - self._by.mean.view(shape)) / self._by.std.view(shape)).float()


def channel_statistics(latents: NDArray[np.float32], floor: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of each channel of (N,C,F,h,w), float64 (C,), in two passes.

    A channel that (nearly) never changes gets the standard deviation ``floor``, so that dividing by it is safe.
    """
    channels = latents.shape[1]
    count = latents.size // channels
    total = np.zeros(channels)
    for start in range(0, len(latents), 64):
        total += latents[start : start + 64].sum(axis=(0, 2, 3, 4), dtype=np.float64)
    mean = total / count
    squares = np.zeros(channels)
    for start in range(0, len(latents), 64):
        centred = latents[start : start + 64].astype(np.float64) - mean[:, None, None, None]
        squares += (centred * centred).sum(axis=(0, 2, 3, 4))
    return torch.from_numpy(mean), torch.from_numpy(np.sqrt(squares / count)).clamp_min(floor)


def write_normalizer(folder: str | Path, mean: Tensor, std: Tensor) -> None:
    """Replace the normaliser of a cache: mean and std (C,), std positive; the latents stay as they are."""
    mean, std = mean.double(), std.double()
    if mean.shape != std.shape or mean.ndim != 1 or not bool((std > 0).all() & mean.isfinite().all()):
        raise ValueError("a normaliser is a finite mean (C,) and a positive std (C,)")
    path = Path(folder) / NORMALIZER
    # JSON prints floats with every digit, so reading gives the same 64 bits.
    temporary = path.with_name(f"{NORMALIZER}.{os.getpid()}")
    temporary.write_text(json.dumps({"mean": mean.tolist(), "std": std.tolist()}, indent=1) + "\n")
    temporary.replace(path)


def _close_on_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
