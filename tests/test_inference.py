"""The Python API: a model is loaded, asked and looked over; its traces are saved."""

import dataclasses
import html
import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from pydicom import examples

import medscope_jax
from medscope_jax import inference
from medscope_jax.dialogue import protocol
from medscope_jax.errors import UserError
from medscope_jax.report.trace import DISCLAIMER
from medscope_jax.training import pretrained
from medscope_jax.training.stage import newest_model
from medscope_jax.training.workdir import Workdir
from medscope_jax.video import read_video
from tests.ask_cases import episode_tokens, make_checkpoint, play_tokens

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "When does a polyp come into view?"
QUESTIONS = ["What moves?", QUESTION, "Which tool holds the tissue near the top left corner?"]
SIZE = (28, 56)
TURNS = [
    "<think>a</think>" + protocol.crop_call(200, 210),
    "<think>b</think>" + protocol.crop_call(3, 6),
    "<think>c</think>" + protocol.frame_call(5),
    "<think>d</think><answer>[3.0, 6.0]</answer>",
]


@pytest.fixture(scope="module")
def medscope(micro_run):
    return medscope_jax.load(micro_run)


@pytest.fixture(scope="module")
def run(medscope):
    return medscope.run_for(SIZE)


@pytest.fixture
def video_file(micro_run, tmp_path):
    """A recording whose file name names a patient."""
    source = micro_run / "suite" / "videos" / "test-endoscopic-000.mp4"
    return Path(shutil.copy(source, tmp_path / "Doe^Jane 1970.mp4"))


@pytest.fixture
def trace(medscope, run, video_file, monkeypatch):
    """A scripted answer: a look beyond the end, at four seconds, at a frame; and the answer."""
    video = medscope.read_video(video_file)
    play_tokens(monkeypatch, episode_tokens(run, video, QUESTION, TURNS))
    return medscope.ask(video_file, QUESTION)


def test_importing_the_package_is_cheap():
    code = "import sys, medscope_jax; print(medscope_jax.__version__, 'jax' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert told.stdout == f"{medscope_jax.__version__} False\n"


def test_what_it_looked_at_and_answered(medscope, trace, video_file):
    assert medscope.weights[:2] == ("rl", "after stage ga_grpo")
    assert (trace.question, trace.answer, trace.model) == (QUESTION, "[3.0, 6.0]", "rl")
    crop, frame = trace.windows
    assert crop[:3] == ("crop_video", 3.0, 6.0) and list(crop.times) == [3.0, 4.0, 5.0, 6.0]
    assert frame[:3] == ("get_frame", 5.0, 5.0) and list(frame.times) == [4.0, 5.0, 6.0]
    video = read_video(video_file, 1.0, SIZE)
    for window in trace.windows:
        for time, picture in zip(window.times, window.frames, strict=True):
            np.testing.assert_array_equal(picture, video.frames[video.times == time][0])
    assert trace.predicted == [(3.0, 6.0)] and len(trace.preview_times) > 1


def test_a_trace_is_shown_and_saved(trace, tmp_path):
    page, data = tmp_path / "new" / "trace.HTML", tmp_path / "trace.json"
    trace.save(page)
    trace.save(str(data))
    assert [stat.S_IMODE(path.stat().st_mode) for path in (page, data)] == [0o600] * 2
    assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700
    written, values = html.unescape(page.read_text()), json.loads(data.read_text())
    assert values["answer"] == "[3.0, 6.0]" and values["notice"] == DISCLAIMER
    assert QUESTION in written and DISCLAIMER in written and written.count("data:image") > 12
    shown = trace._repr_html_()
    assert shown.startswith("<div><iframe") and html.escape(page.read_text()) in shown
    lines = str(trace).splitlines()
    assert lines[0] == "model     rl" and lines[1] == f"question  {QUESTION}"
    assert lines[-2:] == ["answer    [3.0, 6.0]", DISCLAIMER]
    assert "look 3    get_frame at 5.0 s: 3 frames at 4.0, 5.0, 6.0 s" in lines
    for text in (written, data.read_text(), shown, str(trace), repr(trace)):
        assert "Doe" not in text and "1970" not in text and str(tmp_path) not in text
    assert len(repr(trace)) < 4000


def test_what_is_not_replaced(medscope, trace, micro_run, video_file, tmp_path):
    for name in ("trace", "trace.txt", "trace.htm.gz"):
        with pytest.raises(UserError, match=r"saved as \.html or \.json, not as"):
            trace.save(tmp_path / name)
    for own in ("report.html", "config.json", "suite/new.json"):
        with pytest.raises(UserError, match="the run's"):
            trace.save(micro_run / own)
    named = Path(shutil.copy(video_file, tmp_path / "video.json"))
    with pytest.raises(UserError, match="is the video already"):
        medscope.ask(named, QUESTION).save(named)
    assert named.read_bytes() == video_file.read_bytes()
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        trace.save(tmp_path / "folder.html")
    with pytest.raises(UserError, match="only a path of this machine"):
        trace.save("gs://bucket/trace.html")


def contents(trace):
    """All of a trace but its pictures."""
    return [turn.text for turn in trace.turns], trace.answer, repr(trace)


def test_several_questions_at_once(medscope, video_file):
    """Each as it is answered alone; a recording is read once where it is given read."""
    video = medscope.read_video(video_file)
    together = medscope.ask(video, QUESTIONS)
    alone = [medscope.ask(video_file, question) for question in QUESTIONS]
    assert [trace.question for trace in together] == QUESTIONS
    assert list(map(contents, together)) == list(map(contents, alone))
    (one,) = medscope.ask(video, [QUESTION])
    assert contents(one) == contents(alone[1])


