"""Which settings tell probes apart, and which VAEs: one changed key at a time."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssvae.report.collect_settings import probe_settings, vae_settings

CELL: dict[str, dict[str, Any]] = {
    "base": {"train": {"steps": 5}, "seed": 0, "parents": {}},
    "pretrain": {"reg": {"lcr": 1}, "train": {"steps": 9}, "seed": 0, "parents": {"base": "b0"}},
    "measure": {"score": {"clips": 8}, "parents": {"pretrain": "p0"}},
    "latents": {
        "data": {"content": "c", "split_seed": 0, "image_batch": 8},
        "resolution": {"height": 32},
        "latents": {"batch": 32, "windows": 2, "heldout": 8},
        "conditions": None,
        "weights": "raw",
        "parents": {"pretrain": "p0"},
    },
    "dit": {"dit": {"patch": [1, 2, 2]}, "seed": 0, "parents": {"latents": "l0"}},
    "probe": {"probe": {"guidance": 7.0}, "weights": "raw", "parents": {"dit": "d0"}},
}


def write(root: Path, cell: dict[str, dict[str, Any]]) -> dict[str, Path]:
    folders = {name: root / name for name in cell}
    for name, config in cell.items():
        folders[name].mkdir(parents=True, exist_ok=True)
        (folders[name] / "config.yaml").write_text(yaml.safe_dump(config))
    return folders


def changed(*keys: str, to: Any) -> dict[str, dict[str, Any]]:
    cell: dict[str, Any] = copy.deepcopy(CELL)
    *path, last = keys
    place = cell
    for key in path:
        place = place[key]
    place[last] = to
    return cell


@pytest.mark.parametrize(
    ("keys", "to", "other_probe", "other_vae"),
    [
        (("pretrain", "seed"), 1, False, False),
        (("pretrain", "parents"), {"base": "b1"}, False, False),
        (("pretrain", "train", "steps"), 10, False, True),
        (("base", "train", "steps"), 6, False, True),
        (("measure", "score", "clips"), 9, False, False),
        (("latents", "weights"), "ema", False, False),
        (("latents", "vae"), "file", False, False),
        (("latents", "latents", "batch"), 1, False, False),
        (("latents", "data", "image_batch"), 9, False, False),
        (("latents", "data", "content"), "d", True, False),
        (("latents", "latents", "windows"), 3, True, False),
        (("dit", "seed"), 1, False, False),
        (("dit", "parents"), {}, False, False),
        (("dit", "dit", "patch"), [1, 1, 1], True, False),
        (("probe", "weights"), "finished", False, False),
        (("probe", "vae"), "file", False, False),
        (("probe", "probe", "guidance"), 1.0, True, False),
    ],
)
def test_what_tells_apart(tmp_path: Path, keys: tuple[str, ...], to: Any, other_probe: bool, other_vae: bool) -> None:
    before, after = write(tmp_path / "a", CELL), write(tmp_path / "b", changed(*keys, to=to))
    assert (probe_settings(before) != probe_settings(after)) is other_probe
    assert (vae_settings(before) != vae_settings(after)) is other_vae


def test_a_finished_vae_is_its_file(tmp_path: Path) -> None:
    """Own and finished VAEs share a probe; two finished ones differ by what was loaded."""
    found = []
    for name in ("wan21", "wan22"):
        cell = {stage: dict(CELL[stage]) for stage in ("measure", "latents", "dit", "probe")}
        for stage in ("measure", "latents", "probe"):
            cell[stage] |= {"vae": f"file of {name}"}
        cell["probe"]["weights"] = cell["latents"]["weights"] = "finished"
        found.append(write(tmp_path / name, cell))
    own = write(tmp_path / "own", CELL)
    assert {probe_settings(folders) for folders in (*found, own)} == {probe_settings(own)}
    assert len({vae_settings(folders) for folders in (*found, own)}) == 3


def test_without_records_nothing_is_claimed(tmp_path: Path) -> None:
    assert probe_settings({"probe": tmp_path}) is None and vae_settings({"measure": tmp_path}) is None
    folders = write(tmp_path, CELL)
    (folders["base"] / "config.yaml").unlink()
    assert vae_settings(folders) is None
    (folders["base"] / "config.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="holds"):
        vae_settings(folders)
