"""A server that takes its time, or sends without end: every attempt ends, and holds little."""

import asyncio
import random
import socket
import threading
import time
import tracemalloc
import zlib

import pytest

from medscope_jax.rl import EndpointConfig
from medscope_jax.rl.chat import complete, in_a_loop, open_client
from medscope_jax.rl.chat_reply import AttemptFailed
from tests.rl.endpoint_server import completion
from tests.rl.raw_server import RawServer

TIMEOUT_S = 0.3
HANG_S = 20.0  # more is a hang, also on a busy machine
GOOD = completion("fine").encode()
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b"%x\r\n%s\r\n0\r\n" % (len(GOOD), GOOD)
MEBIBYTE = b" " * (1 << 20)
NO_PAUSE = {"pause_s": 0.0}


def drips(first, piece, **options):
    return lambda server, connection: server.drip(connection, first, piece, **options)


def sends(data):
    return lambda server, connection: server.send(connection, data)


def waits(server, connection):
    server.over.wait(60)


SLOW = {
    "nothing": waits,
    "status line": drips(b"HTTP/1.1 200 ", b"O"),
    "headers": drips(OK + b"X: ", b"a"),
    "many headers": drips(OK, b"X: a\r\n"),
    "100-continue": drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "100-continue, fast": drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 500, **NO_PAUSE),
    "103, with headers": drips(
        b"", b"HTTP/1.1 103 \r\nX: " + b"a" * 9000 + b"\r\n\r\n", **NO_PAUSE
    ),
    "body": drips(OK + b"Content-Length: 9999\r\n\r\n", b" "),
    "body without a length": drips(OK + b"\r\n", b" "),
    "chunks": drips(CHUNKED, b"1\r\n \r\n"),
    "chunk's size": drips(CHUNKED, b"0"),
    "chunk's extension": drips(CHUNKED + b"1;", b"a"),
    "trailers": drips(CHUNKED + BODY, b"X: a\r\n"),
    "a trailer": drips(CHUNKED + BODY + b"X: ", b"a"),
    "an error's body": drips(b"HTTP/1.1 500 no\r\nContent-Length: 9999\r\n\r\n", b" "),
    "a redirect's body": drips(
        b"HTTP/1.1 302 no\r\nLocation: /\r\nContent-Length: 99\r\n\r\n", b""
    ),
}
ENDLESS = {
    "status line": drips(b"HTTP/1.1 200 ", MEBIBYTE, **NO_PAUSE),
    "header": drips(OK + b"X: ", MEBIBYTE, **NO_PAUSE),
    "headers": drips(OK, b"X: a\r\n" * 9999, **NO_PAUSE),
    "body": drips(OK + b"\r\n", MEBIBYTE, **NO_PAUSE),
    "body with a length": drips(OK + b"Content-Length: 99999999999\r\n\r\n", MEBIBYTE, **NO_PAUSE),
    "chunks": drips(CHUNKED, b"100000\r\n" + MEBIBYTE + b"\r\n", **NO_PAUSE),
    "chunk's extension": drips(CHUNKED + b"1;", MEBIBYTE, **NO_PAUSE),
    "trailers": drips(CHUNKED + BODY, b"X: a\r\n" * 9999, **NO_PAUSE),
    "an error's body": drips(b"HTTP/1.1 500 no\r\n\r\n", MEBIBYTE, **NO_PAUSE),
}
BOMB = zlib.compressobj(wbits=31)
BOMB = BOMB.compress(b"\0" * (64 << 20)) + BOMB.flush()
ODD = {
    "nothing at all": sends(b""),
    "no HTTP": sends(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "noise": sends(random.Random(0).randbytes(5000)),
    "HTTP/0.9": sends(GOOD),
    "another protocol": sends(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + GOOD),
    "no content": sends(b"HTTP/1.1 204 None\r\n\r\n"),
    "status 999": sends(b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n"),
    "a length below zero": sends(OK + b"Content-Length: -1\r\n\r\n" + GOOD),
    "two lengths": sends(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n" + GOOD),
    "a length of letters": sends(OK + b"Content-Length: all\r\n\r\n" + GOOD),
    "a chunk of letters": sends(CHUNKED + b"zz\r\n"),
    "cut within a chunk": sends(CHUNKED + b"ff\r\n{"),
    "a broken address": sends(
        b"HTTP/1.1 302 \r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n"
    ),
    "zeros in a header": sends(OK + b"X: a\0b\r\n\r\n" + GOOD),
    "a bomb": sends(OK + b"Content-Encoding: gzip\r\n\r\n" + BOMB),
    "cookies": sends(OK + b"Set-Cookie: " + b"a=b;expires=" * 5000 + b"\r\n\r\n["),
    "not UTF-8": sends(OK + b'\r\n{"choices": "\xff\xfe"}'),
    "half an emoji": sends(OK + b'\r\n{"error": "\\ud83d"}'),
    "deep": sends(OK + b"\r\n" + b'{"error":' * 99_999),
}


def attempt(url, body=b"{}", timeout_s=TIMEOUT_S):
    """(what one attempt gives, or its AttemptFailed; seconds)"""
    config = EndpointConfig(url, "model", key_variable="", timeout_s=timeout_s)

    async def work():
        async with open_client(config) as client:
            begin = time.monotonic()
            try:
                found = await complete(client, config, body)
            except AttemptFailed as error:
                found = error
            return found, time.monotonic() - begin

    return in_a_loop(work())


@pytest.fixture
def serve():
    servers = []

    def start(play, **options):
        servers.append(RawServer(play, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize("name", SLOW)
def test_one_clock_bounds_all_of_an_attempt(serve, name):
    found, seconds = attempt(serve(SLOW[name]).url)
    assert isinstance(found, AttemptFailed) and "timed out" in str(found)
    assert TIMEOUT_S * 0.9 < seconds < HANG_S


def test_a_server_that_does_not_read_is_bounded_too(serve):
    found, seconds = attempt(serve(waits, read=False).url, body=MEBIBYTE * 16)
    assert "timed out" in str(found) and seconds < HANG_S


def test_the_look_up_of_a_name_is_bounded_too(monkeypatch):
    """Which runs in a thread that nothing can stop: nobody waits for it."""
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(60))
    monkeypatch.setenv("no_proxy", "*")
    begin = time.monotonic()
    found, _ = attempt("http://model.invalid/v1")
    assert "timed out" in str(found) and time.monotonic() - begin < HANG_S
    over.set()


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_not_read_to_it(serve, name):
    """What a server sends is not kept: no more than its largest part, several times."""
    server = serve(ENDLESS[name])
    attempt(server.url)  # what is made once
    tracemalloc.start()
    found, seconds = attempt(server.url, timeout_s=5.0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(found, AttemptFailed) and str(found).isprintable()
    assert "timed out" not in str(found) and seconds < HANG_S
    assert most < 8 << 20


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_one_line(serve, name):
    found, seconds = attempt(serve(ODD[name]).url, timeout_s=5.0)
    assert isinstance(found, AttemptFailed)
    assert str(found).isprintable() and len(str(found)) < 300 and seconds < HANG_S


def test_a_slow_server_holds_nobody_else_up(serve):
    """Within the same client and loop."""
    slow, good = serve(SLOW["headers"]), serve(sends(OK + b"\r\n" + GOOD))

    async def work():
        slow_config = EndpointConfig(slow.url, "model", key_variable="", timeout_s=1.0)
        config = EndpointConfig(good.url, "model", key_variable="", timeout_s=HANG_S)
        async with open_client(config) as client:
            held = [asyncio.create_task(complete(client, slow_config, b"{}")) for _ in range(20)]
            found = await complete(client, config, b"{}")
            assert not any(task.done() for task in held)
            await asyncio.gather(*held, return_exceptions=True)
            return found, [str(task.exception()) for task in held]

    found, errors = in_a_loop(work())
    assert found.text == "fine" and errors == ["timed out after 1 s"] * 20
