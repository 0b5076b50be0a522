"""Questions of a file: each has a line of answers, or of what is wrong, and names no patient."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import medscope_jax
from medscope_jax import ask
from medscope_jax.errors import UserError, run_main
from medscope_jax.question_file import read_questions
from medscope_jax.report.trace import DISCLAIMER, trace_json

TEXTS = ["When does a polyp come into view?", "What is it?", "Where?"]


@pytest.fixture
def recordings(micro_run, tmp_path):
    """Two recordings and one that is none, whose names name patients."""
    found = []
    for name in ("endoscopic-000", "ophthalmic-000"):
        source = micro_run / "suite" / "videos" / f"test-{name}.mp4"
        found.append(str(shutil.copy(source, tmp_path / f"Doe^Jane {name}.mp4")))
    broken = tmp_path / "Doe^John.mp4"
    broken.write_bytes(b"no recording")
    return [*found, str(broken)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(monkeypatch, *flags):
    """The exit status of the command."""
    monkeypatch.setattr("sys.argv", ["ask", *map(str, flags)])
    with pytest.raises(SystemExit) as stop:
        run_main(ask.main)
    return stop.value.code or 0


def test_each_line_has_its_answer(micro_run, recordings, tmp_path, monkeypatch, capfd):
    """That which the question has when it is asked alone, whatever is asked beside it."""
    first, second, broken = recordings
    rows = [
        {"question": TEXTS[0], "video": first, "id": "a"},
        {"question": TEXTS[1], "video": second, "id": 7},
        {"question": TEXTS[2], "video": broken},
        {"question": "way too long " * 400, "video": first},
        {"question": TEXTS[2]},
    ]
    out = tmp_path / "new" / "answers.jsonl"
    asked = write(tmp_path / "asked.jsonl", rows)
    flags = ["--workdir", micro_run, "--questions", asked, "--video", first, "--out", out]
    assert run(monkeypatch, *flags) == 1
    told = capfd.readouterr().out
    assert "3 of 5 questions answered" in told and DISCLAIMER in told
    found = {row["line"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert sorted(found) == [1, 2, 3, 4, 5]
    assert found[1]["id"] == "a" and found[2]["id"] == 7 and "id" not in found[5]
    model = medscope_jax.load(micro_run)
    for line, text, video in ((1, TEXTS[0], first), (2, TEXTS[1], second), (5, TEXTS[2], first)):
        wanted = json.loads(json.dumps(trace_json(model.ask(video, text))))
        own = {key: value for key, value in found[line].items() if key not in ("line", "id")}
        assert own == wanted
    assert found[3]["error"].startswith("the recording: ") and "answer" not in found[3]
    assert "too long" in found[4]["error"]
    text = out.read_text()
    assert "Doe" not in text and str(tmp_path) not in text
    assert out.stat().st_mode & 0o077 == 0


def test_all_answered_is_success(micro_run, recordings, tmp_path, monkeypatch):
    asked = write(tmp_path / "asked.jsonl", [{"question": TEXTS[0], "video": recordings[0]}])
    flags = ["--workdir", micro_run, "--questions", asked, "--out", tmp_path / "out.jsonl"]
    assert run(monkeypatch, *flags) == 0


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--questions", "q"], "--questions needs --out"),
        (["--questions", "q", "--out", "o", "--question", "x"], "--question is for one question"),
        (["--questions", "q", "--out", "o", "--html", "x"], "--html is for one question"),
        (["--video", "v", "--question", "x", "--out", "o"], "--out is for --questions"),
        (["--question", "x"], "name --video and --question, or --questions and --out"),
    ],
)
def test_flags_that_do_not_go_together(micro_run, refusal, flags, message):
    assert message in refusal(ask.main, ["--workdir", micro_run, *flags])


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"question": "x"}', 'line 1 of .* names no "video": give each its own, or --video'),
        (
            '{"question": "x", "video": "a"}\n{"video": "a"}',
            "line 2 of .* is no question: lacks question",
        ),
        ('{"question": "x", "video": "a", "vidoe": "b"}', "a key that is none of question, video"),
        ('{"question": 3, "video": "a"}', "question must be a text"),
        ('{"question": " ", "video": "a"}', "line 1 of"),
        ("[]", "line 1"),
        ('{"question": "x", "video": "a", "fps": 0}', "fps must be a number above 0"),
        ("{", "line 1 of .* is no question: no JSON"),
        ("", "holds no questions"),
    ],
)
def test_lines_that_are_no_questions(tmp_path, text, message):
    path = tmp_path / "asked.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_questions(path, None, None, False)


def test_no_file_takes_an_input_s_place(micro_run, recordings, tmp_path, refusal):
    asked = write(tmp_path / "asked.jsonl", [{"question": TEXTS[0], "video": recordings[0]}])
    for out in (asked, recordings[0]):
        line = refusal(ask.main, ["--workdir", micro_run, "--questions", asked, "--out", out])
        assert str(out) in line


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "asked.jsonl"
    path.write_bytes(data)
    try:
        found = read_questions(path, "a.mp4", None, False)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert found and all(each.question.strip() for each in found)
