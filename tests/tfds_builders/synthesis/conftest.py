"""A local endpoint that answers like a model and misbehaves as told, and recordings to work on."""

import asyncio
import hashlib
import http.server
import json
import re
import threading
import time

import cv2
import numpy as np
import pytest

from medscope_jax.rl.chat import open_client
from medscope_jax.rl.chat_config import EndpointConfig
from tfds_builders.synthesis.client import Client
from tfds_builders.synthesis.items import Footage, Frame, WrittenQuestion
from tfds_builders.synthesis.journal import open_journal
from tfds_builders.synthesis.settings import SynthesisConfig

KEY = "sk-not-to-be-seen-anywhere"


def completion(text, **fields):
    """The body of a chat completion."""
    usage = {"prompt_tokens": 100, "completion_tokens": 7}
    choice = {"message": {"content": text, **fields}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": usage})


def words_of(body):
    """All text of a request, and how many assistant turns it holds."""
    said = []
    for message in body["messages"]:
        content = message["content"]
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        said += [part["text"] for part in parts if part["type"] == "text"]
    return "\n".join(said), sum(m["role"] == "assistant" for m in body["messages"])


def fake_model(body):
    """What a model says: a function of the request alone, right wherever frames allow it.

    Its questions tell where their evidence begins: "What is item 12.0 of 1a2b?"
    """
    text, turns = words_of(body)
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()[:8]
    asked = re.search(r"What is item ([\d.]+) of (\w+)\?", text)
    if "Describe in time order" in text:
        return json.dumps({"caption": f"A step called {digest} of Käse."})
    if "Put clips together" in text:
        count = len(re.findall(r"^\d+\. \[", text, re.MULTILINE))
        events = [
            {"first": n, "last": n, "caption": f"Event {n} {digest}."} for n in range(1, count + 1)
        ]
        return "Here it is:\n```json\n" + json.dumps({"events": events}) + "\n```"
    if "Write at most" in text:
        start = float(re.search(r"event from ([\d.]+) s", text)[1])
        entry = {
            "task": "vqa",
            "question": f"What is item {start:.1f} of {digest}?",
            "answer": f"thing {digest}",
            "reason": f"I see thing {digest}.",
            "evidence": [[start, start + 2.0]],
        }
        return json.dumps({"questions": [entry]})
    start, name = float(asked[1]), asked[2]
    if "You cannot see it" in text:
        return json.dumps({"answer": "unknown"})
    if "video.mp4" in text:
        if turns:
            return f"<think>I see it.</think><answer>thing {name}</answer>"
        arguments = {"video_path": "video.mp4", "start_time": start, "end_time": start + 3}
        call = json.dumps({"name": "crop_video", "arguments": arguments})
        return f"<think>Near the middle.</think><tool_call>{call}</tool_call>"
    stamps = [float(s) for s in re.findall(r"<([\d.]+)s>", text)]
    seen = any(start <= s <= start + 2 for s in stamps)
    return json.dumps({"answer": f"thing {name}" if seen else "unknown"})


class FakeServer(http.server.ThreadingHTTPServer):
    """Answers with `answer(body)`; `faults[i]` is what the i-th request gets instead.

    A fault is (status, body), (status, body, headers), a function of the handler, or None. keys:
    hash of each request's bytes, in order; answered: how many got an answer; most: the most
    requests that were in work at a time. over: set when the test is.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer, faults=(), delay_s=0.0, on_answer=lambda count: None):
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.answer, self.faults, self.delay_s = answer, list(faults), delay_s
        self.on_answer = on_answer
        self.keys, self.bodies, self.headers, self.moments = [], [], [], []
        self.answered = self.busy = self.most = 0
        self.lock, self.over = threading.Lock(), threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """Clients that hang up are part of the test."""


class FakeHandler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        data = self.rfile.read(int(self.headers["Content-Length"]))
        with server.lock:
            number = len(server.keys)
            server.keys.append(hashlib.sha256(data).hexdigest())
            server.bodies.append(data)
            server.headers.append(dict(self.headers))
            server.moments.append(time.monotonic())
            server.busy += 1
            server.most = max(server.most, server.busy)
        answered = False
        try:
            time.sleep(server.delay_s)
            step = server.faults[number] if number < len(server.faults) else None
            if callable(step):
                step(self)
                return
            if step is None:
                step, answered = (200, completion(server.answer(json.loads(data)))), True
        finally:
            # Out of work before its reply is out: the client may send the next one at once.
            with server.lock:
                server.busy -= 1
        self.reply(*step)
        if answered:
            with server.lock:
                server.answered += 1
                count = server.answered
            server.on_answer(count)

    def reply(self, status, text, headers=None):
        data = text.encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        """Quiet."""


@pytest.fixture
def serve(monkeypatch):
    """(answer, faults, ...) -> a running FakeServer."""
    monkeypatch.setenv("SYNTHESIS_KEY", KEY)
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(answer=fake_model, faults=(), **options):
        server = FakeServer(answer, faults, **options)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.over.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def endpoint_of():
    """(server, changes) -> how to ask it, in a hurry."""

    def make(server, **changes):
        quick = {"timeout_s": 30.0, "attempts": 3, "backoff_s": 0.01, "workers": 3}
        quick |= {"key_variable": "SYNTHESIS_KEY", "name": "model", **changes}
        return EndpointConfig(server.url, "clinical-vl", **quick)

    return make


@pytest.fixture
def session(tmp_path, endpoint_of):
    """(server, work, changes) -> what the coroutine work(ask) gives, asked through a Client."""

    def play(server, work, failures=20, **changes):
        async def inside(journal):
            endpoint = endpoint_of(server, **changes)
            async with open_client(endpoint) as http:
                return await work(Client(http, endpoint, journal, SynthesisConfig(), failures))

        with open_journal(tmp_path / "journal.jsonl") as journal:
            return asyncio.run(inside(journal))

    return play


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """A folder with two recordings of 24 s, one below a folder that is named like a patient."""
    folder = tmp_path_factory.mktemp("manual")
    (folder / "Doe^Jane").mkdir()
    (folder / "notes.txt").write_text("no video")
    rng = np.random.default_rng(0)
    for number, name in enumerate(("a.mp4", "Doe^Jane/b.mp4")):
        writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter_fourcc(*"mp4v"), 2.0, (64, 48))
        for second in range(24):
            shade = 60 + 40 * ((second // 7 + number) % 4)
            for _ in range(2):
                noise = rng.integers(0, 9, (48, 64, 3))
                writer.write((shade + noise).astype(np.uint8))
        writer.release()
    return folder


@pytest.fixture
def footage():
    """Sixty seconds at one frame a second; a frame's picture is its number."""
    frames = tuple(Frame(float(t), b"jpeg %d" % t) for t in range(60))
    return Footage("v.mp4", 60.0, frames, np.zeros(60))


@pytest.fixture
def question(footage):
    """A question whose answer shows from 20 to 24 s."""
    return WrittenQuestion(
        footage, "vqa", "What colour is the polyp?", "red", "The polyp is red.", ((20.0, 24.0),)
    )


@pytest.fixture
def config():
    return SynthesisConfig()
