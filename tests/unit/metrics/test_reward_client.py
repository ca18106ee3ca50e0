"""The client against a real server on loopback: what it sends, what it tries again, and what it refuses at once."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from reward_server import MODEL, Asked, Reaction, RewardServer, make_settings
from ssvae.metrics import reward_client
from ssvae.metrics.reward_client import Reply, RewardClient, RewardServerError, _retry_after

GOOD = Reaction("fine")
KEY = "sk-a-very-secret-key"


class Script:
    """Reactions one after the other; the last one stays."""

    def __init__(self, *reactions: Reaction) -> None:
        self._reactions = list(reactions)

    def __call__(self, asked: Asked) -> Reaction:
        return self._reactions[min(asked.number, len(self._reactions) - 1)]


@pytest.fixture
def server() -> Iterator[RewardServer]:
    with RewardServer(Script(GOOD)) as one:
        yield one


def unused_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_what_arrives(server: RewardServer) -> None:
    client = RewardClient(make_settings(server.url, max_tokens=77))
    assert client.ask([b"one", b"two", b"three"], "Text Prompt: [a cat]") == Reply("fine", False)
    (asked,) = server.asked
    assert asked.files == [b"one", b"two", b"three"]
    assert asked.text == "Text Prompt: [a cat]"
    assert {name: asked.body[name] for name in ("model", "temperature", "max_tokens")} == {
        "model": MODEL,
        "temperature": 0,
        "max_tokens": 77,
    }
    assert set(asked.body) == {"model", "temperature", "max_tokens", "messages"}
    assert [part["type"] for part in asked.body["messages"][0]["content"]] == ["image_url"] * 3 + ["text"]
    assert "Authorization" not in asked.headers


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_the_address_may_be_given_with_its_path(server: RewardServer, end: str) -> None:
    client = RewardClient(make_settings(server.url + end))
    assert client.check() == MODEL
    assert client.ask([], "x: [y]").text == "fine"


def test_an_answer_that_was_cut_says_so(server: RewardServer) -> None:
    server.react = Script(Reaction("half", finish="length"))
    assert RewardClient(make_settings(server.url)).ask([], "x: [y]") == Reply("half", True)


@pytest.mark.parametrize(
    "failure",
    [
        Reaction(status=500, raw=b"oops"),
        Reaction(status=503, raw=b"loading"),
        Reaction(status=429, raw=b"slow down"),
        Reaction(status=408),
        Reaction(drop=True),
        Reaction("late", delay=0.8),
    ],
    ids=["500", "503", "429", "408", "dropped", "slow"],
)
def test_what_may_pass_is_tried_again(server: RewardServer, failure: Reaction) -> None:
    server.react = Script(failure, failure, GOOD)
    client = RewardClient(make_settings(server.url, timeout_s=0.5))
    assert client.ask([b"a"], "x: [y]").text == "fine"
    assert len(server.asked) == 3
    assert all(asked.body == server.asked[0].body for asked in server.asked)


def test_waits_double_up_to_their_limit_and_then_it_is_over(server: RewardServer) -> None:
    server.react = Script(Reaction(status=502, raw=b"bad gateway\nmore"))
    waits: list[float] = []
    client = RewardClient(make_settings(server.url, retries=5, backoff_s=1.0, longest_wait_s=6.0), waits.append)
    with pytest.raises(RewardServerError, match=r"/v1/chat/completions: HTTP 502 .*: bad gateway \(6 tries\)$"):
        client.ask([], "x: [y]")
    assert waits == [1.0, 2.0, 4.0, 6.0, 6.0]
    assert len(server.asked) == 6


def test_retry_after_is_honoured_within_the_limit(server: RewardServer) -> None:
    replies = [Reaction(status=429, headers={"Retry-After": value}) for value in ("3", "0", "500", "soon")]
    server.react = Script(*replies, GOOD)
    waits: list[float] = []
    client = RewardClient(make_settings(server.url, retries=4, backoff_s=0.5, longest_wait_s=60.0), waits.append)
    assert client.ask([], "x: [y]").text == "fine"
    # 3 as asked; never less than the back-off; never more than the limit; what cannot be read is no request.
    assert waits == [3.0, 1.0, 60.0, 4.0]


def test_retry_after_as_a_date() -> None:
    ahead = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    seconds = _retry_after(ahead)
    assert seconds is not None and 25 < seconds <= 30
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert _retry_after(None) is None and _retry_after("tomorrow") is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 302])
def test_other_refusals_are_errors_at_once(server: RewardServer, status: int) -> None:
    server.react = Script(Reaction(status=status, raw=b"too many pictures\nsecond line", headers={"Location": "/x"}))
    with pytest.raises(
        RewardServerError, match=rf"{server.url}/v1/chat/completions: HTTP {status} .*too many pictures$"
    ):
        RewardClient(make_settings(server.url)).ask([], "x: [y]")
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>hello", "answered no JSON \\(<html>hello\\)"),
        (b"{}", "no chat completion"),
        (b'{"choices": []}', "no chat completion"),
        (b'{"choices": [{"message": null}]}', "no chat completion"),
        (b'{"choices": [{"message": {"content": 7}}]}', "content is int, not text"),
    ],
)
def test_a_server_that_speaks_something_else_is_named(server: RewardServer, body: bytes, message: str) -> None:
    server.react = Script(Reaction(raw=body))
    with pytest.raises(RewardServerError, match=message):
        RewardClient(make_settings(server.url)).ask([], "x: [y]")


def test_an_answer_without_text_is_an_empty_one(server: RewardServer) -> None:
    server.react = Script(Reaction(raw=b'{"choices": [{"message": {"content": null}}]}'))
    assert RewardClient(make_settings(server.url)).ask([], "x: [y]") == Reply("", False)


def test_the_time_limit_is_for_the_whole_answer(server: RewardServer) -> None:
    """Bytes that trickle in would reset a limit between bytes for ever; this answer is whole after three seconds."""
    server.react = Script(Reaction("x" * 40, trickle=0.03))
    client = RewardClient(make_settings(server.url, timeout_s=0.3, retries=0))
    with pytest.raises(RewardServerError, match=r"no answer within 0\.3 s$"):
        client.ask([], "x: [y]")


def test_an_endless_answer_is_cut_off(server: RewardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_client, "LARGEST_ANSWER", 50)
    server.react = Script(Reaction("x" * 100))
    with pytest.raises(RewardServerError, match="larger than 50 bytes"):
        RewardClient(make_settings(server.url)).ask([], "x: [y]")


def test_a_stopped_client_tries_no_more(server: RewardServer) -> None:
    server.react = Script(Reaction(status=503))
    client = RewardClient(make_settings(server.url, retries=50, backoff_s=100.0, longest_wait_s=100.0))
    client.stop()
    with pytest.raises(RewardServerError, match="HTTP 503"):
        client.ask([], "x: [y]")
    assert len(server.asked) == 1


def test_nobody_at_the_address() -> None:
    waits: list[float] = []
    url = f"http://127.0.0.1:{unused_port()}"
    client = RewardClient(make_settings(url), waits.append)
    # Before the work it is an input that does not work, said at once; on the way a server may come back.
    with pytest.raises(ValueError, match=rf"{url}/v1/models: no connection.*is the server up\? Start it with: vllm"):
        client.check()
    assert waits == []
    with pytest.raises(RewardServerError, match=r"no connection.*\(4 tries\)"):
        client.ask([], "x: [y]")
    assert len(waits) == 3


def test_the_check_waits_for_a_server_that_is_busy(server: RewardServer) -> None:
    server.models_reaction = Reaction(status=503, raw=b"loading")
    with pytest.raises(ValueError, match=r"HTTP 503 .*loading \(4 tries\)"):
        RewardClient(make_settings(server.url)).check()
    assert len(server.listed) == 4


def test_a_model_that_is_not_there_is_named_with_those_that_are(server: RewardServer) -> None:
    server.models = [{"id": "zeta"}, {"id": "alpha"}]
    with pytest.raises(ValueError, match=rf"reward\.model = {MODEL}: {server.url} offers alpha, zeta; give"):
        RewardClient(make_settings(server.url)).check()
    server.models = []
    with pytest.raises(ValueError, match="offers no model"):
        RewardClient(make_settings(server.url)).check()


@pytest.mark.parametrize("body", [b"[]", b'{"data": {}}', b'{"data": ["x"]}'])
def test_a_server_without_a_list_of_models(server: RewardServer, body: bytes) -> None:
    server.models_reaction = Reaction(raw=body)
    with pytest.raises(ValueError, match="lists no models"):
        RewardClient(make_settings(server.url)).check()


def test_the_check_tells_what_the_model_was_loaded_from(server: RewardServer) -> None:
    """Two sets of weights served under one name must not share answers or a table's column."""
    names = []
    for root in ("CodeGoat24/UnifiedReward-2.0-qwen3vl-8b", "/data/models/UR-7b", MODEL, None, "a;b"):
        server.models = [{"id": MODEL, "root": root}]
        names.append(RewardClient(make_settings(server.url)).check())
    assert names == [
        f"{MODEL}(CodeGoat24/UnifiedReward-2.0-qwen3vl-8b)",
        f"{MODEL}(UR-7b)",
        MODEL,
        MODEL,
        f"{MODEL}(a,b)",
    ]


