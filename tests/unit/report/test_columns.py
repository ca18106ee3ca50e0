"""Order and names of metric columns."""

from __future__ import annotations

from ssvae.core.types import MetricValue
from ssvae.report.collect import CellRow
from ssvae.report.columns import baseline_of, heading, metric_order


def test_known_metrics_come_first_and_others_alphabetically() -> None:
    names = ["zeta", "fvd", "alpha", "probe_reward_wrong", "lpips_alex", "viv", "rfvd", "psnr_db", "psnr_masked_0.5_db"]
    expected = ["psnr_db", "lpips_alex", "rfvd", "viv", "probe_reward_wrong", "fvd"]
    assert metric_order([*names, "fvd"]) == [*expected, "alpha", "psnr_masked_0.5_db", "zeta"]


def test_headings_have_arrows() -> None:
    metric = MetricValue("lpips_vgg", 0.1, "1", "down", 4, None, "p/1")
    cell = CellRow("a", {}, "finished", metrics={"lpips_vgg": metric})
    assert heading([cell], "lpips_vgg") == "LPIPS VGG ↓"


def test_a_baseline_shares_every_field_it_has() -> None:
    def row(**others: str) -> CellRow:
        return CellRow(str(others), {"reg": "none", "channels": 48, "resolution": 32, "seed": 0, **others}, "finished")

    plain, raw, other = [row()], [row(weights="raw")], [row(weights="ema")]
    assert baseline_of(row(weights="raw", strength="2"), [plain, raw, other]) == raw
    assert baseline_of(row(weights="old"), [plain, raw]) == plain
    assert baseline_of(row(weights="old"), [raw]) == []
