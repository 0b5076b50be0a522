"""The endpoint judge against a local server that misbehaves in every way we thought of."""

import json
import threading
import time

import pytest

from medscope_jax.rl import EndpointConfig, JudgeError, endpoint_judge, judge_many
from tests.rl.endpoint_server import Server, completion

KEY = "secret-value"


def trickle(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def hang(handler):
    time.sleep(1.5)


def hang_up(handler):
    handler.connection.close()


def cut_short(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')


def flood(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(64):
        handler.wfile.write(b" " * 65536)


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"score": 1}', 1.0),
        ('{"score": 0.5}', 0.5),
        ('```json\n{"score": 0.0, "why": "wrong"}\n```', 0.0),
        ('{"score": "1"}', 1.0),
        (" 0.5\n", 0.5),
        ("1.", 1.0),
    ],
)
def test_scores(serve, text, expected):
    server, config = serve((200, completion(text)))
    assert endpoint_judge(config, "How many?", "two", "three") == expected
    path, headers, request = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert request["model"] == "judge-model"
    content = json.loads(request["messages"][1]["content"])
    assert content == {"question": "How many?", "reference": "three", "answer": "two"}


GOOD = (200, completion('{"score": 1}'))


@pytest.mark.parametrize(
    "failure",
    [
        (500, "oops"),
        (503, "", {"Retry-After": "0.01"}),
        (429, "", {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
        (408, ""),
        (200, "not json"),
        (200, "[" * 100_000),
        (200, "[]"),
        (200, json.dumps({"choices": []})),
        (200, json.dumps({"choices": [{"message": {"content": None}}]})),
        (200, completion("It is quite good.")),
        (200, completion('{"score": 0.7}')),
        (200, completion('{"score": 1} or {"score": 0}')),
        trickle,
        hang,
        hang_up,
        cut_short,
    ],
    ids=lambda step: step.__name__ if callable(step) else f"{step[0]}-{step[1][:12]}",
)
def test_failures_that_pass_are_tried_again(serve, failure):
    server, config = serve(failure, GOOD)
    assert endpoint_judge(config, "q", "a", "r") == 1.0
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("failure", "requests", "reason"),
    [
        ((500, "oops\nagain"), 3, "HTTP status 500"),
        ((401, KEY), 1, "HTTP status 401"),
        ((404, ""), 1, "HTTP status 404"),
        ((302, "", {"Location": "http://127.0.0.1:9/v1"}), 1, "HTTP status 302"),
        ((200, completion("well\nwell")), 3, "no single score in 'well well'"),
        (flood, 1, "larger than"),
        (hang, 3, "timed out"),
    ],
)
def test_failures_that_stay_are_one_line(serve, failure, requests, reason):
    server, config = serve(failure)
    with pytest.raises(JudgeError, match=reason) as caught:
        endpoint_judge(config, "q", "a", "r")
    message = str(caught.value)
    assert "\n" not in message and KEY not in message and "judge-model" in message
    assert len(server.requests) == requests


def test_nobody_listens(serve):
    server, config = serve(GOOD)
    server.shutdown()
    server.server_close()
    with pytest.raises(JudgeError, match="after 3 attempt"):
        endpoint_judge(config, "q", "a", "r")


def test_many_keep_their_order_and_skip_empty_answers(serve):
    def grade(handler):
        """Right if the answer is the question: the order of the scores then shows."""
        content = json.loads(handler.body["messages"][1]["content"])
        right = content["answer"] == content["question"]
        handler.reply(200, completion(json.dumps({"score": int(right)})))

    server, config = serve(grade)
    triples = [("q", "q", "r"), ("q", "  ", "r"), ("q", "a", "r"), ("p", "p", "r")] * 3
    assert judge_many(config, triples) == [1.0, 0.0, 0.0, 1.0] * 3
    assert len(server.requests) == 9


def test_one_failure_stops_the_batch(serve):
    _, config = serve((401, ""))
    with pytest.raises(JudgeError, match="401"):
        judge_many(config, [("q", "a", "r")] * 4)


@pytest.mark.parametrize("url", ["host/v1", "ftp://host", "file:///etc/passwd", "http://"])
def test_only_http_addresses(url):
    with pytest.raises(ValueError, match="http"):
        EndpointConfig(url, "model")