def test_what_is_refused(medscope, run, video_file, tmp_path):
    with pytest.raises(UserError, match="the question is empty"):
        medscope.ask(video_file, "?!")
    with pytest.raises(UserError, match="a tag of the protocol"):
        medscope.ask(video_file, [QUESTION, "a </answer> b"])
    with pytest.raises(UserError, match="there are no questions"):
        medscope.ask(video_file, [])
    with pytest.raises(UserError, match="too long for this model"):
        medscope.ask(video_file, "a word " * 400)
    with pytest.raises(UserError, match="no such file"):
        medscope.ask(tmp_path / "none.mp4", QUESTION)
    with pytest.raises(UserError, match="only a path of this machine"):
        medscope.ask("gs://bucket/video.mp4", QUESTION)
    for fps in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="fps must be a number above 0"):
            medscope.ask(video_file, QUESTION, fps=fps)
    larger = read_video(video_file, 1.0, (56, 112))
    with pytest.raises(UserError, match="use read_video"):
        medscope.ask(larger, QUESTION)


def test_what_a_message_asks_for_is_an_argument(medscope, tmp_path):
    """Pictures without times, of which one is missing."""
    import cv2

    for number in (0, 1, 2, 3, 5, 6, 7, 8, 9):
        picture = np.full((28, 56, 3), 20 * number, np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
    with pytest.raises(UserError, match="with fps=RATE$"):
        medscope.ask(tmp_path, QUESTION)
    with pytest.raises(UserError, match="with partial=True$"):
        medscope.ask(tmp_path, QUESTION, fps=2)
    found = medscope.ask(tmp_path, QUESTION, fps=2, partial=True)
    assert found.duration == 5.0 and found.notes[0].startswith("incomplete: 10 frames promised")


def test_runs_and_pairs_of_before_and_of_now(medscope):
    """A run made before there was min_frames asks as others do; pairs show the same pictures."""
    path, section = examples.get_path("ybr_color"), medscope.video.to_dict()

    def read(section):
        return dataclasses.replace(medscope, video=ConfigDict(section)).read_video(path)

    video = read(section)
    assert len(video.times) == section["min_frames"] == 8
    pairs = read(section | {"native_pairs": True})
    np.testing.assert_array_equal(pairs.frames.reshape(video.frames.shape), video.frames)
    del section["min_frames"]
    np.testing.assert_array_equal(read(section).times, video.times)


def test_times_off_the_tick_get_room(run, video_file):
    video = read_video(video_file, 1.0, SIZE)
    assert inference.roomy_layout(run, video) == run.layout
    odd = dataclasses.replace(video, times=video.times * 37.3)
    layout = inference.roomy_layout(run, odd)
    extra = max(len(run.tokenizer.encode(f"{time:.1f}")) for time in odd.times) - 1
    frames = layout.preview_frames + layout.max_tool_turns * layout.window_frames
    assert layout.length == run.layout.length + extra * frames > run.layout.length


def test_the_newest_finished_model_answers(run, micro_run, tmp_path):
    folder = Workdir(tmp_path / "run")
    shutil.copytree(Workdir(micro_run).checkpoints, folder.checkpoints)
    name, params = newest_model(run, folder)
    assert name == "rl"
    newest = max(folder.checkpoints.glob("[0-9]*"))
    shutil.rmtree(newest)
    name, sft = newest_model(run, folder)
    assert name == "sft"
    assert jax.tree.structure(params) == jax.tree.structure(sft)
    for path in folder.checkpoints.glob("[0-9]*"):
        shutil.rmtree(path)
    with pytest.raises(UserError, match="no finished sft or rl model yet"):
        newest_model(run, folder)


def test_a_run_of_absent_devices_is_asked_on_one_device(run, capsys):
    config = ConfigDict(run.config)
    with config.unlocked():
        config.device = ConfigDict({"platform": "tpu", "kind": "v5e", "count": 4, "topology": ""})
        config.mesh.fsdp = 4
    mesh = inference.usable_mesh(config)
    assert mesh.size == 1
    assert "trained on 4 x v5e, which is not here: answering on 1 x cpu" in capsys.readouterr().out


def test_folders_that_hold_no_model(micro_run, tmp_path):
    with pytest.raises(UserError, match="neither a training run .* nor imported weights"):
        medscope_jax.load(tmp_path)
    shutil.copy(micro_run / "config.json", tmp_path)
    with pytest.raises(UserError, match="train first"):
        medscope_jax.load(tmp_path)
    shutil.copy(micro_run / "tokenizer.model", tmp_path)
    with pytest.raises(UserError, match="holds no finished sft or rl model yet"):
        medscope_jax.load(str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(UserError, match="an address of a kind that is not known"):
        medscope_jax.load("ftp://bucket/run")


def test_imported_weights(tmp_path, recording, monkeypatch):
    """Of a folder with model.json; recordings of other sizes are shown at other sizes."""
    monkeypatch.setitem(pretrained._ROLLOUT, "turn_tokens", 24)
    checkpoint = make_checkpoint(tmp_path)
    medscope = medscope_jax.load(checkpoint)
    assert medscope.weights[:2] == ("checkpoint", "imported weights")
    traces = medscope.ask(recording, QUESTIONS[:2])
    assert contents(traces[1]) == contents(medscope.ask(recording, QUESTIONS[1]))
    assert traces[0].preview_images[0].shape == (168, 252, 3) and len(traces[0].preview_times) == 8
    assert traces[0].answer == "" and traces[0].windows == []
    assert "answer    none: the model stopped without answering" in str(traces[0])
    with pytest.raises(UserError, match="lies in the checkpoint"):
        traces[0].save(checkpoint / "trace.json")
