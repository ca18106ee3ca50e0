"""The figure of one VAE's latents: every curve in its panel, pictures in rows, equal bytes for equal input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from ssvae.report.figures import save_figure
from ssvae.report.latents_figure import PANELS, latents_figure


def curves(*left_out: str) -> dict[str, dict[str, Any]]:
    x = list(range(1, 9))
    found: dict[str, dict[str, Any]] = {}
    for number, series in enumerate(series for panel in PANELS for series in panel.series):
        found[series.curve] = {"x": x, "y": [1 / (place + number) for place in x], "x_label": "x", "y_label": "y"}
    found["dct_spectrum"]["y"][3] = 0.0
    found["psnr_chop_rgb"]["y"][0] = 100.0
    return {name: curve for name, curve in found.items() if name not in left_out}


def pictures() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "original": generator.integers(0, 256, (4, 8, 12, 3), dtype=np.uint8),
        "PCA-RGB": generator.integers(0, 256, (4, 8, 12, 3), dtype=np.uint8),
        "chopped": generator.integers(0, 256, (1, 16, 40, 3), dtype=np.uint8),
    }


def every_axes(figure: Figure) -> list[Any]:
    return [axes for part in figure.subfigs for axes in part.axes] or list(figure.axes)


def test_every_curve_is_drawn_in_its_panel() -> None:
    given = curves()
    figure = latents_figure(given, title="VAE of ours")
    assert figure.get_suptitle() == "VAE of ours"
    for axes, panel in zip(figure.axes, PANELS, strict=True):
        assert [line.get_label() for line in axes.lines] == [series.label for series in panel.series]
        assert axes.get_yscale() == ("log" if panel.log else "linear")
        assert len({line.get_color() for line in axes.lines}) == len({line.get_marker() for line in axes.lines})
        for line, series in zip(axes.lines, panel.series, strict=True):
            expected = np.array(given[series.curve]["y"])
            drawn = np.asarray(line.get_ydata())
            np.testing.assert_array_equal(line.get_xdata(), given[series.curve]["x"])
            np.testing.assert_array_equal(drawn[~np.isnan(drawn)], expected[~np.isnan(drawn)])
    spectrum, chopped = figure.axes[0].lines[0].get_ydata(), figure.axes[2].lines[0].get_ydata()
    assert np.isnan(spectrum).tolist() == [False] * 3 + [True] + [False] * 4, "zero has no logarithm"
    assert np.isnan(chopped).tolist() == [True] + [False] * 7, "equal clips have no finite PSNR"


def test_what_was_not_measured_is_said() -> None:
    left_out = [series.curve for series in PANELS[2].series]
    axes = latents_figure(curves("rgb_dct_spectrum", *left_out)).axes
    assert [text.get_text() for text in axes[2].texts] == ["not measured"] and not axes[2].lines
    assert [line.get_label() for line in axes[0].lines] == ["latent"]
    assert not axes[0].texts


def test_pictures_stand_in_rows_as_they_are() -> None:
    given = pictures()
    figure = latents_figure(curves(), given)
    shown = [axes for axes in every_axes(figure) if axes.images]
    assert [axes.get_title(loc="left") for axes in shown] == list(given)
    for axes, tiles in zip(shown, given.values(), strict=True):
        strip = np.asarray(axes.images[0].get_array())
        width = tiles.shape[2]
        for place, tile in enumerate(tiles):
            left = place * (width + 2)
            np.testing.assert_array_equal(strip[:, left : left + width], tile)
        assert strip.shape[1] == len(tiles) * (width + 2) - 2
    assert figure.get_figheight() > latents_figure(curves()).get_figheight() + 2


@pytest.mark.parametrize("rows", [None, pictures()])
def test_equal_input_gives_equal_bytes(tmp_path: Path, rows: dict[str, np.ndarray] | None) -> None:
    for name in ("a.png", "b.png"):
        save_figure(latents_figure(curves(), rows), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    picture = imread(tmp_path / "a.png")
    assert picture.shape[1] == 1600 and picture.std() > 0.05
    other = curves()
    other["dct_spectrum"]["y"][1] *= 2
    save_figure(latents_figure(other, rows), tmp_path / "c.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4, 3), np.float32), np.zeros((0, 4, 4, 3), np.uint8)]
)
def test_pictures_of_another_form_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="'odd' must be"):
        latents_figure(curves(), {"odd": bad})
