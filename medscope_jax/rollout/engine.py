"""Questions in, trajectories out: training, evaluation, `ask` and the benchmarks roll out here.

    weights  = engine.place(params)                                as rollouts read them
    batch    = engine.prepare(bank, questions, key, width=width)   their prompts and videos, placed
    running  = engine.start(weights, batch)                        does not wait for the device
    finished = engine.wait(running)                                episode and trajectories, on host

Training starts one part of its batch before it waits for the part before; who has any number of
questions and nothing to do meanwhile calls roll_out.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from medscope_jax.bank import FrameBank, HostBank, put_videos
from medscope_jax.dialogue import Episode, Layout, Tokenizer
from medscope_jax.distributed import bank_shardings, batch_shardings
from medscope_jax.distributed.multihost import gather, put, replicate
from medscope_jax.models import ModelConfig
from medscope_jax.rollout.loop import make_rollout
from medscope_jax.rollout.observation import SpecialTokens
from medscope_jax.rollout.placement import place_weights, rollout_mesh, rollout_model
from medscope_jax.rollout.prompts import (
    PromptWidth,
    Trajectory,
    make_prompts,
    prompt_width,
    read_trajectories,
)
from medscope_jax.rollout.sampling import row_keys
from medscope_jax.rollout.state import Prompts, RolloutConfig

# Engines of the same mesh, model, layout and config share a program: stage 3 and evaluation trace
# and compile it once for both.
rollout_program = functools.cache(make_rollout)


class VideoQuestion(NamedTuple):
    """A question about a video, to be rolled out config.group times."""

    record: Mapping  # question, and options or none; the rest is the caller's
    video: int  # its video's place in the bank
    times: np.ndarray  # [T] seconds of that video's frames
    number: int  # rollout g samples with the key numbered number * group + g, whatever the batch
    shown: np.ndarray | None = None  # frames [n] that its prompt shows, ascending; None: preview


class PlacedQuestions(NamedTuple):
    """P questions as the program takes them, on the mesh."""

    bank: FrameBank  # P videos, question i's being its i-th
    prompts: Prompts


class RunningRollouts(NamedTuple):
    """Rollouts under way on the device."""

    episode: Episode  # P * group rows
    work: dict[str, jax.Array]  # what the program counts, see rollout.loop.rollout


class FinishedRollouts(NamedTuple):
    """Rollouts on the host, of every process: rows i * group ... are those of question i."""

    episode: Episode  # P * group rows of NumPy arrays
    trajectories: list[Trajectory]  # P * group
    work: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class RolloutEngine:
    """The agent loop of one model on one mesh.

    Weights and videos are arguments of its methods, so that an engine costs nothing to make. Of
    several processes, each calls the same methods with the same arguments, in the same order.

    Attributes:
        mesh: that weights come on. Questions are split over the data and fsdp axes of rollout_mesh,
            see rollout.make_rollout.
        model: as its weights come.
        special_tokens: of the tokenizer and the layout's texts.
        config: rollouts a question, and how they are sampled.
    """

    mesh: Mesh
    model: ModelConfig
    tokenizer: Tokenizer
    special_tokens: SpecialTokens
    layout: Layout
    config: RolloutConfig

    @property
    def rollout_mesh(self) -> Mesh:
        """The mesh that rollouts run on: the same devices, which may be split otherwise."""
        return rollout_mesh(self.mesh, self.config.tensor)

    def place(self, params: dict) -> dict:
        """The parameters as start takes them, once for all batches that they roll out."""
        if self.rollout_mesh is self.mesh and not self.config.weights_dtype:
            return params
        return place_weights(params, self.model, self.rollout_mesh, self.config.weights_dtype)

    def prompt_width(self, questions: Sequence[VideoQuestion], spare: int = 1) -> PromptWidth:
        """Positions that questions' prompts take, with tools or without.

        Batches of one width share a compiled program: take the width of all questions.

        Args:
            spare: positions of layout.length that a prompt must leave to what follows.

        Raises:
            UserError: as rollout.prompt_width.
        """
        records, times = [q.record for q in questions], [q.times for q in questions]
        shown = [q.shown for q in questions]
        return prompt_width(records, times, self.tokenizer, self.layout, True, spare, shown)

    def prepare(
        self,
        bank: HostBank,
        questions: Sequence[VideoQuestion],
        key: jax.Array,
        *,
        width: PromptWidth,
        tools: bool = True,
    ) -> PlacedQuestions:
        """Prompts and videos of P questions, placed on the mesh.

        Args:
            bank: of a split, on the host.
            questions: as many as rollout_mesh's data and fsdp axes divide.
            key: of which each rollout has its own by its number, see VideoQuestion.
            width: of prompt_width, for these questions or for more.
            tools: whether the prompt offers tools.

        Raises:
            UserError: a question that can't be asked, or whose prompt is wider.
        """
        places = np.array([q.video for q in questions], np.int32)
        numbers = np.array([q.number for q in questions])[:, None] * self.config.group
        numbers = numbers + np.arange(self.config.group)
        keys = row_keys(key, jnp.asarray(numbers.reshape(-1))).reshape(numbers.shape)
        videos = put_videos(bank, places, self.rollout_mesh, bank_shardings)
        prompts = make_prompts(
            [q.record for q in questions],
            range(len(questions)),
            [q.times for q in questions],
            keys,
            width,
            self.tokenizer,
            self.layout,
            tools,
            [q.shown for q in questions],
        )
        return PlacedQuestions(videos, put(prompts, batch_shardings(prompts, self.rollout_mesh)))

    def start(self, weights: dict, batch: PlacedQuestions) -> RunningRollouts:
        """Gives the device a batch's rollouts, by weights of `place`; does not wait for them."""
        special_tokens = replicate(self.special_tokens, self.rollout_mesh)
        episode, work = self.program(weights, batch.bank, batch.prompts, special_tokens)
        return RunningRollouts(episode, work)

    @property
    def program(self) -> Callable:
        """The compiled rollout, see rollout.make_rollout; the same one for engines made alike."""
        mesh = self.rollout_mesh
        return rollout_program(mesh, rollout_model(self.model, mesh), self.layout, self.config)

    def wait(self, running: RunningRollouts) -> FinishedRollouts:
        """The rollouts on the host, once the device has finished them."""
        episode = gather(running.episode)
        found = read_trajectories(episode, self.tokenizer, self.layout)
        return FinishedRollouts(episode, found, jax.device_get(running.work))

    def roll_out(
        self,
        params: dict,
        bank: HostBank,
        questions: Sequence[VideoQuestion],
        key: jax.Array,
        *,
        width: PromptWidth,
        batch_size: int,
        tools: bool = True,
    ) -> Iterator[list[list[Trajectory]]]:
        """Rolls out any number of questions, batch by batch; arguments as those of prepare.

        Args:
            batch_size: questions a batch, rounded up to what the mesh divides; the last batch is
                filled up with its first question.

        Yields:
            For each batch, a list of `group` trajectories for each of its questions.
        """
        group, mesh, weights = self.config.group, self.rollout_mesh, self.place(params)
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        batch_size = -(-batch_size // shards) * shards
        for first in range(0, len(questions), batch_size):
            asked = list(questions[first : first + batch_size])
            filled = asked + asked[:1] * (batch_size - len(asked))
            batch = self.prepare(bank, filled, key, width=width, tools=tools)
            found = self.wait(self.start(weights, batch)).trajectories
            yield [found[i * group : (i + 1) * group] for i in range(len(asked))]
