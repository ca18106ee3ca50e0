"""Where the members of a tar lie, as far as the tar is readable."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a tar: its name, and the offset and size of its payload in bytes."""

    name: str
    offset: int
    size: int

    @property
    def key(self) -> str:
        """The name up to the first dot of its last part."""
        folder, slash, last = self.name.rpartition("/")
        return folder + slash + last.split(".", 1)[0]

    @property
    def extension(self) -> str:
        """What follows that dot, in lower case; empty without a dot."""
        return self.name.rpartition("/")[2].partition(".")[2].lower()


def scan_tar(path: Path) -> tuple[list[Member], str | None]:
    """Members of the tar that lie in it completely, and what is wrong with it (None when nothing is).

    Raises nothing for a damaged tar: what comes before the damage is returned.
    """
    size = path.stat().st_size
    members: list[Member] = []
    try:
        with tarfile.open(path, "r:") as tar:
            while (info := tar.next()) is not None:
                if not info.isreg():
                    continue
                if info.offset_data + info.size > size:
                    return members, f"cut short inside {info.name!r}"
                members.append(Member(info.name, info.offset_data, info.size))
            end = tar.offset
    except tarfile.TarError as error:
        return members, f"unreadable after {len(members)} members: {error}"
    return members, _check_end(path, end, size)


def _check_end(path: Path, end: int, size: int) -> str | None:
    """tarfile stops without a word at a damaged header and at a missing end mark (512 zero bytes)."""
    with path.open("rb") as file:
        file.seek(end)
        block = file.read(512)
    if block == bytes(512):
        return None
    if not block:
        return "cut short: no end mark"
    return f"damaged header at byte {end} of {size}"
