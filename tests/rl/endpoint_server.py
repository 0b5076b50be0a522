"""A local server in the place of a model behind an OpenAI-compatible endpoint."""

import http.server
import json
import threading

from medscope_jax.rl import judge_many


def completion(text):
    return json.dumps({"choices": [{"message": {"content": text}}]})


def judge_one(config, question, answer, reference, temperature=0.0):
    """The endpoint's score of one answer; JudgeError where it gives none."""
    return judge_many(config, [(question, answer, reference)], temperature, max_failed=0)[0]


class Server(http.server.ThreadingHTTPServer):
    """Answers each request with the next step of its script, the last one for ever.

    A step is (status, body), (status, body, headers) or a function of the request handler.
    """

    daemon_threads = True

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.requests, self.lock = script, [], threading.Lock()

    def handle_error(self, request, client_address):
        """Clients that hang up are part of the test."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            step = self.server.script[min(len(self.server.requests), len(self.server.script) - 1)]
            self.server.requests.append((self.path, dict(self.headers), self.body))
        if callable(step):
            return step(self)
        status, text, headers = (*step, {})[:3]
        return self.reply(status, text, headers)

    do_GET = do_POST

    def reply(self, status, text, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        """Quiet."""
