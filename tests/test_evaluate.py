"""Rolling out a split's questions, batch by batch, with a program that says nothing."""

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.bank import stack_bank
from medscope_jax.dialogue import (
    CallRecord,
    Episode,
    Layout,
    Role,
    build_prompt,
    stamp_ids,
    train_tokenizer,
)
from medscope_jax.evaluate import run_questions
from medscope_jax.rollout import prompt_width
from medscope_jax.video import preview_indices

LAYOUT = Layout(
    length=256,
    preview_frames=4,
    window_frames=5,
    grid=(1, 2),
    frame_format="{frame}{time:.1f}",
    max_tool_turns=3,
)
QUESTIONS = ["Where?", "How many clips are placed on the left?", "When does the capsule tear?"]
# A recording on the bank's ticks, one of 3 frames a second, and a still.
RECORDS = [{"question": question} for question in QUESTIONS]
TIMES = [np.arange(9.0), np.array([0.0, 1.0, 2.0, 3.333, 4.667, 5.667, 6.667]), np.zeros(1)]
PLACES = [1, 0, 2]


def silent(seen):
    """A rollout program that ends every conversation after its prompt and notes the prompts."""

    def program(params, bank, prompts, special_tokens):
        seen.append(prompts)
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


def test_every_question_is_asked_about_its_own_times():
    """Off the ticks too, where stamps take more tokens; the last batch is filled up."""
    tokenizer = train_tokenizer(QUESTIONS * 5, 1024, 32)
    stamps = [stamp_ids(tokenizer, LAYOUT, when) for when in TIMES]
    assert max(map(len, stamps[1])) > max(map(len, stamps[0])) == 1
    tokens = [np.zeros((len(when), 2, 4), np.float32) for when in TIMES]
    bank = stack_bank(tokens, TIMES, stamps, [9.0, 7.0, 1.0])
    seen = []
    batches = run_questions(
        {},
        silent(seen),
        RECORDS,
        PLACES,
        TIMES,
        bank,
        jax.random.key(0),
        width=prompt_width(RECORDS, [TIMES[i] for i in PLACES], tokenizer, LAYOUT, True),
        group=1,
        batch_size=2,
        tools=True,
        tokenizer=tokenizer,
        special_tokens=None,
        layout=LAYOUT,
    )
    assert [[len(group) for group in batch] for batch in batches] == [[1, 1], [1]]
    asked = [(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 2)]  # (batch, row, question)
    for batch, row, i in asked:
        prompts, when = seen[batch], TIMES[PLACES[i]]
        shown = preview_indices(len(when), 4)
        wanted = build_prompt(QUESTIONS[i], shown, when, tokenizer, LAYOUT, True)
        count = len(wanted.tokens)
        assert prompts.length[row] == count
        np.testing.assert_array_equal(prompts.tokens[row, :count], wanted.tokens)
        np.testing.assert_array_equal(prompts.visual_index[row, :count], wanted.visual_index)
        assert prompts.video[row] == row
    assert jnp.shape(seen[0].tokens) == jnp.shape(seen[1].tokens)
