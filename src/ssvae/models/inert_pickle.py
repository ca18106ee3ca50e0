"""Reads a pickle without running anything of it: tensors become descriptions, every other foreign object a stub.

A pickle is a program that may import and call whatever it names. Here each name it asks for is looked up in a short
closed table of our own stand-ins; nothing is ever imported on its behalf. Stand-ins cannot be altered by the pickle
either: those that it can reach swallow the state it sets.

Source of the format: ``torch.save``'s zip layout, in which ``data.pkl`` holds tensors as calls of
``torch._utils._rebuild_tensor_v2`` on persistent ids (storage type, record, device, number of elements).
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

UNPICKLING_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
"""What a damaged or hostile pickle can make Python's unpickler raise."""

_STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}


_KEYS = (str, int, float, bool, bytes, type(None))
"""What may be a dictionary's key, or in a tuple that is one. Some dozen bytes can nest tuples so that their hash takes
years."""


class StoredStorage(NamedTuple):
    """Where a tensor's numbers lie: type, name of the record in the archive, number of elements."""

    dtype: torch.dtype
    record: str
    elements: int


class StoredTensor(NamedTuple):
    """A tensor as the pickle describes it; nothing is checked yet, any field may hold anything."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any


class Stub:
    """Stands for an object whose class is not known here: takes whatever it is given, keeps and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Stub:
        return super().__new__(cls)

    def __call__(self, *args: object) -> Stub:
        return self

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass

    def extend(self, values: object) -> None:
        pass

    def add(self, value: object) -> None:
        pass


class Table(dict[Any, Any]):
    """Stands for OrderedDict; attributes that the pickle sets on it (a state dict's ``_metadata``) are dropped.

    It is made empty, as pickles of dictionaries make it: items come later, one by one, where keys are looked at.
    """

    def __init__(self) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        pass


class _BuildTensor:
    """Stands for torch's functions that make a tensor of a storage."""

    def __call__(self, storage: object, offset: object, shape: object, stride: object, *rest: object) -> StoredTensor:
        return StoredTensor(storage, offset, shape, stride)

    def __setstate__(self, state: object) -> None:
        pass


class _BuildParameter(_BuildTensor):
    """Stands for the function that makes a parameter of a tensor, which it already is for us."""

    def __call__(self, data: Any, *rest: object) -> Any:
        return data


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Table,
    ("torch._utils", "_rebuild_tensor"): _BuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _BuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _BuildParameter(),
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


@dataclass(frozen=True, slots=True)
class InertContent:
    """content: plain containers and values, :class:`StoredTensor`, :class:`Stub`. unknown: names behind the stubs."""

    content: Any
    unknown: tuple[str, ...]


def read_inert(data: bytes) -> InertContent:
    """The content of a pickle. Raises one of :data:`UNPICKLING_ERRORS` when it is damaged."""
    _check_sizes(data)
    reader = _InertUnpickler(io.BytesIO(data), encoding="utf-8")
    return InertContent(reader.load(), tuple(reader.unknown))


def _check_sizes(data: bytes) -> None:
    """Refuse lengths and memo numbers that the pickle itself is too short for: a few bytes could claim all memory."""
    for opcode, argument, _ in pickletools.genops(data):  # raises ValueError where a length exceeds what is left
        if opcode.name in ("PUT", "LONG_BINPUT") and isinstance(argument, int) and argument > len(data):
            raise pickle.UnpicklingError(f"memo number {argument} in a pickle of {len(data)} bytes")


class _InertUnpickler(pickle._Unpickler):
    """``find_class`` is the only way from a pickle to a name, and it imports nothing.

    Python's own implementation, not the one in C: it lets every operation that hashes look at what it hashes first.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: io.BytesIO, *, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self.unknown: dict[str, None] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        known = _KNOWN.get((module, name))
        if known is None:
            self.unknown[f"{module}.{name}"] = None
            return Stub
        return known

    def persistent_load(self, pid: Any, /) -> StoredStorage:
        kind, dtype, record, _, elements = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a persistent id that is no storage")
        if type(record) is not str or type(elements) is not int:
            raise pickle.UnpicklingError("a storage without a record or a number of elements")
        return StoredStorage(dtype, record, elements)


def _looking_at_keys(operation: Any, keys: Any) -> Any:
    """``operation`` of the unpickler, refused where one of ``keys(unpickler)`` is no plain value."""

    def guarded(unpickler: Any) -> None:
        for key in keys(unpickler):
            if not _is_plain(key):
                raise pickle.UnpicklingError(f"a {type(key).__name__} as a dictionary's key")
        operation(unpickler)

    return guarded


def _is_plain(key: Any) -> bool:
    """A value, a stub, or a tuple of those: what hashes in no time."""
    simple = (*_KEYS, Stub, type)
    return isinstance(key, simple) or (type(key) is tuple and all(isinstance(item, simple) for item in key))


for _code, _keys in (
    (pickle.SETITEM, lambda unpickler: unpickler.stack[-2:-1]),
    (pickle.SETITEMS, lambda unpickler: unpickler.stack[::2]),
    (pickle.DICT, lambda unpickler: unpickler.stack[::2]),
    (pickle.ADDITEMS, lambda unpickler: unpickler.stack),
    (pickle.FROZENSET, lambda unpickler: unpickler.stack),
):
    _InertUnpickler.dispatch[_code[0]] = _looking_at_keys(_InertUnpickler.dispatch[_code[0]], _keys)
