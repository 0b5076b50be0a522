"""Rollouts in parts: the judge reads one while the device makes the next, and nothing changes.

The program is a stand-in that shows which row drew what and which frames it was given; the judge is
the real one, behind a local server that holds its answers back.
"""

import functools
import http.server
import json
import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from medscope_jax.bank import FrameBank, flat_index, flat_tokens
from medscope_jax.dialogue import CallRecord, Episode, Role
from medscope_jax.distributed import make_mesh
from medscope_jax.models import ModelConfig
from medscope_jax.rl import JudgeError, RewardConfig, make_judge
from medscope_jax.rollout import PromptWidth, Trajectory, engine, row_keys
from medscope_jax.training import rollout_batch as rolling
from medscope_jax.training.run import Run
from tests.bank.bank_cases import on_host
from tpu_configs.cpu import get_config

VIDEOS, FRAMES, GROUP, LENGTH = 5, 3, 2, 8
WAIT_S = 60.0  # a machine that is busy may be slow; a missing overlap waits so long, and fails


def make_frame_bank():
    """One visual token of width 1 a frame, which names it: 100 * video + frame."""
    names = 100 * np.arange(VIDEOS)[:, None] + np.arange(FRAMES)
    return FrameBank(
        tokens=jnp.asarray(names[:, :, None, None], jnp.float32),
        times=jnp.zeros((VIDEOS, FRAMES)),
        stamps=jnp.zeros((VIDEOS, FRAMES, 1), jnp.int32),
        length=jnp.full(VIDEOS, FRAMES),
        duration=jnp.ones(VIDEOS),
    )


@jax.jit
def program(params, bank, keys, special_tokens):
    """Rows of tokens drawn from their key; logprobs name the frame that each token shows."""
    del params, special_tokens
    count = keys.shape[0]
    draw = jax.vmap(lambda key: jax.random.randint(key, (LENGTH,), 0, 1000))
    tokens = draw(keys.reshape(-1))
    video, shown = jnp.repeat(jnp.arange(count), GROUP), tokens % FRAMES
    calls = tokens[:, :2]
    episode = Episode(
        tokens=tokens,
        visual_index=shown,
        role=jnp.full_like(tokens, int(Role.GENERATED)),
        positions=jnp.stack([tokens] * 3),
        logprobs=flat_tokens(bank)[flat_index(video, shown, FRAMES), 0],
        calls=CallRecord(calls, calls * 1.0, calls * 1.0, calls, calls),
    )
    return episode, {"decoded": tokens.size}


RECORDS = [
    {
        "question": f"question {n}",
        "answer": "left",
        "task": "vqa",
        "video": f"video {n % VIDEOS}",
        "evidence": [],
        "evidence_time": -1.0,
        "duration": 10.0,
    }
    for n in range(8)
]


def make_roll(
    monkeypatch, parts, judge, events=None, on_read=lambda number: None, unscored="left_out"
):
    """The function under test, with stand-ins for what needs a model or a tokenizer."""
    events = [] if events is None else events
    read = []

    def dispatch(*arguments):
        events.append(f"part {len([e for e in events if 'dispatched' in e])} dispatched")
        return program(*arguments)

    def read_trajectories(host, *_):
        read.append(len(read))
        events.append(f"part {read[-1]} read")
        on_read(read[-1])
        texts = [f"<think>a</think><answer>answer {row[0]}</answer>" for row in host.tokens]
        return [Trajectory(text, [text], [], []) for text in texts]

    monkeypatch.setattr(engine, "rollout_program", lambda *_: dispatch)
    monkeypatch.setattr(engine, "make_prompts", lambda *a: a[3])
    monkeypatch.setattr(engine, "prompt_width", lambda *_: PromptWidth(LENGTH, 0))
    monkeypatch.setattr(engine, "read_trajectories", read_trajectories)
    reward = {field: getattr(RewardConfig(), field) for field in ("h0", "delta", "crop_reward")}
    config = ConfigDict(
        {"rl": {"group_size": GROUP, "parts": parts}, "reward": reward}
        | {"video": {"max_frames": FRAMES}, "judge": {"unscored": unscored}}
        | {"rollout": get_config().rollout}
    )
    layout = SimpleNamespace(tokens_per_frame=1)
    mesh = make_mesh({}, jax.devices()[:1])
    run = Run(config, None, mesh, None, None, ModelConfig(), layout, None)
    videos = [SimpleNamespace(times=np.arange(FRAMES)) for _ in range(VIDEOS)]
    split = SimpleNamespace(videos=videos, rows={f"video {n}": n for n in range(VIDEOS)})
    roller = rolling.make_roller(run, split, RECORDS, on_host(make_frame_bank()), judge)
    assert roller.width == LENGTH
    return functools.partial(rolling.roll, roller)


def roll_rows(roll, rows):
    return roll({}, np.array(rows), jax.random.key(7), 0)


