"""Tensors of a PyTorch checkpoint file (zip layout, PyTorch 1.6 or newer), read without running anything of it.

Only the records of the tensors that are asked for are read, one at a time, with their checksums verified; memory is
that of the result plus one record, however large the file is.
"""

from __future__ import annotations

import math
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from ssvae.models.inert_pickle import UNPICKLING_ERRORS, InertContent, StoredStorage, StoredTensor, read_inert

_PICKLE = "data.pkl"
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,  # compression or encryption that zipfile does not know
    RuntimeError,  # a password is needed
    EOFError,
    ValueError,
    zlib.error,
)


class TorchArchive:
    """One open checkpoint file; use it in a ``with`` block. ValueError, naming the file, for whatever is wrong with it.

    content: what the file holds, of plain Python types, :class:`~ssvae.models.inert_pickle.StoredTensor` and stubs.
    unknown: dotted names of the foreign classes and functions that became stubs, each once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = _open(path)
        try:
            self._prefix, inert = self._read_pickle()
        except ValueError:
            self._zip.close()
            raise
        self.content, self.unknown = inert.content, inert.unknown

    def __enter__(self) -> TorchArchive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def _read_pickle(self) -> tuple[str, InertContent]:
        found = [name for name in self._zip.namelist() if name == _PICKLE or name.endswith(f"/{_PICKLE}")]
        if len(found) != 1:
            raise ValueError(f"{self.path} is a zip archive but no PyTorch checkpoint: it holds no {_PICKLE}")
        prefix = found[0].removesuffix(_PICKLE)
        if f"{prefix}byteorder" in self._zip.namelist():
            order = self._record(f"{prefix}byteorder").decode("ascii", "replace")
            if order != sys.byteorder:
                raise ValueError(f"{self.path} stores numbers {order}-endian, this machine is {sys.byteorder}-endian")
        data = self._record(found[0])
        try:
            return prefix, read_inert(data)
        except UNPICKLING_ERRORS as error:
            raise ValueError(f"{self.path} is damaged: its {_PICKLE} is no valid pickle") from error

    def _record(self, name: str) -> bytes:
        if name not in self._zip.NameToInfo:
            raise ValueError(f"{self.path} is damaged: record {name} is missing")
        if self._zip.getinfo(name).compress_type != zipfile.ZIP_STORED:
            # A few compressed bytes can stand for gigabytes.
            raise ValueError(f"{self.path}: record {name} is compressed, which torch.save never does")
        try:
            return self._zip.read(name)
        except (*_ZIP_ERRORS, OSError) as error:  # OSError: a seek to where the file does not reach
            raise ValueError(f"{self.path} is damaged: record {name} cannot be read ({error})") from error

    def check(self, name: str, stored: StoredTensor) -> None:
        """ValueError unless the description ``stored`` of tensor ``name`` is one that its record can fill."""
        storage, offset, shape, stride = stored
        if not isinstance(storage, StoredStorage) or not _sizes((offset,)) or not _sizes(shape) or not _sizes(stride):
            raise ValueError(f"{self.path} is damaged: {name} is no well-formed tensor")
        numbers = math.prod(shape)
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=False))
        held = storage.elements
        if len(shape) != len(stride) or not 0 <= numbers <= held or (numbers and last >= held):
            raise ValueError(f"{self.path} is damaged: {name} of shape {shape} does not fit into {held} stored numbers")

    def read(self, wanted: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Name -> tensor in float32, whatever it is stored in, in memory of its own. Call :meth:`check` first.

        Raises ValueError for numbers that are not floating-point, and for records that are missing or damaged.
        """
        found: dict[str, Tensor] = {}
        record, numbers = "", torch.empty(0)
        # Ordered by record: tensors that share one are cut from it together.
        for name, (storage, offset, shape, stride) in sorted(wanted.items(), key=lambda item: item[1].storage.record):
            if not storage.dtype.is_floating_point:
                raise ValueError(f"{self.path}: {name} holds {storage.dtype}, not floating-point numbers")
            if storage.record != record:
                record, numbers = storage.record, self._numbers(storage)
            view = numbers.as_strided(shape, stride, offset)
            found[name] = view.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        return {name: found[name] for name in wanted}

    def _numbers(self, storage: StoredStorage) -> Tensor:
        data = self._record(f"{self._prefix}data/{storage.record}")
        if len(data) != storage.elements * storage.dtype.itemsize:
            raise ValueError(
                f"{self.path} is damaged: record {storage.record} has {len(data)} bytes, "
                f"not {storage.elements} numbers of {storage.dtype}"
            )
        return torch.frombuffer(bytearray(data), dtype=storage.dtype)


def _open(path: Path) -> zipfile.ZipFile:
    try:
        with path.open("rb") as file:
            head = file.read(4)
        return zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        if head.startswith(b"\x80"):
            reason = "a bare pickle or PyTorch's old format: load and save it once with PyTorch 1.6 or newer"
        elif head.startswith(b"PK"):
            reason = "a zip archive that is damaged or cut short"
        else:
            reason = "not a file that torch.save wrote"
        raise ValueError(f"{path} is no checkpoint that can be read: {reason}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def _sizes(values: object) -> bool:
    return isinstance(values, tuple) and all(type(value) is int and value >= 0 for value in values)
