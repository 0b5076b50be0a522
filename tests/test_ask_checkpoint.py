"""A question to imported weights: a Hugging Face folder in, an evidence trace out."""

import json

import pytest

from medscope_jax import ask, inference
from medscope_jax.dialogue import protocol
from medscope_jax.report.trace import DISCLAIMER
from medscope_jax.training import pretrained
from medscope_jax.video import read_video
from tests.ask_cases import episode_tokens, make_checkpoint, play_tokens

QUESTION = "When does the clip come into view?"
TURNS = [
    "<think>a</think>" + protocol.crop_call(2, 4),
    "<think>b</think><answer>[2.0, 4.0]</answer>",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("hub"))


def test_what_it_looks_at_and_answers(checkpoint, recording, tmp_path, monkeypatch, capsys):
    """The model's words are scripted; its tokenizer, frames, tools and trace are the real ones.

    It ends with <|endoftext|>, as its generation_config.json says; what it would write after that
    is never asked for.
    """
    medscope = inference.open_checkpoint(checkpoint)
    size = medscope.frame_size(120, 160)
    assert size == (168, 252)  # as the reference: 4:3, at most 224 x 224 pixels, multiples of 28
    run = medscope.run_for(size)
    # Six frames at one a second are fewer than are shown of any recording that has more.
    video = read_video(recording, 1.0, size, min_frames=8)
    seen = video.times[(video.times >= 2) & (video.times <= 4)]
    assert len(video.times) == 8 and len(seen) == 3
    told = episode_tokens(run, video, QUESTION, TURNS)
    further = run.tokenizer.encode("<think>c</think><answer>[0.0, 1.0]</answer>")
    play_tokens(monkeypatch, [*told[:-1], run.tokenizer.tag(protocol.PAD), *further])
    arguments = ["--checkpoint", str(checkpoint), "--video", str(recording)]
    arguments += ["--question", QUESTION, "--json", str(tmp_path / "trace.json")]
    ask.main(arguments)
    printed = capsys.readouterr().out
    seen = ", ".join(f"{time:.1f}" for time in seen)
    assert f"look 1    crop_video 2.0 to 4.0 s: 3 frames at {seen} s" in printed
    assert "answer    [2.0, 4.0]" in printed and "imported weights" in printed
    assert DISCLAIMER in printed and "Jane" not in printed
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert trace["answer"] == "[2.0, 4.0]"
    assert [turn["text"] for turn in trace["turns"]] == TURNS
    assert len(trace["preview_times"]) == 8


def test_weights_and_bank_enter(checkpoint, recording, capsys, monkeypatch):
    """Unscripted: random weights write something, turn by turn, and the program ends."""
    monkeypatch.setitem(pretrained._ROLLOUT, "turn_tokens", 24)
    arguments = ["--checkpoint", str(checkpoint), "--video", str(recording)]
    ask.main([*arguments, "--question", QUESTION])
    assert "none: the model stopped without answering" in capsys.readouterr().out


def test_one_of_the_two(checkpoint, refusal):
    both = ["--workdir", "x", "--checkpoint", str(checkpoint)]
    for flags in ([], both):
        line = refusal(ask.main, [*flags, "--video", "v.mp4", "--question", QUESTION])
        assert "name either --workdir" in line


def test_a_folder_without_weights(tmp_path, recording, refusal):
    arguments = ["--checkpoint", str(tmp_path), "--video", str(recording)]
    assert "has no model.json" in refusal(ask.main, [*arguments, "--question", QUESTION])
