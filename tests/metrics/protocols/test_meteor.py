"""METEOR against pycocoevalcap's own talk with the Java program, and where that would hang."""

import subprocess

import numpy as np
import pytest

from medscope_jax.errors import UserError
from medscope_jax.metrics.protocols import meteor
from tests.metrics.protocols.text_cases import random_pairs

PLAIN = "the clip is placed on the duct"
# (answer, reference): twins of the first that would hang the library or part a field, and nothing.
HARD = [
    (PLAIN, PLAIN),
    ("the clip is\nplaced\r\non the duct", PLAIN),
    ("the clip is placed ||| on the duct", PLAIN),
    (PLAIN, "the clip is\nplaced on the ||| duct"),
    ("", PLAIN),
    ("\n", PLAIN),
    (PLAIN, ""),
    ("", ""),
]


@pytest.mark.invariant
def test_scores_are_the_protocols_also_of_what_its_library_hangs_at(monkeypatch):
    """Of 200 pairs, other alphabets and single words: the score of all, and each question's."""
    library = pytest.importorskip("pycocoevalcap.meteor.meteor")
    try:
        meteor.meteor_rows([], [])
    except UserError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dfile.encoding=UTF-8")
    answers, references = random_pairs()
    answers += ["clip", "手术 开始", "größe", "ä"]
    references += ["Clip.", "手术 开始", "größen", "ö"]
    count = len(answers)
    expected, singles = library.Meteor().compute_score(
        {i: [text] for i, text in enumerate(references)},
        {i: [text] for i, text in enumerate(answers)},
    )
    hard_answers, hard_references = zip(*HARD, strict=True)
    rows = meteor.meteor_rows([*answers, *hard_answers], [*references, *hard_references])
    assert rows.shape == (count + len(HARD), 23)
    # An empty answer counts in the score of all: none of its reference's words is found.
    sums = [rows[:count].sum(axis=0), rows[count] + rows[count + 4]]
    found = meteor.meteor_scores(np.vstack([sums, rows]))
    assert found[0] == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(found[2 : count + 2], singles, atol=1e-9)
    plain, *twins = found[count + 2 : count + 6]
    assert plain > 0.99 and twins == [plain] * 3
    assert found[count + 6 :].tolist() == [0] * 4
    assert 0 < found[1] < plain


def test_no_java_is_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(UserError, match="METEOR needs Java, and there is none: "):
        meteor.meteor_rows(["a"], ["a"])


def test_no_pycocoevalcap_is_one_line(monkeypatch):
    monkeypatch.setattr(meteor, "_java", lambda: "java")
    monkeypatch.setattr(meteor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="METEOR needs pycocoevalcap, which is not installed: "):
        meteor.meteor_rows(["a"], ["a"])


@pytest.mark.parametrize(
    ("status", "output", "told"),
    [
        (1, b"", "ended with status 1 after 0 of 1 replies: Error: no memory"),
        (0, b"1.0\n1.0\n", "ended with status 0 after 2 of 1 replies: "),
    ],
)
def test_a_program_that_fails_is_one_line(monkeypatch, tmp_path, status, output, told):
    monkeypatch.setattr(meteor, "_java", lambda: "java")
    monkeypatch.setattr(meteor, "_folder", lambda: tmp_path)

    def run(command, **_):
        return subprocess.CompletedProcess(command, status, output, b"Trace\nError: no memory\n")

    monkeypatch.setattr(meteor.subprocess, "run", run)
    with pytest.raises(UserError, match=told):
        meteor.meteor_rows(["a"], ["a"])
    assert not len(meteor.meteor_rows([], []))
