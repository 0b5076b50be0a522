"""The endpoint judge against a local server that misbehaves in every way we thought of."""

import dataclasses
import json
import logging
import math
import time

import numpy as np
import pytest

from medscope_jax.rl import JudgeError, judge_many
from medscope_jax.rl.endpoint import verdicts
from tests.rl.endpoint_server import completion, judge_one

KEY = "secret-value"  # of conftest.serve


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


def test_what_is_sent_and_what_comes_back(serve):
    server, config = serve((200, completion('So it is.\n```json\n{"score": 0.5}\n```')))
    assert judge_one(config, "How many?", 'two", "x": "', "three") == 0.5
    path, headers, request = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert request["model"] == "judge-model" and request["temperature"] == 0
    content = json.loads(request["messages"][1]["content"])
    assert content == {"question": "How many?", "reference": "three", "answer": 'two", "x": "'}
    judge_one(config, "How many?", "two", "three", temperature=None)
    assert "temperature" not in server.requests[1][2]


def test_the_content_may_be_a_list_of_parts(serve):
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "{"}]},
        {"type": "text", "text": 'Well. {"score"'},
        {"type": "text", "text": ": 1}"},
    ]
    _, config = serve((200, completion(parts)))
    assert judge_one(config, "q", "a", "r") == 1.0


GOOD = (200, completion('{"score": 1}'))


def choice(text, message=(), **fields):
    return json.dumps({"choices": [{"message": {"content": text, **dict(message)}, **fields}]})


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
        (200, choice('{"score": 1}', finish_reason="length")),
        (200, json.dumps({"error": {"message": "busy", "code": 503}})),
        (200, json.dumps({"choices": [{"error": {"message": "busy"}, "message": {}}]})),
        trickle,
        hang,
        hang_up,
        cut_short,
    ],
    ids=lambda step: step.__name__ if callable(step) else f"{step[0]}-{step[1][:12]}",
)
def test_failures_that_pass_are_tried_again(serve, failure):
    server, config = serve(failure, GOOD)
    assert judge_one(config, "q", "a", "r") == 1.0
    assert len(server.requests) == 2


def error(status, message):
    return status, json.dumps({"error": {"message": message, "code": None}})


LIMIT = "temperature 0 is not supported with this model"
LONG = "word " * 100
REFUSED = {"refusal": "I can't\nscore that."}


@pytest.mark.parametrize(
    ("failure", "requests", "reason"),
    [
        ((500, "oops\nagain"), 3, "HTTP status 500: oops again"),
        ((401, KEY), 1, "HTTP status 401: \\*\\*\\*"),
        ((401, f"Wrong key {KEY[:9]}...x"), 1, "401: Wrong key \\*\\*\\*...x"),
        ((404, ""), 1, "HTTP status 404"),
        (error(404, "no model of that name"), 1, "HTTP status 404: no model of that name"),
        ((404, '{"error": "no such model"}'), 1, "HTTP status 404: no such model"),
        ((422, '{"detail": [{"msg": "field required"}]}'), 1, "422: field required"),
        ((400, '[{"error": {"message": "bad"}}]'), 1, "400: bad"),
        ((502, "<html><title>502</title><b>Bad gateway</b>"), 3, "502: 502 Bad gateway"),
        (error(400, LIMIT), 1, f"400: {LIMIT} .judge.temperature=None leaves it out"),
        (error(429, f"no quota for {KEY}"), 3, "429: no quota for \\*\\*\\*"),
        (error(400, LONG), 1, "(word ){39}wo\\.\\.\\.; mend it"),
        (error(400, "a\x1b[2Jb\u202ec"), 1, r"400: a<U\+001B>\[2Jb<U\+202E>c; mend it"),
        ((200, json.dumps({"error": {"message": "no funds", "code": 402}})), 1, "402: no funds"),
        ((302, "", {"Location": "http://127.0.0.1:9/v1"}), 1, "302: redirects are not followed"),
        ((200, completion("well\nwell")), 3, 'no score in "well well"'),
        ((200, choice(None, REFUSED)), 1, "the model refused: I can't score that."),
        ((200, choice("", finish_reason="content_filter")), 1, "the model refused"),
        ((200, choice(None, finish_reason="length")), 3, "cut off at its limit of tokens"),
        ((200, completion(f"key: {KEY}")), 1, "reply repeats the key"),
        ((200, completion("x").replace("x", KEY.replace("-", "\\u002d"))), 1, "repeats the key"),
        ((200, completion(KEY[:8] + " and")), 3, r'no score in "\*\*\* and"'),
        ((503, "", {"Retry-After": "121"}), 1, "HTTP status 503"),
        ((200, GOOD[1], {"Content-Encoding": "gzip"}), 1, "compressed"),
        (flood, 1, "larger than"),
        (hang, 3, "timed out"),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value)[:40],
)
def test_failures_that_stay_are_one_line(serve, caplog, failure, requests, reason):
    caplog.set_level(logging.DEBUG)
    server, config = serve(failure)
    with pytest.raises(JudgeError, match=reason) as caught:
        judge_one(config, "q", "a", "r")
    message = str(caught.value)
    assert "judge-model" in message and message.isprintable()
    assert KEY[:8] not in message + caplog.text
    assert len(server.requests) == requests


