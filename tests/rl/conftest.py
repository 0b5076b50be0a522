"""A judge's endpoint that answers as a test says."""

import threading

import pytest

from medscope_jax.rl import EndpointConfig
from tests.rl.endpoint_server import Server

KEY = "secret-value"


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(*script):
        server = Server(script)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        config = EndpointConfig(
            f"http://127.0.0.1:{server.server_port}/v1",
            "judge-model",
            key_variable="JUDGE_KEY",
            timeout_s=0.5,
            attempts=3,
            backoff_s=0.01,
        )
        return server, config

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
