"""Asks a trained model about one recording.

    python -m medscope_jax.ask --workdir DIR --video FILE --question TEXT --html trace.html
    python -m medscope_jax.ask --checkpoint CKPT --video FILE --question TEXT

DIR is a training run; CKPT is a weights folder that medscope_jax.convert made of a Qwen2.5-VL model
or of a fine-tune of it. Prints the answer and every window that the model looked at. --html and
--json write the evidence trace: the timeline, the frames that the model saw, its words. Neither
names the file, since a file's name may name a patient. --fps is for a recording whose pictures
carry no times, --partial for one that is cut short: the message about such a one asks for them.
"""

import argparse
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from medscope_jax.bank import take_videos
from medscope_jax.config import ConfigError, parse_arguments, run_main
from medscope_jax.dialogue import Layout, stamp_ids
from medscope_jax.dialogue.sanitize import clean_question
from medscope_jax.distributed import batch_shardings, make_mesh
from medscope_jax.errors import UserError
from medscope_jax.files import check_outputs, make_folder, write_text
from medscope_jax.models import read_model
from medscope_jax.report import Trace, render_trace, trace_json
from medscope_jax.report.make_trace import make_trace
from medscope_jax.report.trace import DISCLAIMER
from medscope_jax.rollout import (
    Trajectory,
    make_prompts,
    make_rollout,
    prompt_width,
    read_trajectories,
    row_keys,
)
from medscope_jax.training import pretrained
from medscope_jax.training.from_config import MODELS, rollout_config
from medscope_jax.training.run import (
    Run,
    VideoSplit,
    make_run,
    make_split_bank,
    model_key,
    run_mesh,
)
from medscope_jax.training.stage import newest_model
from medscope_jax.training.workdir import Workdir, read_workdir
from medscope_jax.video import FrameSize, Video, VideoError, pair_frames, read_video
from medscope_jax.visible import shown, visible

# How the command offers what read_video does about a fault.
_REMEDIES = {"frame_rate": "--fps RATE", "partial": "--partial"}


def roomy_layout(run: Run, video: Video) -> Layout:
    """The run's layout with room for as many frames of this video as of those it was trained on.

    Times beside the bank's ticks, such as "3.4", take more tokens than the ticks themselves.
    """
    longest = max(map(len, stamp_ids(run.tokenizer, run.layout, video.times)))
    wider = longest - len(stamp_ids(run.tokenizer, run.layout, [0.0])[0])
    frames = run.layout.preview_frames + run.layout.max_tool_turns * run.layout.window_frames
    return dataclasses.replace(run.layout, length=run.layout.length + max(0, wider) * frames)


def answer_question(run: Run, params: dict, video: Video, question: str) -> Trajectory:
    """The greedy trajectory of one question about one video.

    Raises:
      UserError: the question is too long for the model's conversations.
    """
    layout = roomy_layout(run, video)
    width = prompt_width(
        [{"question": question}],
        [video.times],
        run.tokenizer,
        layout,
        tools=True,
        spare=run.config.rollout.turn_tokens,
    )
    # Every device that rows are split over needs one: they all get the same question.
    rows = run.mesh.shape["data"] * run.mesh.shape["fsdp"]
    bank = make_split_bank(run, params, VideoSplit([video], {}))
    bank = take_videos(bank, np.zeros(rows, np.int32))
    keys = row_keys(model_key(run.config, "ask"), jnp.arange(rows)).reshape(rows, 1)
    prompts = make_prompts(
        [{"question": question}] * rows,
        range(rows),
        [video.times] * rows,
        keys,
        width,
        run.tokenizer,
        layout,
        tools=True,
    )
    bank, prompts = jax.device_put((bank, prompts), batch_shardings((bank, prompts), run.mesh))
    program = make_rollout(run.mesh, run.model, layout, rollout_config(run.config, 1, greedy=True))
    episode = jax.device_get(program(params, bank, prompts, run.special_tokens)[0])
    return read_trajectories(episode, run.tokenizer, layout)[0]


def describe(trace: Trace) -> list[tuple[str, str]]:
    """(label, text) lines of what the model was shown, where it looked and what it answered."""
    first, last = trace.preview_times[0], trace.preview_times[-1]
    lines = [("preview", f"{_frames(trace.preview_times)}, {first:.1f} to {last:.1f} s")]
    looks = [turn for turn in trace.turns if turn.status]
    for number, turn in enumerate(looks, 1):
        if turn.start is None:
            text = f"{turn.tool or 'unknown tool'}: {turn.observation}"
        else:
            at = f"at {turn.start:.1f} s"
            window = at if turn.start == turn.end else f"{turn.start:.1f} to {turn.end:.1f} s"
            times = ", ".join(f"{time:.1f}" for time in turn.frame_times)
            seen = f"{_frames(turn.frame_times)} at {times} s" if times else "no room to show it"
            text = f"{turn.tool} {window}: {seen}"
        lines.append((f"look {number}", text))
    if not looks:
        lines.append(("looks", "none"))
    lines.append(("answer", trace.answer or "none: the model stopped without answering"))
    return lines


