"""Prompt files of every format, told apart by content, and clips matched to prompts by name or by order."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from ssvae.data.prompts import PromptFile, detect_format, natural_order, pair_clips, read_prompts

LINES = "A cat.\n\n# a remark\n  a dog, text, and a bird  \r\n#1 dad mug\n[close-up] rain\u2028on glass\n"
LINE_TEXTS = ("A cat.", "a dog, text, and a bird", "#1 dad mug", "[close-up] rain\u2028on glass")
STILL = "In a still frame, a stop sign"
VBENCH = [
    {"prompt_en": STILL, "dimension": ["temporal_flickering"]},
    {"prompt_en": "a bird and a cat ", "dimension": ["multiple_objects"], "auxiliary_info": {"object": "bird"}},
    {"prompt_en": STILL, "dimension": ["aesthetic_quality"]},
]
TABLE = 'prompt,concept,motion_level\n"A street, at night.\nIt rains.",human,low\nA kangaroo dances.,animal,high\n'
TABLE_TEXTS = ("A street, at night.\nIt rains.", "A kangaroo dances.")
AUDIO = (
    '{"id": 0, "video_prompt": "A bite of an apple.", "audio_prompt": "crunch"}\n\n{"id": 1, "video_prompt": "Rain."}\n'
)


def write(folder: Path, text: str, name: str = "prompts.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def lines(*texts: str) -> PromptFile:
    return PromptFile(Path("p.txt"), "lines", texts, (None,) * len(texts))


@pytest.mark.parametrize(
    ("text", "kind", "texts"),
    [
        (LINES, "lines", LINE_TEXTS),
        (json.dumps(VBENCH), "vbench", (STILL, "a bird and a cat", STILL)),
        (json.dumps(["one", "two"], indent=1), "vbench", ("one", "two")),
        (TABLE, "csv", TABLE_TEXTS),
        (TABLE.replace("\n", "\r\n").replace(".\r\nIt", ".\nIt"), "csv", TABLE_TEXTS),
        ("id\tcaption\n7\ta, b and c\n", "csv", ("a, b and c",)),
        ("Prompt\none prompt\n", "csv", ("one prompt",)),
        (AUDIO, "jsonl", ("A bite of an apple.", "Rain.")),
    ],
    ids=["lines", "vbench", "list", "moviegen", "moviegen_crlf", "tabs", "one_column", "jsonl"],
)
def test_every_format_is_known_by_its_content(tmp_path: Path, text: str, kind: str, texts: tuple[str, ...]) -> None:
    """Names say nothing: every file here is called prompts.txt. A byte-order mark changes nothing."""
    for mark in ("", "\ufeff"):
        found = read_prompts(write(tmp_path, mark + text))
        assert (found.format, found.texts) == (kind, texts)
        assert found == read_prompts(found.path, found.format)


@pytest.mark.parametrize("first", ["[close-up] a cat", "{braces} in a prompt", "a prompt, with text", "text of a song"])
def test_prompts_that_look_like_another_format_are_lines(first: str) -> None:
    assert detect_format(first + "\nsecond\n") == "lines"


def test_the_format_can_be_forced(tmp_path: Path) -> None:
    assert read_prompts(write(tmp_path, "prompt\na cat\n"), "lines").texts == ("prompt", "a cat")
    with pytest.raises(ValueError, match=r"\(read as vbench\): is no JSON"):
        read_prompts(write(tmp_path, "a cat\n"), "vbench")
    with pytest.raises(ValueError, match="format 'xml': must be one of lines, vbench, csv, jsonl"):
        read_prompts(write(tmp_path, "a cat\n"), "xml")  # type: ignore[arg-type] # the mistake


def test_duplicates_are_counted_and_kept(tmp_path: Path) -> None:
    found = read_prompts(write(tmp_path, json.dumps(VBENCH)))
    assert len(found.texts) == 3 and found.duplicates == {STILL: 2}
    assert lines("a", "b").duplicates == {}


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", "lines", "holds no prompt"),
        ("# only\n#\n \n", "lines", "holds no prompt"),
        ("[]", "vbench", "holds no prompt"),
        ('{"prompt_en": "x"}', "vbench", "must hold a list, not dict"),
        ('[{"prompt_en": "x"}, {"dimension": []}]', "vbench", "entry 2 has no text in any of prompt, prompt_en"),
        ('[{"prompt_en": "  "}]', "vbench", "entry 1 has no text"),
        ('[{"prompt_en": 7}]', "vbench", "entry 1 has no text"),
        ("[7]", "vbench", "entry 1 is int, not an object"),
        ("name,motion\nx,low\n", "csv", r"the header \(name, motion\) has no column"),
        ("motion,prompt\nlow\n", "csv", "line 2 has no text"),
        ('prompt\n"unfinished\n', "csv", "line 2: unexpected end"),
        ('{"prompt": "x"}\n{"prompt": \n', "jsonl", "line 2 is no JSON"),
        ('{"prompt": "x"}\n[1]\n', "jsonl", "line 2 is list, not an object"),
    ],
)
def test_bad_files_name_the_place(tmp_path: Path, text: str, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"prompts .*prompts\.txt \(read as {kind}\): {message}"):
        read_prompts(write(tmp_path, text), kind)  # type: ignore[arg-type] # text of a parametrised test


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.txt: cannot be read"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt: cannot be read .*give a UTF-8 text file"):
        read_prompts(tmp_path / "latin.txt")


def test_clips_by_the_names_of_vbench() -> None:
    prompts = lines("a cat", "a dog-2", "rain, at night.")
    names = ["a dog-2-0.mp4", "a cat-1.mp4", "a cat -0.mp4", "a dog-2.mp4", "rain, at night..mp4"]
    for how in ("auto", "name"):
        found, told = pair_clips(names, prompts, how)
        assert found == ["a dog-2", "a cat", "a cat", "a dog-2", "rain, at night."] and told == "by name"


def test_clips_that_the_file_names(tmp_path: Path) -> None:
    text = "video,prompt\nout/b.mp4,second\na,first\n"
    prompts = read_prompts(write(tmp_path, text))
    assert prompts.videos == ("b.mp4", "a")
    assert pair_clips(["a.mp4", "b.mp4"], prompts) == (["first", "second"], "by name")
    with pytest.raises(ValueError, match=r"1 clips have no prompt of their name \(c\.mp4\)"):
        pair_clips(["a.mp4", "c.mp4"], prompts)


def test_clips_by_order_count_numbers_by_value() -> None:
    """As text, 10 comes before 2, and clips would be scored with the prompts of others."""
    prompts = lines(*(f"prompt {i}" for i in range(12)))
    names = [f"{i}.mp4" for i in range(12)]
    random.Random(0).shuffle(names)
    found, how = pair_clips(names, prompts)
    assert how == "by order of names"
    assert dict(zip(names, found, strict=True)) == {f"{i}.mp4": f"prompt {i}" for i in range(12)}
    mixed = ["clip_10.mp4", "clip_9.mp4", "clip_9b.mp4", "other.mp4", "01.mp4", "1.mp4"]
    ordered = sorted(mixed, key=natural_order)
    assert ordered == ["01.mp4", "1.mp4", "clip_9.mp4", "clip_9b.mp4", "clip_10.mp4", "other.mp4"]


def test_what_cannot_be_matched_is_refused() -> None:
    with pytest.raises(ValueError, match="3 clips, 2 prompts: they can be matched by order only if"):
        pair_clips(["1.mp4", "2.mp4", "3.mp4"], lines("a", "b"))
    # Some by name, some not: by order would give clips the prompts of others.
    with pytest.raises(ValueError, match=r"2 clips, 2 prompts: 1 clips have no prompt of their name \(x\.mp4\)"):
        pair_clips(["a.mp4", "x.mp4"], lines("a", "b"))
    with pytest.raises(ValueError, match="2 clips have no prompt of their name"):
        pair_clips(["1.mp4", "2.mp4"], lines("a", "b"), "name")
    assert pair_clips(["b.mp4", "a.mp4"], lines("b", "a"), "order") == (["a", "b"], "by order of names")
    with pytest.raises(ValueError, match="pairing 'luck': must be one of auto, name, order"):
        pair_clips(["a.mp4"], lines("a"), "luck")  # type: ignore[arg-type] # the mistake
