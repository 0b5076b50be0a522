"""VideoMME's letter, against the published rule in other words, its traps among the answers."""

import random
import re

import pytest

from medscope_jax.metrics.protocols.letters import first_letter, lettered_choice

PHRASES = [
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" (B) left\n", "B"),
        ("The best answer is: C.", "C"),
        ("The answer is D", "D"),
        ("b", ""),
        ("", ""),
        ("E", ""),
        ("\u7b54\u6848\uff1aC", "C"),
        ("As it bleeds, C", "A"),  # the published rule's trap
        ("Because of the clip: A", "B"),
        ("no letter is here though this answer has more than ten words in it", ""),
    ],
)
def test_letters(answer, letter):
    assert first_letter(answer) == letter


def published(answer):
    answer = answer.strip()
    for phrase in PHRASES:
        answer = answer.replace(phrase, "")
    if len(answer.split()) > 10 and not re.search("[ABCD]", answer):
        return ""
    return "".join(re.findall("[ABCD]", answer)[:1])


def test_200_random_answers_have_the_published_letter():
    draw = random.Random(0)
    words = [*PHRASES, *"ABCDEab\u00c4\n", "(A)", "B.", "eye", "Because", "option", ""]
    answers = [" ".join(draw.choices(words, k=draw.randint(0, 14))) for _ in range(200)]
    letters = [first_letter(answer) for answer in answers]
    assert letters == list(map(published, answers)) and set(letters) == {"", *"ABCD"}


def test_choices():
    assert lettered_choice("(B) left", "B") == {"accuracy": 1, "unread": 0}
    assert lettered_choice("(B) left", "A") == {"accuracy": 0, "unread": 0}
    assert lettered_choice("left", "A") == {"accuracy": 0, "unread": 1}
    assert lettered_choice("B", " b\n")["accuracy"] == 1
