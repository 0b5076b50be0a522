"""Asks a trained or an imported model about recordings: what `medscope_jax.load` gives.

    medscope = medscope_jax.load("runs/cpu")
    trace = medscope.ask("recording.mp4", "When is the clip placed?")
    print(trace.answer, [(window.start, window.end) for window in trace.windows])
    trace.save("trace.html")

`python -m medscope_jax.ask` asks from a command line. Research software, not a medical device.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.copies import local_copy
from medscope_jax.dialogue import Layout, Tokenizer, load_qwen_tokenizer, stamp_ids
from medscope_jax.dialogue.sanitize import clean_question
from medscope_jax.distributed import abstract, make_mesh, param_shardings
from medscope_jax.errors import UserError
from medscope_jax.files import check_folder, check_local, is_there
from medscope_jax.models import load_params, read_model
from medscope_jax.models.weights import MODEL, weight_shapes
from medscope_jax.paths import to_path
from medscope_jax.report import Trace
from medscope_jax.report.make_trace import make_trace
from medscope_jax.rollout import Trajectory, VideoQuestion
from medscope_jax.training import pretrained
from medscope_jax.training.from_config import MODELS
from medscope_jax.training.run import (
    Run,
    VideoSplit,
    make_run,
    make_split_bank,
    model_key,
    rollout_engine,
    run_mesh,
)
from medscope_jax.training.stage import newest_model
from medscope_jax.training.workdir import Workdir, read_workdir
from medscope_jax.video import FrameSize, Video, VideoError, pair_frames, read_video

# How `ask` offers what read_video does about a fault.
_REMEDIES = {"frame_rate": "fps=RATE", "partial": "partial=True"}


class LoadedWeights(NamedTuple):
    """A model's parameters, and what to call them."""

    name: str  # of the model: rl or sft of a run, or its folder's name
    origin: str  # "after stage ga_grpo", "imported weights"
    params: dict


@dataclasses.dataclass(frozen=True, eq=False)
class MedScope:
    """A model to ask about recordings; see load.

    Attributes:
        inputs: what is read of it, by what a message calls it: no output may be put in its place.
        video: how it is shown recordings, the video section of a config.
        frame_size: (height, width) of its frames in pixels, or a function that gives them for a
            recording's own.
        run_for: its Run for frames of (height, width) pixels.
        load_weights: reads its parameters onto the Run's devices.
    """

    inputs: Mapping[str, Path]
    video: ConfigDict
    frame_size: FrameSize
    run_for: Callable[[tuple[int, int]], Run]
    load_weights: Callable[[], LoadedWeights]

    @functools.cached_property
    def weights(self) -> LoadedWeights:
        """Its parameters, which are read once."""
        return self.load_weights()

    @overload
    def ask(
        self,
        video: str | os.PathLike | Video,
        question: str,
        *,
        fps: float | None = None,
        partial: bool = False,
    ) -> Trace: ...

    @overload
    def ask(
        self,
        video: str | os.PathLike | Video,
        question: list[str],
        *,
        fps: float | None = None,
        partial: bool = False,
    ) -> list[Trace]: ...

    def ask(
        self,
        video: str | os.PathLike | Video,
        question: str | list[str],
        *,
        fps: float | None = None,
        partial: bool = False,
    ) -> Trace | list[Trace]:
        """Asks about one recording; the model looks where it likes, and answers greedily.

        Args:
            video: a video file, a DICOM recording or a folder of pictures, or what read_video gave.
            question: one question, or a list of them, which are answered at the same time. Each
                takes memory of its own for the video's tokens and the conversation.
            fps: pictures a second, of a recording that does not say when each was taken.
            partial: of a recording that is cut short or lacks pictures, read what is there.

        Returns:
            The Trace of the answer; of several questions a list, in their order.

        Raises:
            UserError: one line: a recording that can't be read, a question that can't be asked or
                is too long for the model's conversations, an fps that is no number above 0.
        """
        texts = [question] if isinstance(question, str) else question
        questions = [clean_question(text) for text in texts]
        inputs = dict(self.inputs)
        if not isinstance(video, Video):
            inputs["the video"] = Path(video)
            video = self.read_video(video, fps=fps, partial=partial)
        run = self.run_for(video.frames.shape[-3:-1])
        found = answer_questions(run, self.weights.params, video, questions)
        traces = []
        for text, trajectory in zip(questions, found, strict=True):
            shown, name = run.layout.preview_frames, self.weights.name
            trace = make_trace(text, trajectory, video, shown, model=name)
            traces.append(dataclasses.replace(trace, inputs=inputs))
        return traces[0] if isinstance(question, str) else traces

    def read_video(
        self,
        path: str | os.PathLike,
        *,
        fps: float | None = None,
        partial: bool = False,
        remedies: Mapping[str, str] = _REMEDIES,
    ) -> Video:
        """The recording as the model is shown it, to be asked about more than once.

        Args:
            path, fps, partial: as in ask.
            remedies: how an error offers them, see VideoError.advise.

        Returns:
            Video: frames uint8 [T, H, W, 3] (of pairs [T, 2, H, W, 3]), times [T] in seconds.

        Raises:
            UserError: as ask.
        """
        section = self.video
        check_local(path, "the video")
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise UserError(f"fps must be a number above 0, got {fps:g}")
        try:
            video = read_video(
                path,
                section.fps,
                self.frame_size,
                section.max_frames * (2 if section.native_pairs else 1),
                # Runs of before there was min_frames are asked like any other.
                min_frames=section.get("min_frames", pretrained.VIDEO.min_frames),
                partial=partial,
                frame_rate=fps,
                resample=section.resample,
            )
        except VideoError as error:
            told = error.advise(remedies)
            raise UserError(f"{error.path}: {told}" if error.path else told) from error
        return pair_frames(video) if section.native_pairs else video


