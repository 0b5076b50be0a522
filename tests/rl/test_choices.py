"""Multiple choice: an answer is right by letter or by text, never where it names two options."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.rl import judge_answer
from medscope_jax.rl.choices import named_options

EYES = ["right eye", "left eye"]


def judge(answer, reference="left eye", options=EYES):
    return judge_answer(answer, reference, "vqa", options=options)


@pytest.mark.parametrize(
    "answer",
    [
        *("B", "b", "B.", "(B)", "[b]", "**B**", "\u201cB\u201d", "\\boxed{B}", "Option B"),
        *("B) left eye", "B. Left eye.", "(B) the left eye", "B: left eye", "B - left eye"),
        *("B left eye", "B.left eye", "B\nleft eye", "left eye (B)", "left eye", "The LEFT eye."),
        *("The answer is B", "the correct answer is (b).", "Answer: B", "I think it\u2019s B."),
        *("It is the left eye", "Most likely B", "The answer is: left eye", "B is correct"),
        *(
            "B, because the cornea is on that side.",
            "B. A probe enters there.",
            "Option B: left eye",
        ),
    ],
)
def test_named_by_letter_or_text(answer):
    for reference in ("left eye", "B", "(b)", "B. left eye", "1"):  # an index counts from 0
        assert judge(answer, reference) == 1.0
    assert judge(answer, "right eye") == judge(answer, "0") == judge(answer, "A.") == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        *("A", "A.", "right eye", "A) right eye", "C", "AB", "", "?", "eye", "both", "neither"),
        *("A or B", "A and B", "A, B", "B, A", "B/A", "a, b", "B or A", "(A) (B)", "A\nB"),
        *("A. left eye", "B. right eye", "B) right eye", "left eye (A)", "B right eye"),
        *("left eye or right eye", "left eye, right eye", "left eye. right eye", "B, not A"),
        *("not B", "It is not B", "not the left eye", "B is wrong", "B isn't it", "B is not right"),
        *("B" * 999, "B. " * 400),
    ],
)
def test_others_are_wrong(answer):
    assert judge(answer) < 1.0
    assert judge(answer) == 0.0 or answer.startswith("B. B.")


def test_a_sentence_that_holds_the_text_is_half_right():
    assert judge("One sees the left eye there") == 0.5
    assert judge("One sees the right eye there") == judge("One never sees the left eye") == 0.0
    assert judge("One sees the left eye or the right eye") == 0.0


@pytest.mark.parametrize(
    ("answer", "reference", "options", "right"),
    [
        # Letters of their own, in any order.
        ("A", "A. left", ["A. left", "B. right"], 1.0),
        ("left", "(A) left", ["A. left", "B. right"], 1.0),
        ("A. right", "A. left", ["A. left", "B. right"], 0.0),
        ("A", "right", ["B. left", "A. right"], 1.0),
        ("2", "right", ["1. left", "2. right"], 1.0),
        ("C", "C", ["A", "B", "C"], 1.0),
        # An option within another one, and numbers.
        ("B) left", "left eye", ["left", "left eye"], 0.0),
        ("left eye", "left eye", ["left", "left eye"], 1.0),
        ("3.50 mm", "3.5 mm", ["3 mm", "3.5 mm"], 1.0),
        ("3.5", "3", ["3", "5"], 0.0),
        ("3, 5", "3", ["3", "4"], 0.5),
        ("-3", "3", ["3", "4"], 0.0),
        ("B) 5", "3", ["4", "3"], 0.0),
        # Letters that belong to a text, articles.
        ("hepatitis C", "hepatitis C", ["hepatitis A", "hepatitis B", "hepatitis C"], 1.0),
        (
            "C. It is hepatitis C.",
            "hepatitis C",
            ["hepatitis A", "hepatitis B", "hepatitis C"],
            1.0,
        ),
        ("B. hepatitis C", "hepatitis C", ["hepatitis A", "hepatitis B", "hepatitis C"], 0.0),
        ("A clip", "clip", ["suture", "clip"], 1.0),
        # Signs.
        ("-", "-", ["+", "-"], 1.0),
        ("B", "-", ["+", "-"], 1.0),
        ("+", "-", ["+", "-"], 0.0),
        ("A", "B", ["?", "!"], 0.0),
        # Yes and no.
        ("No, it isn't torn.", "no", ["yes", "no"], 1.0),
        ("B. No, it isn't.", "no", ["yes", "no"], 1.0),
        ("yes, no", "no", ["yes", "no"], 0.0),
        ("not torn", "not torn", ["torn", "not torn"], 1.0),
        ("not torn", "torn", ["torn", "not torn"], 0.0),
        # The same words twice are one option.
        ("B", "left", ["left", "Left.", "right"], 1.0),
        ("C", "left", ["left", "Left.", "right"], 0.0),
        ("AB", "step 27", [f"step {i}" for i in range(30)], 1.0),
        # A text that is another option's letter names both.
        ("C", "C", ["C", "D", "none"], 0.0),
        ("A. C", "C", ["C", "D", "none"], 1.0),
        # A reference that is none of them is compared by words.
        ("neither", "neither", ["left", "right"], 1.0),
        ("A", "neither", ["left", "right"], 0.0),
    ],
)
def test_kinds_of_options(answer, reference, options, right):
    assert judge(answer, reference, options) == right


TEXTS = (
    "left eye",
    "right eye",
    "two clips",
    "3.5 mm",
    "-3.5 mm",
    "no bleeding",
    "hepatitis B",
    "II",
)
WAYS = ("{label}", "{label}.", "({lower})", "{label}) {text}", "{text}", "The answer is {label}")


@settings(deadline=None)
@given(
    options=st.lists(st.sampled_from(TEXTS), min_size=2, max_size=6, unique=True),
    way=st.sampled_from(WAYS),
    two=st.sampled_from(["{} or {}", "{}, {}", "{} and {}", "{}. {}"]),
    data=st.data(),
)
def test_right_for_its_own_option_alone(options, way, two, data):
    """By construction: each way to name an option, and two of them."""
    right, other = data.draw(st.permutations(range(len(options))))[:2]
    label, said = "ABCDEF"[right], "ABCDEF"[other]
    answer = way.format(label=label, lower=label.lower(), text=options[right])
    assert named_options(answer, options) == {right}
    for i, option in enumerate(options):
        for reference in (option, "ABCDEF"[i], f"{'ABCDEF'[i]}. {option}"):
            assert judge(answer, reference, options) == float(i == right)
    for first, second in ((label, said), (options[right], options[other]), (label, options[other])):
        assert judge(two.format(first, second), options[right], options) < 1.0


def test_options_of_a_grounding_question_do_not_count():
    spans = [(1.0, 2.0)]
    assert judge_answer("[1.0, 2.0]", "[1.0, 2.0]", "grounding", spans, ["a", "b"]) == 1.0


@pytest.mark.parametrize("piece", ["is ", "B. ", "the answer is ", "a, ", "left eye "])
def test_hostile_answers_end(piece):
    options = [f"{'a ' * 500}{i}" for i in range(30)] + EYES
    for length in (990, 1_000_000):
        assert judge((piece * length)[:length], "left eye", options) in (0.0, 0.5)
