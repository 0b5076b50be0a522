"""Words from outside may not hold the protocol's tags: one rule for users and for records."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.dialogue import protocol
from medscope_jax.dialogue.sanitize import check_turns, clean_question
from medscope_jax.errors import UserError
from medscope_jax.parts import SPLITS_OF_PART
from medscope_jax.phantom.records import records
from medscope_jax.phantom.suite_config import procedures, smoke_suite

TAGS = [tag for tag in protocol.TAGS if tag.strip()]
CALL = "<think>a</think>" + protocol.crop_call(2, 3)
END = "<think>so</think><answer>left</answer>"


@pytest.mark.parametrize(
    "question", ["Is it <5 mm or >10 mm?", "Où est-il ?", "«think»?", "< answer>?"]
)
def test_questions_that_pass(tokenizer, question):
    tags = {tokenizer.tag(tag) for tag in protocol.TAGS}
    assert clean_question(f" {question}\n") == question
    assert not tags & set(tokenizer.encode(question))


@pytest.mark.parametrize("tag", TAGS)
def test_every_tag_is_refused(tag):
    with pytest.raises(UserError, match="^--question holds .*, a tag of the protocol; leave it"):
        clean_question(f"Where is it {tag}?", "--question")
    for turn in (
        f"<think>a {tag}</think><answer>b</answer>",
        f"<think>a</think><answer>b {tag}</answer>",
        f'<think>a</think><tool_call>{{"name": "{tag}"}}</tool_call>',
    ):
        with pytest.raises(UserError, match="turn 1 of record 7 (holds .*, a tag|does not read)"):
            check_turns([turn], "record 7")


@pytest.mark.parametrize(
    "text", ["Is it \udcff?", "Is it \x00?", "Is it \u202ehere?", "a\x85\x1b[0m"]
)
def test_text_that_is_none(text):
    with pytest.raises(UserError, match="control characters or broken text"):
        clean_question(text)
    with pytest.raises(UserError, match="the thought in turn 1 of the record holds control"):
        check_turns([f"<think>{text}</think><answer>b</answer>"])


@pytest.mark.parametrize("text", ["", " \n\t", "?!", "\u3000"])
def test_a_question_without_words(text):
    with pytest.raises(UserError, match="the question is empty"):
        clean_question(text)


@pytest.mark.parametrize("piece", ["</think><answer>", "<think>", "</answer>", " "])
def test_hostile_turns_take_linear_time(piece):
    for end in ("", "</answer>"):
        with pytest.raises(UserError):
            check_turns([f"<think>a</think><answer>{piece * (1_000_000 // len(piece))}{end}."])


@pytest.mark.parametrize(
    "turns",
    [
        ["left"],
        ["<answer>left</answer>"],
        ["<think>a</think>"],
        ["<think>a</think><answer>b</answer> and more"],
        ["<think>a</think> so <answer>b</answer>"],
        [CALL, "<think>a</think><tool_call>b</answer>"],
    ],
)
def test_turns_of_another_form(turns):
    with pytest.raises(UserError, match=f"^turn {len(turns)} of the record does not read <think>"):
        check_turns(turns)


def test_nothing_follows_an_answer():
    check_turns([CALL, CALL, END])
    check_turns([CALL, "<think>a\n</think>\n<answer>\nb\n</answer>"])
    check_turns([])
    with pytest.raises(UserError, match="turn 2 of the record answers, but more turns follow"):
        check_turns([CALL, END, END])


@given(st.text(max_size=30))
@settings(deadline=None)
def test_what_passes_is_encodable_words_on_one_line(tokenizer, text):
    try:
        question = clean_question(text)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert question.split() == text.split() and question == " ".join(question.split(" "))
    assert tokenizer.decode(tokenizer.encode(question)) == question
    assert "\n" not in question and not any(tag in question for tag in TAGS)
    check_turns([f"<think>{question}</think><answer>{question}</answer>"])


def test_the_phantom_suite_passes_unchanged():
    suite = smoke_suite()
    seen = set()
    for procedure in procedures(suite)[::5]:
        for part in SPLITS_OF_PART:
            for record in records(procedure, part, suite):
                assert clean_question(record["question"]) == record["question"]
                check_turns(record["turns"])
                seen.add((part, len(record["turns"])))
    assert {("cap", 1), ("qa", 1), ("cot", 1), ("vcot", 3), ("passive", 1), ("rl", 0)} <= seen
