"""The judge without a model: normalization, token F1 and scores."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.rl import judge_answer, normalize_answer, token_f1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Nucleus, is separated.", "nucleus is separated"),
        ("bi-manual (left)", "bi manual left"),
        ("3.5 mm.", "3.5 mm"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("ﬁne\u00a0grasper", "fine grasper"),
        ("the", "the"),
        ("An", "an"),
        ("the A", "a"),
        ("?!", ""),
    ],
)
def test_normalize(text, expected):
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("two clips", "two clips", 1.0),
        ("two clips", "three clips", 0.5),
        ("clip clip", "clip", 2 / 3),
        ("a blue lens on the left", "blue lens", 2 * 2 / (4 + 2)),  # without the articles
        ("", "clip", 0.0),
        ("?", "!", 1.0),
    ],
)
def test_token_f1(answer, reference, expected):
    assert token_f1(answer, reference) == pytest.approx(expected)


@settings(deadline=None)
@given(st.text("ab c", max_size=12), st.text("ab c", max_size=12))
def test_token_f1_is_symmetric_and_bounded(answer, reference):
    assert 0 <= token_f1(answer, reference) == token_f1(reference, answer) <= 1


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("The Left.", "left", 1.0),
        ("red polyp", "large red polyp", 0.5),
        ("two", "three", 0.0),
        ("", "three", 0.0),
        (".", "...", 0.0),
    ],
)
def test_judge_words(answer, reference, expected):
    assert judge_answer(answer, reference, "vqa") == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("[30.0, 40.0]", 1.0),
        ("[30.0, 37.0]", 1.0),  # IoU 0.7 exactly
        ("[30.0, 36.9]", 0.5),
        ("[30.0, 34.0]", 0.5),  # IoU 0.4 exactly
        ("[30.0, 33.9]", 0.0),
        ("[50, 60]", 0.0),
        ("30 to 40", 0.0),
        ("", 0.0),
    ],
)
def test_judge_grounding(answer, expected):
    assert judge_answer(answer, "[30.0, 40.0]", "grounding", [(30, 40)]) == expected
    assert judge_answer(answer, "[30.0, 40.0]", "grounding") == expected


def test_judge_grounding_of_several_spans():
    evidence = [(0, 10), (20, 30)]
    assert judge_answer("[0, 10], [20, 30]", "", "grounding", evidence) == 1.0
    assert judge_answer("[0, 30]", "", "grounding", evidence) == 0.5
