"""`evaluate --endpoint`: a local server is the model, and may do what servers do."""

import json
import threading

import pytest

from medscope_jax import evaluate
from medscope_jax.dialogue import protocol
from medscope_jax.errors import UserError
from medscope_jax.evaluation.predictions import HEADER, PREDICTION
from medscope_jax.evaluation.sealed_lines import read_sealed
from medscope_jax.rl import chat
from tests.rl.endpoint_server import Server, completion

ANSWER = "<think>seen</think><answer>[3.0, 5.0]</answer>"
LOOK = "<think>closer</think>" + protocol.crop_call(1.0, 3.0)


def looked(body):
    """Whether a request's conversation has an observation already."""
    return len(body["messages"]) > 2


def question_of(body):
    return body["messages"][1]["content"][-1]["text"]


@pytest.fixture
def serve(monkeypatch):
    """(function of a request's body to (status, text)) -> the server, which runs."""
    servers = []
    monkeypatch.setattr(chat, "_LONGEST_BACKOFF_S", 0.01)  # waits are benchmarks' matter

    def start(answer):
        def step(handler):
            status, text = answer(handler.body)
            handler.reply(status, text)

        server = Server([step])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def run(micro_run, tmp_path):
    """(server, *flags): evaluates what it serves on the suite of the micro run."""

    def start(server, *flags):
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        given = ["--endpoint", url, "--endpoint.model=model 1", "--data_dir", str(micro_run)]
        evaluate.main([*given, "--split=validation", "--out", str(tmp_path / "out"), *flags])

    start.out = tmp_path / "out"
    return start


def predictions(folder):
    reading = read_sealed(folder / "predictions.jsonl", HEADER, PREDICTION)
    _, *lines = [values for _, values in reading]
    return lines


def good(body):
    return 200, completion(ANSWER if looked(body) else LOOK)


def test_it_looks_and_answers_and_stands_in_the_table(serve, run, capsys):
    server = serve(good)
    run(server, "--limit=5")
    lines = predictions(run.out)
    assert [line["number"] for line in lines] == list(range(5))
    for line in lines:
        assert (line["model"], line["mode"], line["answer"]) == ("model 1", "tools", "[3.0, 5.0]")
        assert line["calls"] == [{"tool": "crop_video", "start": 1.0, "end": 3.0, "status": "ok"}]
        (window,) = line["windows"]
        assert window["times"] and all(1.0 <= time <= 3.0 for time in window["times"])
    assert len(server.requests) == 10
    path, _, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("model 1", 0.0, 512)
    rows = json.loads((run.out / "results.json").read_text())
    assert {row["model"] for row in rows} == {"model 1"}
    page = (run.out / "results.md").read_text()
    assert "looks a question" in page and "judged by the built-in rules" in page
    run(server, "--limit=5")
    assert len(server.requests) == 10  # nothing is asked twice
    run(server, "--limit=5", "--modes=passive,oracle")
    assert [line["mode"] for line in predictions(run.out)[5:]] == ["passive"] * 5 + ["oracle"] * 5
    assert not any(line["calls"] for line in predictions(run.out)[5:])


def test_a_server_that_stumbles_loses_nothing(serve, run):
    """Each request fails twice: busy, then no JSON."""
    times = {}

    def stumble(body):
        key = json.dumps(body)
        times[key] = times.get(key, 0) + 1
        return {1: (503, "busy"), 2: (200, "<html>")}.get(times[key]) or good(body)

    run(serve(stumble), "--limit=4")
    assert [line["answer"] for line in predictions(run.out)] == ["[3.0, 5.0]"] * 4


def test_what_fails_is_told_and_asked_again(serve, run, capsys, micro_run):
    """One question is refused for good; the next run asks it alone."""
    seen, bad = [], []

    def picky(body):
        question = question_of(body)
        if question not in seen:
            seen.append(question)
        if not bad and len(seen) == 3:
            bad.append(question)
        return (400, '{"error": {"message": "too long"}}') if question in bad else good(body)

    run(serve(picky), "--limit=8")
    printed = capsys.readouterr().out
    assert "model 1 gave no conversation for " in printed
    assert "HTTP status 400: too long; run again, and they are asked again" in printed
    missing = 8 - len(predictions(run.out))
    assert missing >= 1
    server = serve(good)
    run(server, "--limit=8")
    assert len(server.requests) == 2 * missing
    assert sorted(line["number"] for line in predictions(run.out)) == list(range(8))


@pytest.mark.parametrize(
    "reply, why",
    [
        ((401, '{"error": "no such key sk-1234567890"}'), "HTTP status 401: no such key ***"),
        ((500, ""), "HTTP status 500"),
        ((200, '{"choices": []}'), "reply is no chat completion"),
    ],
)
def test_a_server_that_never_answers_ends_it_in_one_line(serve, run, reply, why, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1234567890")
    with pytest.raises(UserError) as error:
        run(serve(lambda body: reply), "--limit=20")
    line = str(error.value)
    assert line.startswith("model 1 gave no conversation for ") and "\n" not in line
    assert why in line and "sk-1234567890" not in line and "run again" in line
    assert predictions(run.out) == []


@pytest.mark.parametrize(
    "flags, why",
    [
        (["--endpoint.temperature=hot"], "--endpoint.temperature is 'hot'; use a number from 0"),
        (["--mesh=data=2"], "--mesh goes with --checkpoint, not with --endpoint"),
        (["--checkpoint=c"], "name one of --workdir"),
    ],
)
def test_flags_that_do_not_go_together(serve, run, refusal, flags, why):
    assert why in refusal(lambda given: run(serve(good), *given), flags)


def test_an_endpoint_needs_a_model(refusal):
    line = refusal(evaluate.main, ["--endpoint=http://h/v1", "--data_dir=d", "--out=o"])
    assert "--endpoint needs --endpoint.model" in line
