"""Asks a trained model about recordings.

    python -m medscope_jax.ask --workdir DIR --video FILE --question TEXT --html trace.html
    python -m medscope_jax.ask --checkpoint CKPT --video FILE --question TEXT
    python -m medscope_jax.ask --workdir DIR --questions FILE.jsonl --out FILE.jsonl

DIR is a training run; CKPT is a weights folder that medscope_jax.convert made of a Qwen2.5-VL model
or of a fine-tune of it. Prints the answer and every window that the model looked at. --html and
--json write the evidence trace: the timeline, the frames that the model saw, its words. Neither
names the file, since a file's name may name a patient. --fps is for a recording whose pictures
carry no times, --partial for one that is cut short: the message about such a one asks for them.

--questions has a line for each question, {"question": TEXT, "video": FILE}, with "id", "fps" and
"partial" where they are wanted; --video stands for those that name none. --out gets a line for
each, too, with the trace as of --json, or the error. The exit status is 1 where there was one.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from medscope_jax.config import ConfigError, parse_arguments, run_main
from medscope_jax.dialogue.sanitize import clean_question
from medscope_jax.files import check_outputs
from medscope_jax.inference import MedScope, open_checkpoint, open_workdir, workdir_inputs
from medscope_jax.paths import to_path
from medscope_jax.question_file import answer_file, is_rate, read_questions
from medscope_jax.report import render_trace
from medscope_jax.report.trace import (
    DISCLAIMER,
    count_frames,
    describe,
    labelled,
    trace_text,
    write_trace,
)
from medscope_jax.video import Video
from medscope_jax.visible import shown

# How the command offers what read_video does about a fault.
_REMEDIES = {"frame_rate": "--fps RATE", "partial": "--partial"}


def main(argv: Sequence[str]) -> int:
    """Answers a command line's question, or those of a file; the exit status."""
    flags = parse_arguments(
        __doc__,
        argv,
        {
            "--workdir": {"metavar": "DIR", "help": "folder of a training run"},
            "--checkpoint": {"metavar": "CKPT", "help": "or a folder of imported weights"},
            "--video": {"metavar": "FILE", "help": "a video or DICOM recording"},
            "--question": {"metavar": "TEXT", "help": "what to ask about it"},
            "--questions": {"metavar": "FILE", "help": "or many questions, a JSON object a line"},
            "--out": {"metavar": "FILE", "help": "with --questions: write a line of JSON for each"},
            "--fps": {
                "type": float,
                "metavar": "RATE",
                "help": "pictures a second, of a recording that does not say when each was taken",
            },
            "--partial": {
                "action": "store_true",
                "help": "of a recording that is cut short or lacks pictures, read what is there",
            },
            "--html": {"metavar": "FILE", "help": "write the evidence trace as a web page"},
            "--json": {"metavar": "FILE", "help": "write the evidence trace as JSON"},
        },
    )
    if bool(flags.workdir) == bool(flags.checkpoint):
        raise ConfigError(
            "name either --workdir, a training run, or --checkpoint, imported weights"
        )
    if flags.fps is not None and not is_rate(flags.fps):
        raise ConfigError(f"--fps must be a number above 0, got {flags.fps:g}")
    folder = to_path(flags.workdir or flags.checkpoint)
    inputs = workdir_inputs(folder) if flags.workdir else {"the checkpoint": folder}
    _check_kind(flags)
    if flags.questions:
        return _answer_file(flags, folder, inputs)
    question = clean_question(flags.question, "--question")
    inputs = {"the video": Path(flags.video), **inputs}
    check_outputs({"--html": flags.html, "--json": flags.json}, inputs)
    medscope = (open_workdir if flags.workdir else open_checkpoint)(folder)
    console = Console(stderr=True)
    with console.status("reading the video"):
        video = medscope.read_video(
            flags.video, fps=flags.fps, partial=flags.partial, remedies=_REMEDIES
        )
    with console.status("loading the model"):
        model, origin, _ = medscope.weights
    with console.status("answering"):
        trace = medscope.ask(video, question)
    heading = [
        ("model", f"{model}, {origin}"),
        ("video", f"{video.duration:.1f} s, {_rate(video, medscope)}"),
        *(("note", note) for note in video.notes),
        ("question", question),
    ]
    for label, text in heading + describe(trace):
        print(labelled(label, text))
    print(DISCLAIMER)
    for path, text_of in ((flags.html, render_trace), (flags.json, trace_text)):
        if path:
            write_trace(path, text_of(trace))
            print(labelled("written", shown(path)))
    return 0


def _check_kind(flags: argparse.Namespace) -> None:
    """ConfigError where flags of one question and of a file of them are mixed, or some lack."""
    given = {name for name, value in vars(flags).items() if value not in (None, False)}
    if flags.questions:
        mixed = sorted(given & {"question", "html", "json"})
        if mixed:
            raise ConfigError(f"--{mixed[0]} is for one question; leave it out with --questions")
        if not flags.out:
            raise ConfigError("--questions needs --out, the file that the answers are written to")
    elif not {"video", "question"} <= given:
        raise ConfigError("name --video and --question, or --questions and --out")
    elif flags.out:
        raise ConfigError("--out is for --questions; use --json or --html")


def _answer_file(flags: argparse.Namespace, folder: Path, inputs: Mapping[str, Path]) -> int:
    """Answers the questions of --questions; 1 where there was an error."""
    asked = read_questions(Path(flags.questions), flags.video, flags.fps, flags.partial)
    videos = {f"the video of line {each.line}": Path(each.recording[0]) for each in asked}
    inputs = {"the questions": Path(flags.questions), **videos, **inputs}
    check_outputs({"--out": flags.out}, inputs)
    medscope = (open_workdir if flags.workdir else open_checkpoint)(folder)
    lines, failed = [], 0
    for answer in answer_file(medscope, asked, _REMEDIES, print):
        if "error" in answer:
            failed += 1
            print(labelled(f"line {answer['line']}", answer["error"]))
        lines.append(json.dumps(answer))
        write_trace(flags.out, "\n".join(lines) + "\n")  # as far as it is, should this end
    print(f"{len(lines) - failed} of {len(lines)} questions answered: {shown(flags.out)}")
    print(DISCLAIMER)
    return 1 if failed else 0


def _rate(video: Video, medscope: MedScope) -> str:
    """How many frames a second there are; more than asked for of a short recording."""
    section = medscope.video
    rate = section.fps / (2 if section.native_pairs else 1)
    if len(video.times) > math.ceil(video.duration * rate):
        rate = len(video.times) / video.duration
    return f"{count_frames(video.times)} at {rate:.3g} fps"


if __name__ == "__main__":
    run_main(main)
