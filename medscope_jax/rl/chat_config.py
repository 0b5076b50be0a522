"""Where a chat endpoint is and what may be sent there: address, key, names of this machine."""

import dataclasses
import ipaddress
import math
import os
import socket
import urllib.parse

import httpx2

from medscope_jax.errors import UserError
from medscope_jax.rl.chat_reply import hidden
from medscope_jax.visible import shown


@dataclasses.dataclass(frozen=True)
class EndpointConfig:
    """Where and how to ask a model.

    Attributes:
      url: base address such as "https://host/v1" ("/chat/completions" is appended).
      model: name of the model to ask.
      key_variable: environment variable that holds the key ("" or unset: none is sent).
      timeout_s: seconds that one attempt may take.
      attempts: how often a request is tried in all.
      backoff_s: wait before the second attempt; it doubles each time, up to one minute.
      workers: requests in flight at once.
      name: what messages call the model.
      longest_wait_s: a server that asks for a longer wait (Retry-After) is not asked again.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    timeout_s: float = 30.0
    attempts: int = 4
    backoff_s: float = 1.0
    workers: int = 8
    name: str = "judge"
    longest_wait_s: float = 120.0

    def __post_init__(self):
        try:
            parts = urllib.parse.urlsplit(self.url)
            httpx2.URL(self.address, port=parts.port)  # which may be beyond 65535
        except (ValueError, httpx2.InvalidURL):
            raise UserError(f"{self.name} url is no address") from None
        if "@" in parts.netloc or parts.query:  # what may be a password is not repeated
            raise UserError(
                f"{self.name} url must hold no user, password or query; the key goes into the "
                f"environment variable {self.key_variable or 'that key_variable names'}"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
            raise UserError(
                f'{self.name} url "{shown(self.url)}" must start with http:// or https:// and '
                "name a host"
            )
        seconds = (self.timeout_s, self.backoff_s, self.longest_wait_s)
        if self.attempts < 1 or self.workers < 1 or not all(map(math.isfinite, seconds)):
            raise UserError(f"{self.name} needs attempts, workers >= 1, and finite times")
        if self.timeout_s <= 0 or self.backoff_s < 0 or self.longest_wait_s < 0:
            raise UserError(f"{self.name} needs timeout_s > 0, backoff_s, longest_wait_s >= 0")

    @property
    def address(self) -> str:
        """Where requests go."""
        return self.url.rstrip("/") + "/chat/completions"


def is_local(host: str) -> bool:
    """Whether a host is this machine: localhost, 127.0.0.0/8, ::1, or the unspecified address."""
    host = host.removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:  # 127.1 and 0x7f000001 are addresses, too
            address = ipaddress.ip_address(socket.inet_aton(host))
        except (OSError, ValueError):
            return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def key_of(config: EndpointConfig) -> str:
    """The key in the environment, less white space around it; "" if there is none.

    Raises:
      UserError: a header can't hold it; does not show it.
    """
    key = os.environ.get(config.key_variable, "").strip() if config.key_variable else ""
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            f"the key in {config.key_variable} holds characters that no header can: set it anew, "
            "on one line and without anything around it"
        )
    return key


def told(config: EndpointConfig, text: str) -> str:
    """A message without the key, whoever put it there."""
    return hidden(text, key_of(config))
