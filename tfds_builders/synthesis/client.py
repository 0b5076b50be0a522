"""Asking a model behind an endpoint: few at a time, with patience, and never twice the same."""

import asyncio
import contextlib
import dataclasses
import hashlib
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from medscope_jax.errors import UserError
from medscope_jax.rl.endpoint import AttemptFailed, Completion, EndpointConfig, complete
from tfds_builders.synthesis.config import SynthesisConfig
from tfds_builders.synthesis.items import AskFailed, Reply, Request
from tfds_builders.synthesis.journal import Journal
from tfds_builders.synthesis.wire import request_body

# Statuses that every other request would get as well: no such address, model or right, no money.
_HOPELESS = frozenset((*range(300, 400), 401, 402, 403, 404, 405))
_LONGEST_BACKOFF_S = 60.0


@dataclasses.dataclass(frozen=True)
class Patience:
    """When a run gives up.

    Fields:
      longest_wait_s: a longer Retry-After is not waited for: the request fails.
      failures: so many failed requests in a row end the run; nothing that was answered is lost.
        Requests that are wrong in themselves (HTTP 400) count until there was a first answer.
    """

    longest_wait_s: float = 600.0
    failures: int = 20


class Client:
    """An `ask` over an endpoint.

    At most endpoint.workers requests are in flight, waits between attempts included: a server that
    asks for patience is not asked something else meanwhile. Answers go into the journal before
    anyone sees them; a request that is in it, or that was asked in this run, is not sent.
    """

    def __init__(
        self,
        endpoint: EndpointConfig,
        journal: Journal,
        config: SynthesisConfig,
        patience: Patience = Patience(),
    ):
        self._endpoint, self._journal = endpoint, journal
        self._config, self._patience = config, patience
        self._slots = asyncio.Semaphore(endpoint.workers)
        self._answers: dict[str, asyncio.Future[Reply]] = {}
        self._failures, self._answered = 0, False

    async def __call__(self, request: Request) -> Reply:
        """The answer to a request.

        Raises:
          AskFailed: it could not be had; the next run asks again.
          UserError: no request can be answered here (wrong key, address or model; server gone).
        """
        async with self._slots:
            # Encoded only now: bodies hold frames, and many requests wait.
            body = request_body(request, self._endpoint.model, self._config)
            key = hashlib.sha256(body).hexdigest()
            answer = self._answers.get(key)
            if answer is None:
                answer = asyncio.ensure_future(self._answer(key, request.kind, body))
                self._answers[key] = answer
                return await answer
            reply = await answer
            return Reply(reply.text, reply.refused, origin="repeated")

    async def _answer(self, key: str, kind: str, body: bytes) -> Reply:
        known = self._journal.get(key)
        if known is not None:
            return known
        began = time.monotonic()
        completion, retries = await self._persist(body, began)
        self._failures, self._answered = 0, True
        reply = Reply(
            completion.text,
            completion.refused,
            completion.prompt_tokens,
            completion.completion_tokens,
            retries,
            round(time.monotonic() - began, 3),
        )
        self._journal.add(key, kind, reply)
        return reply

    async def _persist(self, body: bytes, began: float) -> tuple[Completion, int]:
        """The completion, and how many attempts failed before it."""
        endpoint, retries = self._endpoint, 0
        while True:
            try:
                return await in_daemon(complete, endpoint, body), retries
            except AttemptFailed as error:
                if error.status in _HOPELESS:
                    raise UserError(f"{endpoint.name} {endpoint.model}: {error}") from None
                last = retries + 1 >= endpoint.attempts or not error.again
                if last or error.wait_s > self._patience.longest_wait_s:
                    self._give_up(error)
                    seconds = time.monotonic() - began
                    raise AskFailed(str(error), retries, seconds) from None
                backoff = min(endpoint.backoff_s * 2**retries, _LONGEST_BACKOFF_S)
                # Spread, so that what failed together does not come back together.
                wait = max(backoff, error.wait_s) + backoff * random.random()
            retries += 1
            await asyncio.sleep(wait)

    def _give_up(self, error: AttemptFailed) -> None:
        """Counts a failed request; UserError if it is one too many in a row."""
        # A request that is wrong in itself says nothing of others, unless none is right.
        self._failures += error.again or not self._answered
        if self._failures >= self._patience.failures:
            raise UserError(
                f"{self._failures} requests in a row failed, the last with: {error}; what was "
                "answered is kept: run the same command again once the endpoint is well"
            ) from None


async def in_daemon(function: Callable, *arguments: Any) -> Any:
    """What a blocking function gives or raises, on a thread that no exit has to wait for."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def settle(setter: Callable, value: Any) -> None:
        if not future.done():  # cancelled meanwhile
            setter(value)

    def work() -> None:
        try:
            outcome = future.set_result, function(*arguments)
        except BaseException as error:
            outcome = future.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=work, daemon=True).start()
    return await future
