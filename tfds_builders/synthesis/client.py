"""Asking a model behind an endpoint: few at a time, with patience, and never twice the same."""

import asyncio
import hashlib
import logging
import time

import httpx2

from medscope_jax.errors import UserError
from medscope_jax.rl.chat import persist
from medscope_jax.rl.chat_config import EndpointConfig
from medscope_jax.rl.chat_reply import AttemptFailed, Completion
from tfds_builders.synthesis.items import AskFailed, Reply, Request
from tfds_builders.synthesis.journal import Journal
from tfds_builders.synthesis.settings import SynthesisConfig
from tfds_builders.synthesis.wire import request_body

_LOG = logging.getLogger(__name__)
# Statuses that every other request would get as well: no such address, model or key, no money.
_HOPELESS = frozenset((*range(300, 400), 401, 402, 404, 405))
# Those of a request that is wrong in itself: too long, or malformed; 0: its reply is of no use.
_IN_ITSELF = (0, 400, 413, 422)


class Client:
    """An `ask` over an endpoint.

    At most endpoint.workers requests are in flight, waits between attempts included: a server that
    asks for patience is not asked something else meanwhile. Answers go into the journal before
    anyone sees them; a request that is in it, or that was asked in this run, is not sent. Why the
    first request of a kind failed is a warning, in the server's words where it has any.

    So many failed requests in a row (failures) end the run, and a status that every request would
    get does so at once, as long as nothing was ever answered. Requests that are wrong in themselves
    count until there was a first answer. Nothing that was answered is lost.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        endpoint: EndpointConfig,
        journal: Journal,
        config: SynthesisConfig,
        failures: int = 20,
    ):
        self._http, self._endpoint, self._journal = http, endpoint, journal
        self._config, self._most_failures = config, failures
        self._slots = asyncio.Semaphore(endpoint.workers)
        self._answers: dict[str, asyncio.Future[Reply]] = {}
        self._failures, self._answered = 0, False
        self._said: set[str] = set()

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
        endpoint = self._endpoint
        try:
            return await persist(self._http, endpoint, body, lambda completion: completion)
        except AttemptFailed as error:
            if error.status in _HOPELESS and not (self._answered or self._journal):
                raise UserError(f"{endpoint.name} {endpoint.model}: {error}") from None
            self._give_up(error)
            seconds = time.monotonic() - began
            raise AskFailed(error.reason, error.attempts - 1, seconds) from None

    def _give_up(self, error: AttemptFailed) -> None:
        """Counts a failed request; UserError if it is one too many in a row."""
        if error.reason not in self._said:
            self._said.add(error.reason)
            _LOG.warning("%s %s: %s", self._endpoint.name, self._endpoint.model, error)
        # A request that is wrong in itself says nothing of others, unless none is right.
        in_itself = not error.again and error.status in _IN_ITSELF
        self._failures += not (in_itself and self._answered)
        if self._failures >= self._most_failures:
            raise UserError(
                f"{self._failures} requests in a row failed, the last with: {error}; what was "
                "answered is kept: run the same command again once the endpoint is well"
            ) from None
