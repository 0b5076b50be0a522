"""The engine: questions in, trajectories out, as the compiled program alone gives them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax.bank import stack_bank
from medscope_jax.dialogue import (
    CallRecord,
    Episode,
    Role,
    build_prompt,
    stamp_ids,
    train_tokenizer,
)
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import UserError
from medscope_jax.models import ModelConfig
from medscope_jax.rollout import (
    PromptWidth,
    RolloutEngine,
    VideoQuestion,
    engine,
    find_special_tokens,
    row_keys,
)
from medscope_jax.video import preview_indices
from tests.bank.bank_cases import on_host
from tests.rollout import rollout_cases as cases
from tests.rollout.prompt_cases import LAYOUT

TEXTS = ["Where?", "How many clips are placed on the left?", "When does the capsule tear?"]
# A recording on the bank's ticks, one of 3 frames a second, and a still.
TIMES = [np.arange(9.0), np.array([0.0, 1.0, 2.0, 3.333, 4.667, 5.667, 6.667]), np.zeros(1)]
PLACES = [1, 0, 2]
QUESTIONS = [
    VideoQuestion({"question": text}, place, TIMES[place], number)
    for number, (text, place) in enumerate(zip(TEXTS, PLACES, strict=True))
]
KEY = jax.random.key(7)


def silent(seen):
    """A rollout program that ends every conversation after its prompt and notes the prompts."""

    def program(params, bank, prompts, special_tokens):
        seen.append((bank, prompts))
        rows, width = prompts.tokens.shape
        role = np.where(np.arange(width) < np.asarray(prompts.length)[:, None], Role.PROMPT, 0)
        none = np.full((rows, 1), -1)
        episode = Episode(
            tokens=np.asarray(prompts.tokens),
            visual_index=np.asarray(prompts.visual_index),
            role=role,
            positions=np.zeros((3, rows, width)),
            logprobs=np.zeros((rows, width)),
            calls=CallRecord(none, none, none, none, none),
        )
        return episode, {}

    return program


@pytest.fixture(scope="module")
def silent_world():
    """(tokenizer, bank) of TEXTS and TIMES; each visual token names its video."""
    tokenizer = train_tokenizer(TEXTS * 5, 1024, 32)
    stamps = functools.partial(stamp_ids, tokenizer, LAYOUT)
    assert max(map(len, stamps(TIMES[1]))) > max(map(len, stamps(TIMES[0]))) == 1
    tokens = [np.full((len(when), 2, 4), place, np.float32) for place, when in enumerate(TIMES)]
    return tokenizer, stack_bank(tokens, TIMES, [9.0, 7.0, 1.0], stamps)


def silent_engine(monkeypatch, tokenizer, mesh, group=1):
    """An engine whose program is `silent`, and what the program sees."""
    seen = []
    monkeypatch.setattr(engine, "rollout_program", lambda *_: silent(seen))
    config = dataclasses.replace(cases.CONFIG, group=group)
    return RolloutEngine(mesh, ModelConfig(), tokenizer, {}, LAYOUT, config), seen


@pytest.mark.parametrize("devices", [1, 2])
def test_every_question_is_asked_about_its_own_video(monkeypatch, silent_world, devices):
    """With its own times, off the ticks too, where stamps take more tokens; the last batch is
    filled up, and every batch is one that the mesh divides.
    """
    tokenizer, bank = silent_world
    mesh = make_mesh({"data": devices}, jax.devices()[:devices])
    rollouts, seen = silent_engine(monkeypatch, tokenizer, mesh)
    width = rollouts.prompt_width(QUESTIONS)
    batches = rollouts.roll_out({}, bank, QUESTIONS, KEY, width=width, batch_size=3 - devices)
    assert [[len(group) for group in batch] for batch in batches] == [[1, 1], [1]]
    asked = [(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 2)]  # (batch, row, question)
    for batch, row, i in asked:
        (videos, prompts), when = seen[batch], QUESTIONS[i].times
        shown = preview_indices(len(when), 4)
        wanted = build_prompt(TEXTS[i], shown, when, tokenizer, LAYOUT, True)
        count = len(wanted.tokens)
        assert prompts.length[row] == count
        np.testing.assert_array_equal(prompts.tokens[row, :count], wanted.tokens)
        np.testing.assert_array_equal(prompts.visual_index[row, :count], wanted.visual_index)
        assert prompts.video[row] == row
        assert (np.asarray(videos.tokens)[row, : len(when)] == QUESTIONS[i].video).all()
        wanted = row_keys(KEY, jnp.array([i]))
        assert (jax.random.key_data(prompts.keys[row]) == jax.random.key_data(wanted)).all()
    assert len(seen) == 2
    assert {prompts.tokens.shape for _, prompts in seen} == {(2, width.most)}
    assert len(seen[0][1].tokens.sharding.device_set) == devices


def test_keys_go_by_a_questions_number(monkeypatch, silent_world):
    """Whatever the batch, and the question's place in it."""
    tokenizer, bank = silent_world
    mesh = make_mesh({}, jax.devices()[:1])
    rollouts, _ = silent_engine(monkeypatch, tokenizer, mesh, group=2)
    questions = [
        question._replace(number=n) for question, n in zip(QUESTIONS, (5, 0, 9), strict=True)
    ]
    width = rollouts.prompt_width(questions)
    keys = rollouts.prepare(bank, questions, KEY, width=width).prompts.keys
    wanted = row_keys(KEY, jnp.array([10, 11, 0, 1, 18, 19])).reshape(3, 2)
    np.testing.assert_array_equal(jax.random.key_data(keys), jax.random.key_data(wanted))