def load(folder: str | os.PathLike) -> MedScope:
    """A model to ask, of a training run's folder or a folder of imported weights.

    A run's newest finished model is taken (rl, or else sft), on the run's devices, or on one of
    this machine where those are not here; imported weights (of medscope_jax.convert) on one device.

    Raises:
        UserError: one line: neither of the two, a run without a finished model, damaged files.
    """
    check_folder(folder, "the model's folder")
    path = to_path(folder, "the model's folder")
    if is_there(path / MODEL):
        medscope = open_checkpoint(path)
    elif is_there(Workdir(path).config):
        medscope = open_workdir(path)
    else:
        raise UserError(
            f"{path} is neither a training run (no config.json) nor imported weights (no {MODEL}): "
            "train one with python -m medscope_jax.train, or import a model with python -m "
            "medscope_jax.convert"
        )
    _ = medscope.weights  # now: what is wrong with them is said here
    return medscope


def open_workdir(path: Path) -> MedScope:
    """The model of a training run; its weights are read when they are needed."""
    workdir, config = read_workdir(path)

    @functools.cache
    def run() -> Run:
        return make_run(config, workdir, usable_mesh(config))

    def load_weights() -> LoadedWeights:
        name, params = newest_model(run(), workdir)
        return LoadedWeights(name, f"after stage {MODELS[name]}", params)

    return _of_run(config.video, path, run, load_weights)


def model_of_run(run: Run, name: str, params: dict) -> MedScope:
    """A model of a run whose parameters are at hand, such as passive, sft or rl."""
    weights = LoadedWeights(name, f"of {run.folder}", params)
    return _of_run(run.config.video, run.folder, lambda: run, lambda: weights)


def _of_run(
    video: ConfigDict,
    folder: Path,
    run: Callable[[], Run],
    load_weights: Callable[[], LoadedWeights],
) -> MedScope:
    """A model of the run in a folder."""
    size = video.height, video.width

    def run_for(shown: tuple[int, int]) -> Run:
        if tuple(shown) != size:
            raise UserError(f"frames of {shown} pixels; this model is shown {size}: use read_video")
        return run()

    return MedScope(workdir_inputs(folder), video, size, run_for, load_weights)


def workdir_inputs(path: Path) -> dict[str, Path]:
    """What a run's folder holds, by what a message calls it."""
    return {f"the run's {own.name}": own for own in Workdir(path).own}


def open_checkpoint(path: Path, axes: Mapping[str, int] | None = None) -> MedScope:
    """The model of a folder of imported weights, which are read when they are needed.

    axes: of a mesh of all devices, see make_mesh; None: on one device.

    Raises:
        UserError: no weights folder, or the axes do not fit the devices or the model.
    """
    path = local_copy(path)
    model = read_model(path)
    most = pretrained.most_pixels(path)
    size = functools.partial(pretrained.frame_size, model, max_pixels=most)
    if axes is None:
        mesh = make_mesh({}, jax.devices()[:1])
    else:
        mesh = make_mesh(axes, kv_heads=model.text.num_key_value_heads)

    @functools.cache
    def tokenizer() -> Tokenizer:
        return load_qwen_tokenizer(path, model.text.vocab_size)

    def run_for(shown: tuple[int, int]) -> Run:
        return pretrained.pretrained_run(path, model, tokenizer(), mesh, shown)

    def load_weights() -> LoadedWeights:
        tokenizer()  # first: it tells sooner what is wrong
        shapes = weight_shapes(model)
        params = load_params(path, abstract(shapes, param_shardings(shapes, mesh)))
        return LoadedWeights(path.name, "imported weights", params)

    return MedScope({"the checkpoint": path}, pretrained.VIDEO, size, run_for, load_weights)


def usable_mesh(config: ConfigDict) -> Mesh:
    """The run's own mesh; one device of this machine where the run's devices are not here."""
    try:
        return run_mesh(config)
    except UserError:
        device = jax.devices()[0]
        wanted = f"{config.device.count} x {config.device.kind or config.device.platform}"
        print(f"trained on {wanted}, which is not here: answering on 1 x {device.platform}")
        return make_mesh({}, [device])


def answer_questions(
    run: Run, params: dict, video: Video, questions: Sequence[str]
) -> list[Trajectory]:
    """The greedy trajectory of each question about one video, in one batch.

    Raises:
        UserError: a question is too long for the model's conversations.
    """
    layout = roomy_layout(run, video)
    engine = dataclasses.replace(rollout_engine(run, 1, greedy=True), layout=layout)
    asked = [
        VideoQuestion({"question": text}, 0, video.times, number)
        for number, text in enumerate(questions)
    ]
    width = engine.prompt_width(asked, spare=run.config.rollout.turn_tokens)
    bank = make_split_bank(run, params, VideoSplit([video], {}))
    key = model_key(run.config, "ask")
    batches = engine.roll_out(params, bank, asked, key, width=width, batch_size=len(asked))
    return [found for batch in batches for (found,) in batch]


def roomy_layout(run: Run, video: Video) -> Layout:
    """The run's layout with room for as many frames of this video as of those it was trained on.

    Times beside the bank's ticks, such as "3.4", take more tokens than the ticks themselves.
    """
    longest = max(map(len, stamp_ids(run.tokenizer, run.layout, video.times.tolist())))
    wider = longest - len(stamp_ids(run.tokenizer, run.layout, [0.0])[0])
    frames = run.layout.preview_frames + run.layout.max_tool_turns * run.layout.window_frames
    return dataclasses.replace(run.layout, length=run.layout.length + max(0, wider) * frames)
