"""The words judge: what carries meaning counts, what does not is dropped."""

import decimal
import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medscope_jax.rl import judge_answer, normalize_answer


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        # Letters of choices, articles.
        ("A", "A", 1.0),
        ("(A)", "A", 1.0),
        ("a.", "A", 1.0),
        ("A", "B", 0.0),
        ("A, B", "B", 0.5),
        ("hepatitis A", "hepatitis", 0.5),
        ("type A dissection", "type dissection", 0.5),
        ("A polyp", "polyp", 1.0),
        ("removal of a polyp", "the removal of the polyp", 1.0),
        ("grade II", "grade III", 0.5),
        ("I", "I.", 1.0),
        # Signs, comparisons.
        ("-3.5", "3.5", 0.0),
        ("-3.5 D", "+3.5 D", 0.0),
        ("+3.5 D", "3.5D", 1.0),
        ("\u22123.5", "-3.5", 1.0),
        ("(\u20133.5)", "-3.5", 1.0),
        ("<5 mm", ">5 mm", 0.0),
        ("\u2265 5 mm", ">=5 mm", 1.0),
        ("\u22645", "\u22655", 0.0),
        ("\u2264 5", "<5", 0.0),
        ("\u2248 5", "~5", 1.0),
        ("\u00b10.5", "0.5", 0.0),
        ("+/- .5", "\u00b10.50", 1.0),
        ("2+", "2", 0.0),
        ("HER2+", "HER2", 0.0),
        ("+", "-", 0.0),
        ("+", "+", 1.0),
        ("\u2212", "-", 1.0),
        # Decimals, groups of digits, exponents.
        (".5", "5", 0.0),
        (".5", "0.5", 1.0),
        ("3.50", "3.5", 1.0),
        ("3.", "3.0", 1.0),
        ("1,000", "1000", 1.0),
        ("10\u202f000", "10,000", 1.0),
        ("10 000", "10'000.0", 1.0),
        ("1, 000", "1000", 0.0),
        ("\uff13\uff0e\uff15\uff10", "3.5", 1.0),
        ("\u0663", "3", 1.0),
        ("10\u00b2 cells", "102 cells", 0.0),
        ("\u00b2", "2", 0.0),
        ("\u22605", "5", 0.0),
        ("\u22605", "not 5", 1.0),
        ("\u226a5", "\u226b5", 0.0),
        ("10\u00b2 cells", "10^2 cells", 1.0),
        ("10\u207b\u00b3", "10^-3", 1.0),
        ("10\u207b\u00b3", "10\u00b3", 0.0),
        ("5 mm\u00b2", "5 mm\u00b3", 0.0),
        ("1e-5", "1e5", 0.0),
        # Fractions, ranges, ratios, levels.
        ("\u00bd", "1/2", 1.0),
        ("1\u00bd", "11/2", 0.0),
        ("1/2", "12", 0.0),
        ("3\u20135 mm", "3-5mm", 1.0),
        ("3 - 5", "3-5", 1.0),
        ("3-5", "35", 0.0),
        ("3-5", "-5", 0.0),
        ("1:2", "12", 0.0),
        ("1 : 2", "1:2", 1.0),
        ("C3\u2013C4", "C3-C4", 1.0),
        ("C3-C4", "C4-C5", 0.0),
        ("T2", "T1", 0.0),
        ("T2-weighted", "T2 weighted", 1.0),
        ("IL-6", "IL 6", 1.0),
        # Units.
        ("5 %", "5%", 1.0),
        ("5%", "5 mm", 0.0),
        ("5 mm", "5 cm", 0.0),
        ("5 mm", "5", 0.5),
        ("5 \u00b5m", "5\u03bcm", 1.0),
        ("37 \u2103", "37 \u00baC", 1.0),
        ("37 \u00b0C", "37 \u00b0F", 0.5),
        ("3x4 mm", "3 \u00d7 4mm", 1.0),
        # A denial is not half of what it denies.
        ("no bleeding", "bleeding", 0.0),
        ("the capsule isn\u2019t torn", "the capsule is torn", 0.0),
        ("no bleeding is seen", "no bleeding seen", 0.5),
        # Punctuation of any script.
        ("\u6838\u5df2\u5206\u79bb\u3002", "\u6838\u5df2\u5206\u79bb", 1.0),
        ("5\u6beb\u7c73", "5 \u6beb\u7c73", 1.0),
        ("the surgeon\u2019s hand", "the surgeon's hand", 1.0),
        ("peri\u2013operative", "peri-operative", 1.0),
        ("left-sided", "left sided", 1.0),
        ("\u201cphaco\u201d", "phaco", 1.0),
        ("\u00abphaco\u00bb \u2026", "**phaco**", 1.0),
        ("The nucleus, is separated.", "nucleus is separated", 1.0),
        ("\u0915\u0940", "\u0915\u093e", 0.0),  # differ in a vowel sign
        ("so\u00adlution\u200b", "solution", 1.0),
    ],
)
def test_what_carries_meaning(answer, reference, right):
    assert judge_answer(answer, reference, "vqa") == right
    assert judge_answer(reference, answer, "vqa") == right


