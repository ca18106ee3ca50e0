"""The table as CSV, Markdown and terminal text."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console
from sweep_folders import make_cell, make_grid, make_stage, make_strengths, metric_row

from ssvae.report.collect import CellRow, collect
from ssvae.report.columns import metric_order, rounded
from ssvae.report.table import TableNotes, table_csv, table_markdown
from ssvae.report.terminal import reasons, terminal_table

NOTES = TableNotes("grid", "python run.py -m reg=none,lcr", footnotes=("LPIPS is off: no VGG weights",))


@pytest.fixture
def rows(tmp_path: Path) -> list[CellRow]:
    make_grid(tmp_path)
    return collect(tmp_path, "grid")


def section(markdown: str, title: str) -> list[list[str]]:
    """Body cells of the table below a heading."""
    lines = markdown.split(f"## {title}\n" if title else "\n\n", 1)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    body = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        body.append([cell.strip() for cell in line.strip("|").split("|")])
    return body


def test_csv_is_exactly_this(tmp_path: Path) -> None:
    stage = make_stage(
        tmp_path, "m", [metric_row("zeta", 1 / 3), metric_row("psnr_db", 30.0), metric_row("ssim", None)]
    )
    make_cell(tmp_path, "none", 48, {"measure": stage})
    make_cell(tmp_path, "lcr", 48, {}, status="failed", reason='said "no", twice')
    assert table_csv(collect(tmp_path, "grid")) == (
        "reg,channels,resolution,seed,status,cell_id,psnr_db,ssim,zeta,reason\n"
        "none,48,32,0,finished,none-48-0,30.0,,0.3333333333333333,\n"
        'lcr,48,32,0,failed,lcr-48-0,,,,"said ""no"", twice"\n'
    )


def test_csv_has_the_promised_columns_and_full_precision(rows: list[CellRow]) -> None:
    records = list(csv.DictReader(io.StringIO(table_csv(rows))))
    names = ["psnr_db", "local_correlation", "diffusion_loss", "probe_reward", "psnr_mean_colour_db", "zeta"]
    first = ["reg", "channels", "resolution", "seed", "status", "cell_id"]
    assert list(records[0]) == [*first, *names, "reason"]
    assert len(records) == 8
    assert float(records[1]["psnr_db"]) == 30.0 - 1 / 3
    assert records[1]["local_correlation"] == ""
    [failed] = [record for record in records if record["status"] == "failed"]
    assert (failed["cell_id"], failed["reason"], failed["psnr_db"]) == (
        "lmr-128-0",
        "ValueError: loss is\nnot finite",
        "",
    )


def test_further_swept_fields_get_columns_before_the_reason(rows: list[CellRow]) -> None:
    more = [dataclasses.replace(row, fields={**row.fields, "reg.lcr.weight": 0.5}) for row in rows]
    head, first = table_csv(more).splitlines()[:2]
    assert head.endswith(",zeta,reg.lcr.weight,reason")
    assert first.endswith(",1.5,0.5,")


def test_metric_columns_have_one_order_whatever_came_first() -> None:
    names = [
        "zeta",
        "probe_reward_b",
        "alpha",
        "kl_per_dim",
        "probe_fd",
        "probe_reward",
        "ssim",
        "psnr_db",
        "fvd",
        "ssim",
    ]
    expected = ["psnr_db", "ssim", "kl_per_dim", "probe_fd", "probe_reward", "probe_reward_b", "fvd", "alpha", "zeta"]
    assert metric_order(names) == metric_order(reversed(names)) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (30.0, "30.00"), (0.123456, "0.1235"), (1234.5, "1234"), (-0.05, "-0.05000"), (0.0, "0"), (None, ""),
        (float("nan"), ""), (float("inf"), "inf"), (1.2e-9, "1.200e-09"), (9.99999e7, "1.000e+08"),
    ],
)  # fmt: skip
def test_numbers_are_rounded_to_four_digits(value: float | None, text: str) -> None:
    assert rounded(value) == text


def test_markdown_main_table_has_arrows_best_values_and_reasons(rows: list[CellRow]) -> None:
    text = table_markdown(rows, NOTES)
    head = next(line for line in text.splitlines() if line.startswith("| reg"))
    assert (
        head == "| reg | channels | resolution | seed | status | PSNR dB ↑ | diff. loss ↓ | probe reward ↑ | reason |"
    )
    body = {(line[0], line[1]): line for line in section(text, "")}
    assert body["none", "48"][5:8] == ["**30.00**", "**0.5000**", "0"]
    assert body["lcr_lmr", "48"][5:8] == ["29.00", "**0.5000**", "**0.7500**"]
    assert body["lmr", "128"][4:] == ["failed", "", "", "", "ValueError: loss is not finite"]


def test_markdown_tells_how_it_was_made_and_how_to_read_it(rows: list[CellRow]) -> None:
    text = table_markdown(rows, NOTES)
    assert "Made by `python run.py -m reg=none,lcr`. 7 of 8 cells finished; n = 16 samples" in text
    assert "seed 0; split: held-out clips" in text
    assert "- `diffusion_loss`: diffusion_loss/1; n = 16" in text
    assert "- Baselines on the same clips: mean colour PSNR 12.25 dB at resolution 32." in text
    assert "- LPIPS is off: no VGG weights" in text
    every = {line[0]: line for line in section(text, "Every metric")}
    assert every["`psnr_db` ↑"][2:4] == ["30.00 [29.00, 31.00]", "29.67 [29.00, 31.00]"]
    assert "`psnr_mean_colour_db`" not in every
    assert "Seed spread" not in text


def test_several_seeds_get_mean_spread_and_count(tmp_path: Path) -> None:
    make_grid(tmp_path, seeds=3)
    text = table_markdown(collect(tmp_path, "grid"), NOTES)
    body = {(line[0], line[1]): line for line in section(text, "Seed spread")}
    # Seeds are 0.5 apart: mean + 0.5, standard deviation 0.5; one of the three seeds of lmr-128 failed.
    assert body["none", "48"][3:5] == ["3", "30.50 ± 0.5000"]
    assert body["lmr", "128"][3] == "2"
    gaps = {(line[0], line[1]): line for line in section(text, "Gap to none")}
    assert gaps["lcr", "48"][3:6] == ["−0.3333 (≈)", "+0 (≈)", "+0.2500 (+)"]
    assert gaps["lcr_lmr", "48"][3] == "−1.000 (−)"
    assert "seeds 0, 1, 2;" in text


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_grid(tmp_path / name)
    one, two = (collect(tmp_path / name, "grid") for name in ("a", "b"))
    assert table_csv(one) == table_csv(two)
    assert table_markdown(one, NOTES) == table_markdown(two, NOTES)


def test_bars_in_a_reason_do_not_break_the_table(tmp_path: Path) -> None:
    make_cell(tmp_path, "none", 48, {}, status="failed", reason="a | b")
    assert r"| a \| b |" in table_markdown(collect(tmp_path, "grid"), NOTES)


def test_tables_refuse_mixed_protocols(rows: list[CellRow]) -> None:
    metric = dataclasses.replace(rows[0].metrics["psnr_db"], protocol="psnr_db/2")
    mixed = [dataclasses.replace(rows[0], metrics={"psnr_db": metric}), *rows[1:]]
    for make in (table_csv, lambda r: table_markdown(r, NOTES), lambda r: terminal_table(r, "t")):
        with pytest.raises(ValueError, match="psnr_db/2 in none-48-0"):
            make(mixed)


def test_terminal_table_fits_100_columns_with_every_main_metric(tmp_path: Path) -> None:
    names = {"psnr_db": 30.12, "ssim": 0.9876, "local_correlation": 0.31, "dct_high_share": 0.01234,
             "explained_variance_8": 0.5, "diffusion_loss": 0.51, "probe_fd": 12.5}  # fmt: skip
    for reg in ("none", "lcr_lmr"):
        for channels in (48, 128):
            stage = make_stage(tmp_path, f"{reg}{channels}", [metric_row(n, v) for n, v in names.items()])
            make_cell(tmp_path, reg, channels, {"measure": stage})
    make_cell(tmp_path, "lmr", 48, {}, status="failed", reason="disk full")
    console = Console(width=100, file=io.StringIO(), force_terminal=False)
    console.print(terminal_table(collect(tmp_path, "grid"), "Sweep grid"))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    for value in names.values():
        assert rounded(value) in text
    # Said below the table, at the terminal's width: a column of it would squeeze the numbers.
    assert "disk full" not in text
    assert reasons(collect(tmp_path, "grid")) == ["lmr, 48 ch, seed 0: disk full"]


def test_strengths_are_columns_and_no_seeds(tmp_path: Path) -> None:
    make_strengths(tmp_path)
    text = table_markdown(collect(tmp_path, "grid"), NOTES)
    lines = text.splitlines()
    start = lines.index("| reg | channels | resolution | seed | strength.lcr | status | PSNR dB ↑ |")
    assert lines[start + 1] == "| :-- | --: | --: | --: | --: | :-- | --: |"
    assert [(line[0], line[4], line[6]) for line in section(text, "")] == [
        ("none", "", "**30.00**"), ("lcr", "0.05", "29.00"), ("lcr", "0.2", "27.00")
    ]  # fmt: skip
    assert "Seed spread" not in text
    assert "the seed spread is unknown" in text
    assert [line[:5] for line in section(text, "Gap to none")] == [
        ["lcr", "48", "32", "0.05", "−1.000"], ["lcr", "48", "32", "0.2", "−3.000"]
    ]  # fmt: skip
    assert "| metric | unit | none 48 | lcr 48 strength.lcr=0.05 | lcr 48 strength.lcr=0.2 |" in lines


def test_seeds_are_counted_within_each_strength(tmp_path: Path) -> None:
    make_strengths(tmp_path, seeds=2)
    text = table_markdown(collect(tmp_path, "grid"), NOTES)
    assert "| reg | channels | resolution | strength.lcr | seeds | PSNR dB ↑ |" in text.splitlines()
    # Two seeds 0.5 apart deviate by 0.5 / √2, whatever the strengths do.
    assert section(text, "Seed spread") == [
        ["none", "48", "32", "", "2", "30.25 ± 0.3536"],
        ["lcr", "48", "32", "0.05", "2", "29.25 ± 0.3536"],
        ["lcr", "48", "32", "0.2", "2", "27.25 ± 0.3536"],
    ]


def test_terminal_table_names_other_swept_values_only_if_there_are_any(tmp_path: Path) -> None:
    make_strengths(tmp_path / "a")
    make_grid(tmp_path / "b")
    swept, plain = (terminal_table(collect(tmp_path / name, "grid"), "t") for name in "ab")
    assert [str(column.header) for column in swept.columns][:5] == ["reg", "ch", "seed", "strength.lcr", "status"]
    assert [str(cell) for cell in swept.columns[3].cells] == ["", "0.05", "0.2"]
    assert [str(column.header) for column in plain.columns][:4] == ["reg", "ch", "seed", "status"]
