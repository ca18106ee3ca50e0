"""Looks: the known four keep theirs, and no two regularisers share colour and marker."""

from __future__ import annotations

from ssvae.report.collect import CellRow
from ssvae.report.palette import looks


def row(reg: str, channels: int = 48, **others: str) -> CellRow:
    fields = {"reg": reg, "channels": channels, "resolution": 32, "seed": 0, **others}
    return CellRow(f"{reg}-{channels}-{others}", fields, "finished")


def test_many_regularisers_are_told_apart() -> None:
    found = looks([row(f"r{k:02}") for k in range(30)])
    assert len({(look.colour, look.marker) for look in found}) == 30


def test_the_known_four_look_alike_in_every_sweep() -> None:
    [alone] = looks([row("lmr")])
    among = {look.row.fields["reg"]: look for look in looks([row(reg) for reg in ("aaa", "none", "lcr", "lmr")])}
    assert (alone.colour, alone.marker) == (among["lmr"].colour, among["lmr"].marker) == ("#D55E00", "^")


def test_channels_have_dashes_and_settings_have_shades() -> None:
    narrow, wide = looks([row("lcr", 48), row("lcr", 128)])
    assert narrow.colour == wide.colour and narrow.dash != wide.dash
    weak, strong = looks([row("lcr", strength="1"), row("lcr", strength="2")])
    assert weak.colour != strong.colour and weak.fill != strong.fill and weak.marker == strong.marker