def test_parts_change_nothing(monkeypatch):
    """Tokens, frames, rewards and counts, in any number of parts; a row goes by its place's key."""

    def judge(questions, answers):
        return [float(int(a.split()[1]) % 2) for a in answers]

    rows = [6, 1, 3, 0]
    whole = roll_rows(make_roll(monkeypatch, 1, judge), rows)
    assert whole.work == {"decoded": 4 * GROUP * LENGTH}
    # Each rollout has a key of its own, by its place in the batch and the batch's first number.
    keys = row_keys(jax.random.key(7), jnp.arange(4 * GROUP))
    drawn = jax.vmap(lambda key: jax.random.randint(key, (LENGTH,), 0, 1000))
    np.testing.assert_array_equal(whole.groups.episode.tokens, drawn(keys))
    later = make_roll(monkeypatch, 1, judge)({}, np.array(rows), jax.random.key(7), 4)
    keys = row_keys(jax.random.key(7), jnp.arange(4 * GROUP, 8 * GROUP))
    np.testing.assert_array_equal(later.groups.episode.tokens, drawn(keys))
    # Each token's visual index points at the frame that was shown, in its question's video.
    places = np.repeat(whole.groups.places, GROUP)
    bank = jax.tree.map(lambda leaf: leaf[places], make_frame_bank())
    found = np.take_along_axis(bank.tokens[:, :, 0, 0], whole.groups.episode.visual_index, axis=1)
    np.testing.assert_array_equal(found, whole.groups.episode.logprobs)
    np.testing.assert_array_equal(whole.groups.places, [1, 1, 3, 0])
    for parts in (2, 4):
        split = roll_rows(make_roll(monkeypatch, parts, judge), rows)
        jax.tree.map(np.testing.assert_array_equal, split.groups.episode, whole.groups.episode)
        np.testing.assert_array_equal(split.groups.rows, rows)
        assert split.groups.found == whole.groups.found
        assert split.groups.scored == whole.groups.scored
        assert split.work == whole.work


@pytest.fixture
def endpoint(monkeypatch):
    """(judge, hold): a local chat endpoint; what hold[0] makes of a question decides its answer."""
    monkeypatch.setenv("no_proxy", "*")
    hold = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            done = hold[0](json.loads(body["messages"][1]["content"]))
            text = json.dumps({"choices": [{"message": {"content": '{"score": 1}'}}]}).encode()
            self.send_response(200 if done else 400)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args):
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    section = {
        "url": f"http://127.0.0.1:{server.server_port}/v1",
        "model": "judge",
        "timeout": 2 * WAIT_S,
        "concurrency": 2,
        "temperature": None,
        "max_failed": 0.5,
    }
    yield make_judge(section), hold
    server.shutdown()
    server.server_close()


def test_the_judge_reads_one_part_while_the_device_makes_the_next(monkeypatch, endpoint):
    """A judge that answers about the first part only when the second has come off the device."""
    judge, hold = endpoint
    events, second_read = [], threading.Event()

    def answer_late(question):
        first = question["question"] in ("question 6", "question 1")
        events.append(f"part {0 if first else 1} at the judge")
        done = second_read.wait(WAIT_S) if first else True
        events.append(f"part {0 if first else 1} judged")
        return done

    hold.append(answer_late)
    on_read = {0: lambda: None, 1: second_read.set}
    roll = make_roll(monkeypatch, 2, judge, events, lambda number: on_read[number]())
    rolled = roll_rows(roll, [6, 1, 3, 0])
    assert [r.accuracy for r in rolled.groups.scored] == [1.0] * 8

    def at(event):
        return events.index(event)

    assert at("part 1 dispatched") < at("part 0 read") < at("part 0 at the judge")
    assert at("part 1 read") < at("part 0 judged") < at("part 1 at the judge")


def test_what_the_judge_refuses_is_counted_and_ends_nothing(monkeypatch, endpoint):
    """One group of four in a part of two: left out, or of accuracy 0."""
    judge, hold = endpoint
    hold.append(lambda question: question["question"] != "question 3")
    roll = make_roll(monkeypatch, 2, judge)
    rolled = roll_rows(roll, [6, 1, 3, 0])
    accuracy = [r.accuracy for r in rolled.groups.scored]
    np.testing.assert_array_equal(accuracy, [1.0] * 4 + [np.nan] * 2 + [1.0] * 2)
    assert rolled.unscored == 2 and np.isfinite(rolled.groups.totals).all()

    zero = roll_rows(make_roll(monkeypatch, 2, judge, unscored="zero"), [6, 1, 3, 0])
    assert [r.accuracy for r in zero.groups.scored] == [1.0] * 4 + [0.0] * 2 + [1.0] * 2
    assert zero.unscored == 2


def test_a_judge_that_refuses_most_ends_the_step(monkeypatch, endpoint):
    judge, hold = endpoint
    hold.append(lambda question: question["question"] == "question 0")
    with pytest.raises(JudgeError, match="no score for [34] of 4 answers, .* HTTP status 400"):
        roll_rows(make_roll(monkeypatch, 2, judge), [6, 1, 3, 0])
