"""Which window a verb looks at: what was asked for, what the VAE was trained on, the published one."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import yaml

from ssvae.cli.clip_window import PUBLISHED, ClipWindow, add_window_arguments, window_asked_for


def asked(vae: Path, *words: str) -> ClipWindow:
    parser = argparse.ArgumentParser()
    add_window_arguments(parser)
    return window_asked_for(argparse.Namespace(vae=str(vae), **vars(parser.parse_args(words))))


def test_what_is_not_asked_for_is_what_the_vae_was_trained_on(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    assert asked(tmp_path) == PUBLISHED == ClipWindow(17, 8.0, (256, 256))
    trained = {"height": 16, "width": 20, "frames": 3, "fps": 4.0}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"resolution": trained}))
    for vae in (tmp_path, tmp_path / "vae"):
        assert asked(vae) == ClipWindow(3, 4.0, (16, 20))
        assert asked(vae, "--fps", "8", "--size", "32", "48") == ClipWindow(3, 8.0, (32, 48))
        assert asked(vae, "--frames", "5") == ClipWindow(5, 4.0, (16, 20))
    (tmp_path / "config.yaml").write_text("somebody: else\n")
    assert asked(tmp_path) == PUBLISHED


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--frames", "0"], "--frames 0: must be at least 1"),
        (["--fps", "0"], "--fps 0: must be above 0"),
        (["--size", "0", "8"], "--size 0 8: must be at least 1"),
    ],
)
def test_out_of_range(words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        asked(tmp_path, *words)
