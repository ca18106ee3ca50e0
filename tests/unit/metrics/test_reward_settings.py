"""Settings that cannot work are refused by name, before anything is sent; addresses in every spelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reward_server import make_settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"endpoint": "localhost:8080"}, r"reward\.endpoint = 'localhost:8080': must be http:// or https://"),
        ({"endpoint": "ftp://host"}, "must be http:// or https://"),
        ({"endpoint": "file:///etc/passwd"}, "must be http:// or https://"),
        ({"endpoint": "http://"}, "must be http:// or https://"),
        ({"endpoint": "http://host:port"}, "give an address such as"),
        ({"endpoint": "http://host/v1?x=1"}, "must be http:// or https://"),
        ({"model": " "}, r"reward\.model = ' ': give the name"),
        ({"frames": 0}, r"reward\.frames = 0: must be in \[1, 512\]"),
        ({"jpeg_quality": 101}, r"must be in \[1, 100\]"),
        ({"max_tokens": 0}, "must be at least 1"),
        ({"seed": -1}, "must be at least 0"),
        ({"unparsed_share": float("nan")}, r"must be in \[0, 1\]"),
        ({"concurrency": 0}, r"must be in \[1, 256\]"),
        ({"timeout_s": 0.0}, "must be a finite number above 0"),
        ({"timeout_s": float("inf")}, "must be a finite number above 0"),
        ({"retries": -1}, r"must be in \[0, 100\]"),
        ({"backoff_s": -1.0}, "must be at least 0"),
        ({"template": Path("no/such/file.txt")}, r"reward\.template = no/such/file\.txt: cannot be read"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    address = changes.get("endpoint", "http://localhost:8080")
    with pytest.raises(ValueError, match=message):
        make_settings(address, **{key: value for key, value in changes.items() if key != "endpoint"})


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="holds a user or password") as caught:
        make_settings("http://me:hunter2@localhost:8080")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "local"),
    [("http://localhost:1", True), ("http://127.0.0.9", True), ("http://[::1]:8", True), ("https://10.0.0.1", False)],
)
def test_which_server_is_on_this_machine(url: str, local: bool) -> None:
    assert make_settings(url).is_local() is local


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/chat/completions"])
def test_an_address_is_cut_before_its_version(end: str) -> None:
    assert make_settings("https://host:8443/models" + end).base_url() == "https://host:8443/models"


def test_the_question_is_that_of_the_template(tmp_path: Path) -> None:
    path = tmp_path / "question.txt"
    path.write_text("Say. Text Caption: [{prompt}]", encoding="utf-8")
    settings = make_settings("http://localhost:8080", version="v2", template=path)
    assert settings.question().ask("x") == "Say. Text Caption: [x]"
    path.write_bytes(b"\xff{prompt}")
    with pytest.raises(ValueError, match=r"reward\.template = .*question\.txt: cannot be read"):
        make_settings("http://localhost:8080", template=path)