def test_prompts_that_are_too_long(monkeypatch, silent_world):
    tokenizer, bank = silent_world
    rollouts, _ = silent_engine(monkeypatch, tokenizer, make_mesh({}, jax.devices()[:1]))
    with pytest.raises(UserError, match="there are no questions"):
        rollouts.prompt_width([])
    with pytest.raises(UserError, match="tokens too long for this model's conversations of 256"):
        rollouts.prompt_width(QUESTIONS, spare=250)
    with pytest.raises(UserError, match="tokens is not within 0 to 8: 'Where"):
        rollouts.prepare(bank, QUESTIONS, KEY, width=PromptWidth(8, 0))


@pytest.fixture(scope="module")
def world():
    return cases.make_world()


def world_engine(world, mesh):
    tokenizer, model, *_ = world
    special_tokens = find_special_tokens(tokenizer, cases.LAYOUT)
    return RolloutEngine(mesh, model, tokenizer, special_tokens, cases.LAYOUT, cases.CONFIG)


def world_questions(bank):
    times = [np.arange(float(length)) for length in bank.length]
    return [VideoQuestion({"question": "where is it?"}, v, times[v], v) for v in range(4)]


@pytest.fixture(scope="module")
def played(world):
    """(episode, metrics) of the program alone."""
    return cases.play(world, cases.CONFIG)[:2]


@pytest.mark.parametrize(
    "axes", [{}, pytest.param({"data": 2}, marks=pytest.mark.invariant), {"fsdp": 2}]
)
def test_rollouts_are_the_programs(world, played, axes):
    """Sampled ones, on any mesh; a batch that is started before another one is waited for too."""
    params, bank = world[2], on_host(world[3])
    mesh = make_mesh(axes, jax.devices()[: 2 if axes else 1])
    rollouts, questions = world_engine(world, mesh), world_questions(bank)
    width = rollouts.prompt_width(questions)
    whole = rollouts.prepare(bank, questions, KEY, width=width)
    parts = [rollouts.prepare(bank, questions[i : i + 2], KEY, width=width) for i in (0, 2)]
    running = [rollouts.start(params, batch) for batch in (whole, *parts)]
    whole, *parts = [rollouts.wait(each) for each in running]
    cases.assert_same(whole.episode, played[0])
    assert len(whole.trajectories) == 8 and whole.work["decoded"] == played[1]["decoded"]
    assert whole.trajectories == parts[0].trajectories + parts[1].trajectories
    batches = rollouts.roll_out(params, bank, questions, KEY, width=width, batch_size=3)
    found = [trajectory for batch in batches for group in batch for trajectory in group]
    assert found == whole.trajectories


def test_a_program_is_compiled_once(world):
    """Engines that are made alike share it: those of stage 3 and of evaluation."""
    programs = []
    for _ in range(2):
        rollouts = world_engine(world, make_mesh({}, jax.devices()[:1]))
        programs.append(rollouts.program)
    assert programs[0] is programs[1]
