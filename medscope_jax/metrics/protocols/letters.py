"""Multiple choice as VideoMME scores it: the letter that an answer is read as, matched exactly."""

import re

# Cut out of an answer wherever they stand, in this order. The last two are as published, where a
# missing comma joined two phrases.
_PHRASES = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    *("The best option isThe correct option is", "Best answer:Best option:"),
)
_LETTER = re.compile("[ABCD]")


def first_letter(answer: str) -> str:
    """The first capital A, B, C or D in an answer, wherever it stands; "" where there is none.

    "B", "(B) left", "The answer is B." -> "B"

    This is the published rule with its trap: "As it bleeds, C" is read as "A". Where that matters,
    rl.judge_answer reads the option that is named.
    """
    for phrase in _PHRASES:
        answer = answer.replace(phrase, "")
    found = _LETTER.search(answer)
    return found[0] if found else ""


def lettered_choice(answer: str, right: str) -> dict[str, float]:
    """A question of VideoMME: accuracy, and unread, 1 where the answer has no letter (it is wrong).

    Args:
      answer: the model's.
      right: the letter of the right option, "A" to "D".
    """
    letter = first_letter(answer)
    return {"accuracy": float(letter == right.strip().upper()), "unread": float(not letter)}
