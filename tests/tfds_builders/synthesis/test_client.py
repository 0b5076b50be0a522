"""Asking a server that misbehaves: each fault ends in the answer or in a counted drop."""

import asyncio
import json
import socket
import struct
import types

import pytest

from medscope_jax.errors import UserError
from tests.tfds_builders.synthesis.request_cases import request
from tfds_builders.synthesis.items import AskFailed, Clip
from tfds_builders.synthesis.pipeline import Tally, metered
from tfds_builders.synthesis.settings import SynthesisConfig
from tfds_builders.synthesis.stages import caption

KEY = "sk-not-to-be-seen-anywhere"
CONFIG = SynthesisConfig()


def hang(handler):
    handler.server.over.wait(60)


def trickle(handler):
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.over.wait(0.05):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def reset(handler):
    """Closes so that the client gets a reset, not an end."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()


def cut_short(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"message"')


NO_CHOICES = (200, json.dumps({"choices": []}))
FAULTS = {
    "slow": hang,
    "trickle": trickle,
    "rate limit": (429, "", {"Retry-After": "0.05"}),
    "server error": (500, "oops"),
    "broken JSON": (200, '{"choices": ['),
    "truncated": cut_short,
    "no choices": NO_CHOICES,
    "reset": reset,
}
# How long an attempt may take; where nothing waits for its end, a slow machine has time.
IN_TIME = {"slow": {"timeout_s": 1.0}, "trickle": {"timeout_s": 1.0}}


def once(ask):
    return ask(request())


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_passes_is_tried_again(serve, session, name):
    server = serve(faults=[FAULTS[name]])
    reply = session(server, once, attempts=9, **IN_TIME.get(name, {}))
    assert json.loads(reply.text) == {"answer": "unknown"}
    assert (reply.prompt_tokens, reply.completion_tokens) == (100, 7)
    # A busy machine may take longer than the hurry allows for the good answer, too.
    assert reply.retries >= 1 if name in IN_TIME else reply.retries == 1
    assert server.keys == [server.keys[0]] * (1 + reply.retries)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("slow", "timed out"),
        ("rate limit", "HTTP status 429"),
        ("server error", "HTTP status 500"),
        ("broken JSON", "no chat completion"),
        ("truncated", "connection failed"),
        ("no choices", "no chat completion"),
        ("reset", "reset"),
    ],
)
def test_a_fault_that_stays_is_a_counted_drop(serve, session, footage, name, reason):
    server = serve(faults=[FAULTS[name]] * 3)
    tally = Tally()

    async def work(ask):
        return await caption([Clip(footage, 0.0, 9.0)], metered(ask, tally), CONFIG)

    outcome = session(server, work, **IN_TIME.get(name, {}))
    assert not outcome.kept
    assert [reason in drop.reason for drop in outcome.drops] == [True]
    assert outcome.drops[0].reason.startswith("endpoint: ")
    assert (tally.failed, tally.retries, tally.requests) == (1, 2, 0)
    assert len(server.keys) == 3


def test_a_failed_request_is_asked_again_by_the_next_run(serve, session):
    server = serve(faults=[(500, "")] * 3)
    with pytest.raises(AskFailed):
        session(server, once)
    assert session(server, once).origin == "asked"


def test_retry_after_is_waited_for(serve, session):
    server = serve(faults=[(429, "", {"Retry-After": "0.4"})])
    session(server, once)
    assert server.moments[1] - server.moments[0] >= 0.4


def test_backoff_doubles(serve, session):
    server = serve(faults=[(503, "")] * 3)
    session(server, once, attempts=4, backoff_s=0.1)
    waits = [b - a for a, b in zip(server.moments, server.moments[1:], strict=False)]
    assert all(low <= wait for wait, low in zip(waits, (0.1, 0.2, 0.4), strict=True))


def test_a_retry_after_beyond_patience_is_not_waited_for(serve, session):
    server = serve(faults=[(429, "", {"Retry-After": "3600"})])
    with pytest.raises(AskFailed, match="429"):
        session(server, once)
    assert len(server.keys) == 1


def test_a_bad_request_is_sent_once_and_ends_nothing(serve, session):
    server = serve(faults=[None, (400, "too long"), None])

    async def work(ask):
        await ask(request(0))
        with pytest.raises(AskFailed, match="400"):
            await ask(request(1))
        return await ask(request(2))

    session(server, work, failures=1)
    assert len(server.keys) == 3


def test_requests_that_are_all_bad_end_the_run(serve, session):
    server = serve(faults=[(400, "no such field")] * 9)

    async def work(ask):
        return await asyncio.gather(*(ask(request(n)) for n in range(9)), return_exceptions=True)

    errors = session(server, work, failures=3, workers=1)
    assert [isinstance(error, AskFailed) for error in errors[:3]] == [True, True, False]
    assert "3 requests in a row failed, the last with: HTTP status 400" in str(errors[2])


@pytest.mark.parametrize("status", [301, 401, 402, 404])
def test_what_every_request_would_meet_ends_the_run(serve, session, status):
    server = serve(faults=[(status, KEY)])
    with pytest.raises(UserError, match=str(status)) as caught:
        session(server, once)
    assert not isinstance(caught.value, AskFailed) and KEY not in str(caught.value)
    assert len(server.keys) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_after_an_answer_one_such_status_ends_nothing(serve, session, caplog, status):
    """A filter may send it of one content; many in a row end the run. Says the words, too."""
    body = json.dumps({"error": {"message": f"not\nso, {KEY}"}})
    server = serve(faults=[None, (status, body), None, *[(status, body)] * 3])

    async def work(ask):
        for number in range(6):
            try:
                await ask(request(number))
            except AskFailed as failure:
                assert str(failure) == f"endpoint: HTTP status {status}"

    with pytest.raises(
        UserError, match="3 requests in a row failed, .*: not so, \\*\\*\\*; what was"
    ):
        session(server, work, failures=3)
    assert len(server.keys) == 6
    assert caplog.text.count(f"HTTP status {status}: not so, ***") == 1  # for all of its kind

    # What the journal holds counts as answered: the run can be finished.
    server.faults = [(status, body)]
    server.keys.clear()
    with pytest.raises(AskFailed):
        session(server, lambda ask: ask(request(9)))


def test_an_error_in_place_of_an_answer_is_one(serve, session):
    server = serve(faults=[(200, json.dumps({"error": {"message": "busy", "code": 429}}))])
    assert session(server, once).retries == 1


def test_an_endpoint_that_is_gone_ends_the_run(serve, session):
    server = serve()
    server.shutdown()
    server.server_close()

    async def work(ask):
        for number in range(9):
            try:
                await ask(request(number))
            except AskFailed:
                continue
        raise AssertionError("all failed, and nobody minded")

    with pytest.raises(UserError, match="4 requests in a row failed"):
        session(server, work, failures=4)


def test_the_server_never_sees_more_at_once_than_allowed(serve, session):
    server = serve(delay_s=0.05)

    async def work(ask):
        return await asyncio.gather(*(ask(request(n)) for n in range(12)))

    session(server, work, workers=3)
    assert len(server.keys) == 12 and server.most == 3


def test_a_request_is_sent_once_however_often_it_is_asked(serve, session):
    server = serve(delay_s=0.05)

    async def work(ask):
        return await asyncio.gather(*(once(ask) for _ in range(5)))

    replies = session(server, work)
    assert len(server.keys) == 1 and len({reply.text for reply in replies}) == 1
    assert sorted(reply.origin for reply in replies) == ["asked"] + ["repeated"] * 4
    assert sum(reply.prompt_tokens for reply in replies) == 100

    later = session(server, once)
    assert len(server.keys) == 1
    assert (later.origin, later.prompt_tokens, later.text) == ("journal", 100, replies[0].text)


def test_the_key_is_sent_and_nowhere_else(serve, session, tmp_path, capfd):
    echo = (200, json.dumps({"choices": [{"message": {"content": f"your key: {KEY}"}}]}))
    server = serve(faults=[None, echo, (400, KEY), (500, KEY), (500, KEY), (500, KEY)])

    async def work(ask):
        await ask(request(0))
        for number in (1, 2, 3):
            with pytest.raises(AskFailed) as caught:
                await ask(request(number))
            assert KEY not in str(caught.value)

    session(server, work)
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert KEY not in (tmp_path / "journal.jsonl").read_text()
    assert KEY not in "".join(capfd.readouterr())


@pytest.mark.parametrize("url", ["http://me:hunter2@host/v1", "http://host/v1?key=hunter2"])
def test_an_address_holds_no_secret(endpoint_of, url):
    with pytest.raises(UserError, match="environment") as caught:
        endpoint_of(types.SimpleNamespace(url=url))
    assert "hunter2" not in str(caught.value)


def test_a_key_that_no_header_holds_is_not_shown(serve, session, monkeypatch):
    server = serve()
    monkeypatch.setenv("SYNTHESIS_KEY", "sk-with\nline-break")
    with pytest.raises(UserError, match="SYNTHESIS_KEY") as caught:
        session(server, once)
    assert "line-break" not in str(caught.value)