def test_nobody_listens(serve):
    server, config = serve(GOOD)
    server.shutdown()
    server.server_close()
    with pytest.raises(JudgeError, match="Connection refused"):
        judge_one(config, "q", "a", "r")


def test_many_keep_their_order_and_skip_empty_answers(serve):
    def grade(handler):
        """Right if the answer is the question: the order of the scores then shows."""
        content = json.loads(handler.body["messages"][1]["content"])
        right = content["answer"] == content["question"]
        handler.reply(200, completion(json.dumps({"score": int(right)})))

    server, config = serve(grade)
    triples = [("q", "q", "r"), ("q", "  ", "r"), ("q", "a", "r"), ("p", "p", "r")] * 3
    assert judge_many(config, triples) == [1.0, 0.0, 0.0, 1.0] * 3
    assert len(server.requests) == 3  # the same question is asked once
    words = ['{"score": 1}', None, '{"score": 0}', '{"score": 1}']
    assert [verdict.reply for verdict in verdicts(config, triples)] == words * 3


def refuse(*answers):
    """A server's step: a refusal of these answers, a score of 0.5 for all others."""

    def step(handler):
        content = json.loads(handler.body["messages"][1]["content"])
        refused = content["answer"] in answers
        text = "I'm sorry, but I can't help with that." if refused else '{"score": 0.5}'
        handler.reply(200, completion(text))

    return step


def test_one_answer_that_is_refused_has_no_score(serve, caplog):
    """However often it was given; the others have theirs, and a warning says why."""
    server, config = serve(refuse("a3"))
    triples = [("q", f"a{n}", "r") for n in (0, 3, 1, 3)]
    for asked in (triples, triples[1:2]):
        expected = [math.nan if answer == "a3" else 0.5 for _, answer, _ in asked]
        np.testing.assert_array_equal(judge_many(config, asked, max_failed=0.1), expected)
    assert (
        len(server.requests) == 2 + 3 + 3
    )  # each answer once, the refused one as often as allowed
    assert (
        "gave no score for 1 of 3 answers; the first time: no score in \"I'm sorry" in caplog.text
    )


@pytest.mark.parametrize(
    ("refused", "most", "ends"), [(2, 0.5, False), (3, 0.5, True), (1, 0.0, True), (4, 1.0, False)]
)
def test_a_run_ends_past_a_share(serve, refused, most, ends):
    _, config = serve(refuse(*(f"a{n}" for n in range(refused))))
    config = dataclasses.replace(config, attempts=1)
    triples = [("q", f"a{n}", "r") for n in range(4)]
    if ends:
        with pytest.raises(JudgeError, match=f"no score for {refused} of 4 .* {most:g}; .*sorry"):
            judge_many(config, triples, max_failed=most)
    else:
        scores = judge_many(config, triples, max_failed=most)
        np.testing.assert_array_equal(scores, [math.nan] * refused + [0.5] * (4 - refused))


def test_past_the_share_nothing_more_is_asked(serve):
    server, config = serve((401, ""))
    config = dataclasses.replace(config, workers=1)
    with pytest.raises(JudgeError, match="2 of 100 answers"):
        judge_many(config, [("q", f"a{n}", "r") for n in range(100)], max_failed=0.01)
    assert len(server.requests) <= 4