def usable_mesh(config: ConfigDict) -> Mesh:
    """The run's own mesh; one device of this machine where the run's devices are not here."""
    try:
        return run_mesh(config)
    except UserError:
        device = jax.devices()[0]
        wanted = f"{config.device.count} x {config.device.kind or config.device.platform}"
        print(f"trained on {wanted}, which is not here: answering on 1 x {device.platform}")
        return make_mesh({}, [device])


def main(argv: Sequence[str]) -> None:
    """Answers a command line's question."""
    flags = parse_arguments(
        __doc__,
        argv,
        {
            "--workdir": {"metavar": "DIR", "help": "folder of a training run"},
            "--checkpoint": {"metavar": "CKPT", "help": "or a folder of imported weights"},
            "--video": {"required": True, "metavar": "FILE", "help": "a video or DICOM recording"},
            "--question": {"required": True, "metavar": "TEXT", "help": "what to ask about it"},
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
    if flags.fps is not None and not (math.isfinite(flags.fps) and flags.fps > 0):
        raise ConfigError(f"--fps must be a number above 0, got {flags.fps:g}")
    question = clean_question(flags.question, "--question")
    check_outputs({"--html": flags.html, "--json": flags.json}, _inputs(flags))
    console = Console(stderr=True)
    read = functools.partial(_read, console, flags)
    opened = (_of_workdir if flags.workdir else _of_checkpoint)(
        Path(flags.workdir or flags.checkpoint), read, console
    )
    run, params, video, model, origin = opened
    with console.status("answering"):
        found = answer_question(run, params, video, question)
    trace = make_trace(question, found, video, run.layout.preview_frames, model=model)
    heading = [
        ("model", f"{model}, {origin}"),
        ("video", f"{video.duration:.1f} s, {_rate(video, run.config.video)}"),
        *(("note", note) for note in video.notes),
        ("question", question),
    ]
    for label, text in heading + describe(trace):
        print(f"{label:<9} {_indented(text)}")
    print(DISCLAIMER)
    if flags.html:
        _write(flags.html, render_trace(trace))
    if flags.json:
        _write(flags.json, json.dumps(trace_json(trace), indent=2) + "\n")


def _read(
    console: Console, flags: argparse.Namespace, section: ConfigDict, size: FrameSize
) -> Video:
    """The recording as a bank holds it; section: the video section of a config."""
    with console.status("reading the video"):
        try:
            video = read_video(
                flags.video,
                section.fps,
                size,
                section.max_frames * (2 if section.native_pairs else 1),
                # Runs of before there was min_frames are asked like any other.
                min_frames=section.get("min_frames", pretrained.VIDEO.min_frames),
                partial=flags.partial,
                frame_rate=flags.fps,
                resample=section.resample,
            )
        except VideoError as error:
            told = error.advise(_REMEDIES)
            raise UserError(f"{error.path}: {told}" if error.path else told) from error
    return pair_frames(video) if section.native_pairs else video


def _rate(video: Video, section: ConfigDict) -> str:
    """How many frames a second there are; more than asked for of a short recording."""
    rate = section.fps / (2 if section.native_pairs else 1)
    if len(video.times) > math.ceil(video.duration * rate):
        rate = len(video.times) / video.duration
    return f"{_frames(video.times)} at {rate:.3g} fps"


def _of_workdir(path: Path, read: Callable, console: Console) -> tuple:
    """(run, parameters, video, model, where it comes from) of a training run."""
    workdir, config = read_workdir(path)
    video = read(config.video, (config.video.height, config.video.width))
    with console.status("loading the model"):
        run = make_run(config, workdir, usable_mesh(config))
        model, params = newest_model(run, workdir)
    return run, params, video, model, f"after stage {MODELS[model]}"


def _of_checkpoint(path: Path, read: Callable, console: Console) -> tuple:
    """The same of imported weights."""
    model = read_model(path)
    most = pretrained.most_pixels(path)
    size = functools.partial(pretrained.frame_size, model, max_pixels=most)
    video = read(pretrained.VIDEO, size)
    with console.status("loading the model"):
        run = pretrained.open_run(path, model, video.frames.shape[-3:-1])
        params = pretrained.load(run)
    return run, params, video, path.name, "imported weights"


def _frames(times: Sequence[float]) -> str:
    return f"{len(times)} frame" + "s" * (len(times) != 1)


def _inputs(flags: argparse.Namespace) -> dict[str, Path]:
    """What is read, by what a message calls it: no output may be put in its place."""
    inputs = {"the video": Path(flags.video)}
    if flags.checkpoint:
        return inputs | {"the checkpoint": Path(flags.checkpoint)}
    return inputs | {f"the run's {path.name}": path for path in Workdir(Path(flags.workdir)).own}


def _indented(text: str) -> str:
    """Text of others below its label: no line of it passes for a line of ours."""
    return visible(text, keep="\n").replace("\n", "\n" + " " * 10)


def _write(target: str, text: str) -> None:
    make_folder(Path(target).parent, private=True)
    write_text(target, text, private=True)
    print(f"{'written':<9} {shown(target)}")


if __name__ == "__main__":
    run_main(main)
