"""The presets of conf/probe have the sizes that their files state, counted without allocating them."""

from __future__ import annotations

import pytest
import torch

from ssvae.build import build_dit
from ssvae.config.compose import CONF, resolve
from ssvae.config.probe import Condition
from ssvae.models.condition import BlankTexts
from ssvae.models.dit import VideoDiT

PARAMETERS = {
    "s2": 33_063_744,
    "b2": 131_301_312,
    "l2": 459_679_936,
    "xl2": 677_199_360,
    "0.75b": 745_867_328,
    "1.3b": 1_321_255_104,
    "4b": 4_013_668_032,
}
"""On 48 latent channels; with the built-in captions up to XL, with texts of width 4,096 above."""
PUBLISHED = {"s2": 33e6, "b2": 130e6, "l2": 458e6, "xl2": 675e6, "0.75b": 0.75e9, "1.3b": 1.3e9, "4b": 4e9}
"""DiT's own counts (2212.09748, table 4), and the sizes that the large ones are named by."""


def preset(name: str) -> VideoDiT:
    (cell,) = resolve((f"probe={name}", "probe.text.model=owner/name"))
    probe = cell.cfg.stages.probe.probe
    kind = Condition.text if probe.condition is Condition.text else Condition.caption
    texts = BlankTexts(4096, probe.text.max_length)
    with torch.device("meta"):
        return build_dit(probe, channels=48, grid=(5, 16, 16), condition=kind, classes=0, texts=texts)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_those_that_the_file_states(name: str) -> None:
    model = preset(name)
    assert all(parameter.is_meta for parameter in model.parameters())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == PARAMETERS[name]
    head = (CONF / "probe" / f"{name}.yaml").read_text().partition("\nname:")[0].replace("\n# ", " ")
    assert f" {count:,} parameters" in head
    assert abs(count / PUBLISHED[name] - 1) < 0.02


def test_the_count_of_a_block_by_hand() -> None:
    """Attention 4 D², MLP 8 D², modulation 6 D² and their biases, norms of queries and keys; text: 4 D² more."""
    d, head = 1152, 64
    block = preset("0.75b").blocks[0]
    plain = (4 * d * d + 4 * d) + (8 * d * d + 5 * d) + (6 * d * d + 6 * d) + 2 * head
    text = (4 * d * d + 4 * d) + 2 * head + 2 * d
    assert sum(parameter.numel() for parameter in block.parameters()) == plain + text
