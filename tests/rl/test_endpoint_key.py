"""Where a judge's requests go, and who sees the key: the endpoint, and nobody else."""

import asyncio
import dataclasses
import logging
import math
from pathlib import Path

import pytest

from medscope_jax.errors import UserError
from medscope_jax.rl import EndpointConfig, judge_many
from medscope_jax.rl.chat import _tls
from medscope_jax.rl.chat_config import is_local
from tests.rl.endpoint_server import completion, judge_one

KEY = "secret-value"  # of conftest.serve
GOOD = (200, completion('{"score": 1}'))


@pytest.mark.parametrize(
    "url",
    ["host/v1", "ftp://host", "file:///etc/passwd", "http://", "http://h:99999", "http://h/#x"],
)
def test_only_http_addresses(url):
    with pytest.raises(UserError, match="judge url"):
        EndpointConfig(url, "model")


@pytest.mark.parametrize(
    "change", [{"timeout_s": math.nan}, {"timeout_s": 0}, {"backoff_s": -1}, {"attempts": 0}]
)
def test_limits_that_bound_nothing_are_refused(change):
    with pytest.raises(UserError, match="judge needs"):
        EndpointConfig("http://host", "model", **change)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((host, True) for host in ("localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1")),
        *((host, True) for host in ("0.0.0.0", "::ffff:127.0.0.1", "127.1", "0x7f000001")),
        *((host, False) for host in ("localhost.org", "10.0.0.1", "::2", "127.0.0.1.org", "")),
    ],
)
def test_names_of_this_machine(host, local):
    assert is_local(host) is local


class Proxy:
    """A proxy that notes what it is asked, and answers itself."""

    def __init__(self, serve):
        self.server, config = serve(GOOD)
        self.url = config.url.removesuffix("/v1")

    @property
    def seen(self):
        return [headers.get("Authorization") for _, headers, _ in self.server.requests]


def test_no_proxy_sees_the_key_of_an_endpoint_on_this_machine(serve, monkeypatch, caplog):
    proxy = Proxy(serve)
    server, config = serve(GOOD)
    monkeypatch.delenv("no_proxy")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    for host in ("127.0.0.1", "localhost", "127.1"):
        url = config.url.replace("127.0.0.1", host)
        assert judge_one(dataclasses.replace(config, url=url), "q", "a", "r") == 1.0
    assert len(server.requests) == 3 and not proxy.seen and not caplog.text


def test_another_host_is_reached_through_the_proxy_with_a_warning(serve, monkeypatch, caplog):
    """A key over plain http is warned of, once; without a key, or over TLS, there is no reason."""
    proxy = Proxy(serve)
    _, config = serve(GOOD)
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", proxy.url)
    config = dataclasses.replace(config, url="http://model.invalid/v1", attempts=1)
    assert judge_one(dataclasses.replace(config, key_variable=""), "q", "a", "r") == 1.0
    assert not caplog.text
    for _ in range(2):
        assert judge_one(config, "q", "a", "r") == 1.0
    assert proxy.seen == [None, f"Bearer {KEY}", f"Bearer {KEY}"]
    assert caplog.text.count("goes to model.invalid as plain text") == 1
    monkeypatch.setenv("http_proxy", f"socks9://me:{KEY}@host")
    with pytest.raises(UserError, match="the proxy .* can't be used") as caught:
        judge_one(config, "q", "a", "r")
    assert KEY not in str(caught.value)


def test_certificates_that_are_none_are_one_line(serve, monkeypatch, tmp_path):
    _, config = serve(GOOD)
    for path in (tmp_path / "none.pem", Path(__file__)):
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        _tls.cache_clear()
        with pytest.raises(UserError, match="SSL_CERT_FILE .* can't be used .*: mend or unset it"):
            judge_one(config, "q", "a", "r")


@pytest.mark.parametrize("key", ["sk-with\nline-break", "sk-with\x7fdelete", "sk-ключ"])
def test_a_key_that_no_header_holds_is_one_line(serve, monkeypatch, key):
    server, config = serve(GOOD)
    monkeypatch.setenv("JUDGE_KEY", key)
    with pytest.raises(UserError, match="JUDGE_KEY holds characters") as caught:
        judge_one(config, "q", "a", "r")
    assert key[-4:] not in str(caught.value) and not server.requests


def test_no_cookie_is_kept(serve):
    """One that no header can hold would have every later request fail."""
    cookies = {"Set-Cookie": "a=b", "set-cookie": "c=\x85"}
    server, config = serve((200, GOOD[1], cookies))
    config = dataclasses.replace(config, workers=1)
    assert judge_many(config, [("q", f"a{n}", "r") for n in range(3)]) == [1.0] * 3
    assert not any("Cookie" in headers for _, headers, _ in server.requests)


def test_a_running_loop_is_no_hindrance(serve):
    """As in a notebook."""
    _, config = serve(GOOD)

    async def cell():
        return judge_one(config, "q", "a", "r")

    assert asyncio.run(cell()) == 1.0


def test_a_key_in_the_servers_headers_is_not_logged(serve, caplog):
    caplog.set_level(logging.DEBUG)

    def echo(handler):
        handler.send_response(200, f"OK {KEY}")
        handler.send_header("X-Key", KEY)
        handler.send_header("Set-Cookie", f"key={KEY}")
        handler.send_header("Content-Length", str(len(GOOD[1])))
        handler.end_headers()
        handler.wfile.write(GOOD[1].encode())

    _, config = serve(echo)
    assert judge_one(config, "q", "a", "r") == 1.0
    assert KEY not in caplog.text