# Punctuation that says nothing beside a word, of all scripts.
MARKS = "".join(
    mark
    for mark in map(chr, range(0x3100))
    if unicodedata.category(mark) in ("Pc", "Ps", "Pe", "Pi", "Pf", "Po")
    and mark not in "%./:&\u2030"
)
WORDS = st.lists(st.sampled_from(["nucleus", "left", "T2", "3.5", "-1", "B", "\u6838"]), min_size=1)
marks = st.text(MARKS, max_size=3)


@settings(deadline=None, max_examples=60)
@given(words=WORDS, data=st.data())
def test_marks_case_and_spaces_say_nothing(words, data):
    around = [data.draw(marks) + " " + data.draw(st.sampled_from(["", "the "])) for _ in words]
    said = "".join(mark + word for mark, word in zip(around, words, strict=True))
    said += data.draw(marks)
    assume("1," not in said and "'" not in said and "\u2019" not in said)
    assert normalize_answer(said.upper()) == normalize_answer(" ".join(words))


numbers = st.decimals(-99_999, 99_999, places=3, allow_nan=False)


def spellings(value):
    """A number as people type it."""
    exact = value.normalize()
    plain = f"{exact:f}"
    grouped, padded = f"{exact:,f}", plain + ("0" if "." in plain else ".00")
    found = [plain, grouped, padded, plain.replace("-", "\u2212")]
    found.append(plain.translate({ord(c): ord(c) + 0xFEE0 for c in "0123456789.-"}))
    if "0." in plain and abs(value) < 1:
        found.append(plain.replace("0.", ".", 1))
    if value > 0:
        found.append("+" + plain)
    return found


@settings(deadline=None, max_examples=60)
@given(numbers, numbers, st.sampled_from(["", " mm", "%"]))
def test_numbers_count_by_their_value(first, second, unit):
    """Against decimal.Decimal: the same in every spelling, and no other number."""
    assume(first or not first.is_signed())  # -0 is what nobody writes
    plain = spellings(first)[0] + unit
    for spelled in spellings(first):
        assert judge_answer(spelled + unit, plain, "vqa") == 1.0, spelled
    for other in (second, -first, first + decimal.Decimal("0.001"), first * 10):
        if other != first:
            assert judge_answer(spellings(other)[0] + unit, plain, "vqa") == 0.0, other


@settings(deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_texts_are_judged_alike_both_ways(first, second):
    score = judge_answer(first, second, "vqa")
    assert score == judge_answer(second, first, "vqa") and score in (0.0, 0.5, 1.0)
    assert judge_answer(first, first, "vqa") == float(bool(normalize_answer(first)))


@pytest.mark.parametrize("piece", ["a ", "the\u2003", "1,000,", "1.", "<= ", "!", "\ufdfa", "1 - "])
def test_hostile_answers_take_linear_time(piece):
    text = piece * (1_000_000 // len(piece))
    assert judge_answer(text, "x" + text, "vqa") in (0.0, 0.5)
