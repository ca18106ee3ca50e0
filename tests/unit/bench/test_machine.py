"""Hardware by product name."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from ssvae.bench.machine import cpu_product, hardware, versions


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Some CPU 9000 @ 2GHz\n\nmodel name : Other\n",
            "Some CPU 9000 @ 2GHz",
        ),
        ("processor : 0\nBogoMIPS : 100\nHardware : BCM2835\nModel : Raspberry Pi 4\n", "BCM2835"),
        ("processor : 0\nmodel : 85\nModel : Board 3\n", None),  # the first "model" counts, and it is a number
        ("", None),
    ],
)
def test_product_name(tmp_path: Path, text: str, name: str | None) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert cpu_product(path) == (name or platform.processor() or platform.machine())


def test_absent_cpuinfo_falls_back(tmp_path: Path) -> None:
    assert cpu_product(tmp_path / "nothing") == (platform.processor() or platform.machine())


def test_hardware_is_plain_json_without_a_host_name() -> None:
    found = hardware()
    assert found["cores"] >= 1 and found["cpu"]
    text = json.dumps(found)
    assert len(platform.node()) < 4 or platform.node() not in text


def test_versions() -> None:
    import torch

    found = versions()
    assert found["torch"] == torch.__version__
    assert found["ssvae"] is not None