def test_the_key_is_sent_and_never_shown(
    server: RewardServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REWARD_KEY", KEY)
    # requests would prefer the entry of a netrc file to a header that is set by hand.
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password thief\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.react = Script(GOOD, Reaction(status=401, raw=f"wrong key {KEY} given".encode()))
    client = RewardClient(make_settings(server.url, api_key_env="REWARD_KEY"))
    with caplog.at_level(logging.DEBUG):
        client.check()
        client.ask([], "x: [y]")
        with pytest.raises(RewardServerError, match=r"wrong key \*\*\* given"):
            client.ask([], "x: [y]")
    sent = [headers.get("Authorization") for headers in (server.listed[0], *(one.headers for one in server.asked))]
    assert sent == [f"Bearer {KEY}"] * 3
    assert KEY not in caplog.text
    assert KEY not in json.dumps([asked.body for asked in server.asked])


def test_a_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REWARD_KEY", raising=False)
    with pytest.raises(ValueError, match=r"reward\.api_key_env = REWARD_KEY: this variable is not set"):
        RewardClient(make_settings("http://127.0.0.1:1", api_key_env="REWARD_KEY"))


def test_a_proxy_of_the_environment_is_not_asked_about_this_machine(
    server: RewardServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert RewardClient(make_settings(server.url)).ask([], "x: [y]").text == "fine"
