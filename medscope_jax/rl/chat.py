"""A model behind an OpenAI-compatible chat endpoint: the one client of judge and synthesis.

`complete` is one attempt at one request, `persist` has patience. What a server may do:

- take time: one clock bounds an attempt, from the name's look-up to the last byte of the trailers;
- send much: at most 1 MiB of a body is read, of headers at most 100 KiB (the HTTP library's limit);
- send elsewhere: redirects are not followed, the key would go along;
- repeat the key: no message, log line or answer shows it (chat_reply.hidden).

Proxies are the environment's (HTTPS_PROXY, NO_PROXY, ...), but an endpoint on this machine is asked
directly: a proxy would be given its key.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import http.cookiejar
import logging
import os
import random
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TypeVar

import httpx2

from medscope_jax.errors import UserError, one_line
from medscope_jax.rl.chat_config import EndpointConfig, is_local, key_of
from medscope_jax.rl.chat_reply import (
    AttemptFailed,
    Completion,
    error_words,
    may_pass,
    quoted,
    read_completion,
    retry_after,
)

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_MAX_REPLY_BYTES = 1 << 20
_LONGEST_BACKOFF_S = 60.0
# They log what servers send, at levels below this: a server's header may repeat the key.
for _name in ("httpx2", "httpcore2"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@functools.cache  # each is said once
def _warn_of_plain_text(host: str, variable: str) -> None:
    _LOG.warning(
        "the key in %s goes to %s as plain text, which everyone on the way can read: use https://",
        variable,
        host,
    )


@functools.cache  # it reads hundreds of certificates
def _tls() -> ssl.SSLContext:
    try:
        return httpx2.create_ssl_context()
    except OSError as error:
        raise UserError(
            f"the certificates that SSL_CERT_FILE or SSL_CERT_DIR names can't be used "
            f"({one_line(error)}): mend or unset it"
        ) from error


@contextlib.asynccontextmanager
async def open_client(config: EndpointConfig) -> AsyncIterator[httpx2.AsyncClient]:
    """The HTTP client for requests to an endpoint, with its headers; see the module for proxies.

    Raises:
      UserError: the key can't be sent, or the environment's proxies are no addresses.
    """
    key, parts = key_of(config), httpx2.URL(config.address)
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
        if parts.scheme == "http" and not is_local(parts.host):
            _warn_of_plain_text(parts.host, config.key_variable)
    certificates = _tls()
    try:
        client = httpx2.AsyncClient(
            headers=headers,
            verify=certificates,
            timeout=None,  # `complete` has one clock for all
            # A connection an attempt, and no cookies: none inherits what another has left.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
            cookies=http.cookiejar.CookieJar(
                http.cookiejar.DefaultCookiePolicy(allowed_domains=())
            ),
            trust_env=not is_local(parts.host),
        )
    except (ValueError, ImportError, httpx2.InvalidURL) as error:  # may show a proxy's password
        raise UserError(
            f"the proxy that the environment names for {parts.host} can't be used "
            f"({type(error).__name__}): it must be http:// or https://"
        ) from None
    async with client:
        yield client


async def complete(client: httpx2.AsyncClient, config: EndpointConfig, body: bytes) -> Completion:
    """Sends one request, once, and waits for its answer, config.timeout_s in all.

    Args:
      client: from open_client.
      config: where to; attempts, backoff_s and workers are the caller's business.
      body: a chat completion request, JSON.

    Raises:
      AttemptFailed: time-out, dropped connection, a status of 300 or more, a reply that is no chat
        completion or an error. Worth another attempt unless the status says otherwise (see
        chat_reply.may_pass), or the reply is far too large, or repeats the key.
    """
    key = key_of(config)
    try:
        async with asyncio.timeout(config.timeout_s):
            async with client.stream("POST", config.address, content=body) as response:
                reply = await _body(response)
    except TimeoutError:
        raise AttemptFailed(f"timed out after {config.timeout_s:g} s") from None
    except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError, ValueError) as error:
        # The library's own text may quote what the server sent.
        if known := _system_words(error):
            raise AttemptFailed(f"connection failed: {known}") from None
        words = quoted(str(error), key) or type(error).__name__
        raise AttemptFailed("connection failed", words) from None
    status = response.status_code
    if status >= 300:
        words = error_words(reply, key)
        if status < 400:
            words = "redirects are not followed: give the address that it leads to"
        wait_s = retry_after(response.headers.get("Retry-After", ""))
        raise AttemptFailed(f"HTTP status {status}", words, may_pass(status), status, wait_s)
    return read_completion(reply, key)


async def _body(response: httpx2.Response) -> bytes:
    """A reply's body, as it is sent: compressed ones, which may grow without end, are refused."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise AttemptFailed("reply is compressed, which was not asked for", again=False)
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > _MAX_REPLY_BYTES:
            raise AttemptFailed(f"reply is larger than {_MAX_REPLY_BYTES} bytes", again=False)
    return bytes(data)


def _system_words(error: BaseException | None) -> str:
    """What the system says of the error that this one comes from: "Connection refused"; or ""."""
    while error is not None:
        if isinstance(error, (ssl.SSLError, socket.gaierror)):  # whose numbers are their own
            return quoted(error.strerror or str(error))
        if isinstance(error, OSError) and error.errno:
            return os.strerror(error.errno)
        error = error.__cause__ or error.__context__
    return ""


async def persist(
    client: httpx2.AsyncClient,
    config: EndpointConfig,
    body: bytes,
    read: Callable[[Completion], T],
) -> tuple[T, int]:
    """What `read` makes of an answer, and how many attempts failed before it.

    Attempts that may fare better are made again, config.attempts in all, after a wait that doubles
    and is a little random (what failed together does not come back together), or as long as the
    server asks for.

    Args:
      read: may raise AttemptFailed, too: an answer of no use.

    Raises:
      AttemptFailed: the last attempt's.
    """
    for attempt in range(config.attempts):
        try:
            return read(await complete(client, config, body)), attempt
        except AttemptFailed as error:
            error.attempts = attempt + 1
            last = error.attempts == config.attempts or not error.again
            if last or error.wait_s > config.longest_wait_s:
                raise
            backoff = min(config.backoff_s * 2**attempt, _LONGEST_BACKOFF_S)
            await asyncio.sleep(max(backoff, error.wait_s) + backoff * random.random())
    raise AssertionError("attempts is at least 1")


def in_a_loop(work: Coroutine[None, None, T]) -> T:
    """What a coroutine gives, run in an event loop on a thread of its own.

    A notebook has a loop running already; and neither Ctrl-C nor an exit waits for this one, or for
    a look-up of a name, which can't be stopped.
    """
    loop = asyncio.new_event_loop()
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
    task = loop.create_task(work)

    def run() -> None:
        try:
            outcome.set_result(loop.run_until_complete(task))
        except BaseException as error:
            outcome.set_exception(error)
        finally:
            loop.close()

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcome.result()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(task.cancel)
        raise
