"""The work of benchmarks/train_step.py: what every side makes anew, in a process of its own."""

import dataclasses
import functools
from pathlib import Path

import cv2
import jax
import numpy as np

from benchmarks.chatter import WORDS, chatter
from benchmarks.peers_video import Recording
from medscope_jax.bank import HostBank, make_bank, stack_bank
from medscope_jax.config import load_config
from medscope_jax.dialogue import stamp_ids, train_tokenizer
from medscope_jax.distributed import make_mesh
from medscope_jax.models import count_params, encode_frames
from medscope_jax.rollout import find_special_tokens
from medscope_jax.training.from_config import make_layout, with_vocabulary
from medscope_jax.training.run import Run
from medscope_jax.video import Video, read_video

_CPU = Path(__file__).resolve().parent.parent / "tpu_configs" / "cpu.py"
_HEADS = {"num_key_value_heads": 2, "mrope_section": (8, 12, 12)}
_TOWER = {"hidden_size": 128, "intermediate_size": 256, "num_heads": 4}
# By name: what of the CPU config's model is another, for about 1, 5 and 20 million parameters; and
# a seed with which some rollouts call once, some several times.
SIZES = {
    "1m": {"text": {}, "vision": {}, "seed": 20},
    "5m": {
        "text": _HEADS | {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 5},
        "vision": _TOWER,
        "seed": 19,
    },
    "20m": {
        "text": _HEADS
        | {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6}
        | {"num_attention_heads": 8},
        "vision": _TOWER,
        "seed": 10,
    },
}
# Matrices have this standard deviation times the square root of the width: with less of it layers
# decide alike whatever they are shown, with more they forget the protocol.
_GAIN, _SHARPNESS = 0.16, 4.5
RECORDINGS, SECONDS, NATIVE_FPS = 8, 120, 4.0
GROUP = 8  # rollouts a question, as the CPU config's
_BANK_FRAMES = 128


@dataclasses.dataclass(frozen=True)
class Job:
    """One measurement: how many rollouts of what.

    Attributes:
      size: of SIZES.
      rollouts: a multiple of group.
      group: rollouts of a question.
      turns: most tool calls of a rollout.
      window: most frames of one.
      length: slots of a conversation.
      always: whether every turn asks for a long window; else the weights decide.
      bank_seconds: of the bank's videos in place of the recordings' (one frame a second, random
        visual tokens); 0 for the recordings'.
      preview: frames that a prompt shows; 0: as many as the CPU config's.
    """

    size: str = "1m"
    rollouts: int = 64
    turns: int = 5
    window: int = 16
    length: int = 256
    always: bool = False
    bank_seconds: int = 0
    group: int = GROUP
    preview: int = 0

    @property
    def name(self) -> str:
        """Names the job's files."""
        return "-".join(str(value) for value in dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class World:
    """What a job is done with."""

    run: Run
    params: dict
    records: list[dict]  # one a question
    places: list[int]  # the video of each
    parameters: int


def write_recordings(folder: Path, seconds: int = SECONDS) -> None:
    """RECORDINGS files of moving blocks in folder/suite/videos."""
    videos = folder / "suite" / "videos"
    videos.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(RECORDINGS):
        path, code = str(videos / f"{number}.mp4"), cv2.VideoWriter_fourcc(*"mp4v")
        writer = cv2.VideoWriter(path, code, NATIVE_FPS, (112, 56))
        for _ in range(int(seconds * NATIVE_FPS)):
            blocks = rng.integers(0, 255, (4, 8, 3), dtype=np.uint8)
            writer.write(np.kron(blocks, np.ones((14, 14, 1), np.uint8)))
        writer.release()


def make_world(folder: Path, job: Job) -> World:
    """The same from the same job, in any process; recordings are those of write_recordings."""
    config = load_config(str(_CPU), [])
    size = SIZES[job.size]
    config.model.text.update(size["text"] | {"tie_word_embeddings": False})
    config.model.vision.update(size["vision"])
    config.rl.kl_coefficient = 0.0  # the other sides have no penalty
    config.model.text.initializer_range = _GAIN / config.model.text.hidden_size**0.5
    config.dialogue.update(max_tool_turns=job.turns, window_frames=job.window, length=job.length)
    config.dialogue.preview_frames = job.preview or config.dialogue.preview_frames
    # Times of hours must not take more tokens than those of minutes: each is one, in all jobs.
    ticks = max(config.video.max_frames, job.bank_seconds and 3600) + 1
    letters = ["so left where is it? 0123456789", *WORDS] * 20
    tokenizer = train_tokenizer(letters, 1024 + ticks, ticks)
    model = with_vocabulary(config.model, tokenizer.vocab_size)
    layout = make_layout(config, model)
    special_tokens = find_special_tokens(tokenizer, layout)
    mesh = make_mesh({}, jax.devices()[:1])
    run = Run(config, folder, mesh, tokenizer, special_tokens, model, layout, layout)
    late = 60 if job.always else 10  # of a minute: no window has fewer frames than it may have
    params = chatter(
        tokenizer,
        model,
        size["seed"],
        sharpness=_SHARPNESS,
        late=late,
        faults=False,
        answers=not job.always,
    )
    questions = ["where is it?", "is it left?", "so where?", "left?", "where so?", "it?"]
    records = [
        {"video": str(i % RECORDINGS), "question": f"{questions[i % 6]} {i}"}
        for i in range(job.rollouts // job.group)
    ]
    places = [i % RECORDINGS for i in range(len(records))]
    return World(run, params, records, places, count_params(model))


def read_recordings(world: World) -> tuple[list[Video], list[Recording]]:
    """The recordings' bank-rate frames, and what the peers know of them."""
    video = world.run.config.video
    paths = [world.run.folder / "suite" / "videos" / f"{i}.mp4" for i in range(RECORDINGS)]
    size = (video.height, video.width)
    videos = [read_video(path, video.fps, size, max_frames=video.max_frames) for path in paths]
    known = [Recording(p, v.times, v.duration) for p, v in zip(paths, videos, strict=True)]
    return videos, known


def recorded_bank(world: World, videos: list[Video]) -> HostBank:
    """The frame bank of the recordings."""
    run = world.run
    encode = jax.jit(lambda params, frames: encode_frames(params, run.model, frames))
    return make_bank(
        functools.partial(encode, {"vision": world.params["vision"]}),
        videos,
        functools.partial(stamp_ids, run.tokenizer, run.layout),
        batch_frames=_BANK_FRAMES,
        max_frames=run.config.video.max_frames,
    )


def random_bank(world: World, seconds: int) -> tuple[list[Recording], HostBank]:
    """As many videos of any length, of which nothing but visual tokens is there."""
    run, rng = world.run, np.random.default_rng(1)
    times = np.arange(seconds, dtype=np.float64)
    shape = (seconds, run.layout.tokens_per_frame, run.model.text.hidden_size)
    bank = stack_bank(
        [rng.normal(size=shape).astype(np.float32) for _ in range(RECORDINGS)],
        [times] * RECORDINGS,
        [float(seconds)] * RECORDINGS,
        functools.partial(stamp_ids, run.tokenizer, run.layout),
    )
    return [Recording(Path(), times, float(seconds))] * RECORDINGS, bank
