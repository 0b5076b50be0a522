"""What each of a run's programs costs on its slice: from its trace and compiled text to seconds."""

import dataclasses
import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.distributed import Report
from medscope_jax.models.attention.cached import MOST_KEYS
from medscope_jax.planning.buffers import Buffer, largest_buffers
from medscope_jax.planning.chips import CHIPS, SIDES, Roofline, roofline
from medscope_jax.planning.flops import Assumed, count_flops
from medscope_jax.planning.hlo import ChipWork, read_works
from medscope_jax.planning.ideal import Decoder, Least, Texts, least_of
from medscope_jax.planning.programs import Program
from medscope_jax.planning.shards import slowest_steps
from medscope_jax.rollout import device_rollouts, rollout_mesh
from medscope_jax.training.from_config import with_vocabulary
from medscope_jax.training.run import ENCODE_FRAMES

# What a rollout does in the mean, which only a trained policy knows: the paper's trajectories call
# a tool once or twice, and turns are assumed to be half as long as they may be (see shards.py).
TOOL_CALLS = 2
TURN_SHARE = 0.5
# What a rollout does one after the other, with the steps of the agent loop that do it; the first
# holds what is done before the loop, too.
PHASES: dict[str, tuple[str, ...]] = {
    "gathers, first prompts": (),
    "prompts": ("prefill_prompts", "admit_request"),
    "observations": ("execute_tools",),
    "decode": ("decode_step",),
}


@dataclasses.dataclass(frozen=True)
class Cost:
    """One program's cost, each time that it runs."""

    report: Report
    flops: float  # that the program asks for, all chips together, what they repeat once
    chip_flops: float  # that one chip computes, more than its share where chips repeat each other
    work: ChipWork  # what one chip moves
    roofline: Roofline | None  # None where the chip's rates are not known
    phases: dict[str, Roofline]  # of a rollout, which come one after the other; else {}
    ideal: float | None  # seconds that the work needs however it is done; None as roofline
    rates: dict[str, float]  # units of work a second at the roofline, such as rollouts
    buffers: list[Buffer]  # the largest of a chip's memory; [] where the compiler tells none

    @property
    def seconds(self) -> float | None:
        """The least time: while a phase waits for the memory, the next one's arithmetic can't be
        done."""
        if self.phases:
            return sum(phase.seconds for phase in self.phases.values())
        return self.roofline.seconds if self.roofline else None

    @property
    def binds(self) -> str:
        """What the longest phase is bound by."""
        parts = [*self.phases.values()]
        if not parts and self.roofline:
            parts = [self.roofline]
        return max(parts, key=lambda part: part.seconds).binds


def tokens_written(config: ConfigDict) -> int:
    """Tokens that a rollout is assumed to write in all."""
    return round((TOOL_CALLS + 1) * TURN_SHARE * config.rollout.turn_tokens)


def assume(config: ConfigDict, mesh: Mesh, program: Program) -> Assumed:
    """How often a device does each of the agent loop's steps (rollout/loop.py), and all else.

    The device is of the shard whose rollouts take longest: the others wait for it. Each request is
    admitted once. As many prompts are prefilled at a time as the batch slots can use.
    """
    asked = config.ga_grpo.batch_size // config.rl.parts
    mesh = rollout_mesh(mesh, config.rollout.tensor)
    questions, group = device_rollouts(mesh, asked, config.rl.group_size)
    requests = questions * group
    shards = max(1, asked * config.rl.group_size // requests)
    slots = min(config.rollout.slots or requests, requests)
    rows = min(config.rollout.prefill_rows, slots)
    steps: dict[str, float] = {}
    mean: dict[str, float] = {}
    if program.agent_loop:
        most, turns = config.rollout.turn_tokens, config.dialogue.max_tool_turns + 1
        slowest = slowest_steps(shards, questions, group, slots, rows, most, turns, TURN_SHARE)
        steps = {
            "execute_tools": slowest.execute_tools,
            "decode_step": slowest.decode_step,
        }
        mean = {
            "execute_tools": TOOL_CALLS * requests / rows,
            "decode_step": tokens_written(config) * requests / slots,
        }
    if program.agent_loop and slots < requests:
        cached = max(1, min(slots // group, rows))
        fills: dict[str, float] = {
            "prefill_prompts": -(-questions // cached),
            "admit_request": requests,
        }
        steps, mean = steps | fills, mean | fills
    vision = config.model.vision
    whole = len(vision.fullatt_block_indexes) / vision.depth
    choice = (1 - whole, whole)
    if "prompts" not in program.arguments:
        return Assumed(steps, mean, *program.pieces, choice, program.attended)
    own = config.dialogue.length - program.arguments["prompts"].least
    filled = filled_shares(texts_of(config, program), program.pieces, own)
    # Rows that do not write are not read, nor is a prompt that none of them begins with. With fewer
    # slots than requests, each row reads its prompt by itself.
    rows_active = slowest.rows / slots
    begun = slowest.questions / questions if slots == requests else rows_active
    active = rows_active, begun
    return Assumed(steps, mean, *program.pieces, choice, program.attended, filled, active)


def filled_shares(texts: Texts, pieces: tuple[int, int], own: int) -> tuple[float, float, float]:
    """The share of its positions that a row has filled, in the mean, when a piece of a prompt, a
    piece of an observation and a token are read; with half a block of the kernel's.

    own: positions that a row has behind its prompt.
    """
    prompt, observation = pieces
    before = sum((look + 1) * texts.turn + look * texts.observation for look in range(texts.looks))
    looked = before / max(1, texts.looks) + texts.observation * (observation + 1) / observation / 2
    means = (texts.prompt * (prompt + 1) / (2 * prompt), looked, texts.own)
    lengths = (texts.prompt, own, own)
    first, second, third = (
        min(1.0, (mean + MOST_KEYS / 2) / length)
        for mean, length in zip(means, lengths, strict=True)
    )
    return first, second, third


def units_of(config: ConfigDict) -> dict[str, dict[str, float]]:
    """Units of work that one run of each program does, by program and unit."""
    rollouts = config.ga_grpo.batch_size * config.rl.group_size
    rolled = rollouts // config.rl.parts
    length, shown = config.dialogue.length, (2 if config.video.native_pairs else 1)
    clips, episodes = config.warm_up.batch_size, config.cold_start.batch_size
    return {
        "encode": {"frames": ENCODE_FRAMES * shown},
        "rollout": {"rollouts": rolled, "tokens": rolled * tokens_written(config)},
        "ga_grpo": {"rollouts": rollouts, "tokens": rollouts * length},
        "warm_up": {"episodes": clips, "tokens": clips * config.dialogue.clip_length},
        "sft": {"episodes": episodes, "tokens": episodes * length},
    }


def texts_of(config: ConfigDict, program: Program) -> Texts:
    """What a rollout's program is assumed to read and write."""
    bank, prompts = program.arguments["bank"], program.arguments["prompts"]
    marks = bank.stamps.shape[2] + program.arguments["special_tokens"].frame_text.size
    return Texts(
        questions=prompts.tokens.shape[0],
        group=config.rl.group_size,
        prompt=prompts.tokens.shape[1],
        observation=config.dialogue.window_frames * (bank.tokens.shape[2] + marks),
        looks=TOOL_CALLS,
        turn=round(TURN_SHARE * config.rollout.turn_tokens),
    )


def rollout_least(config: ConfigDict, program: Program, chips: int) -> Least | None:
    """What a rollout needs at least, see ideal.py; None of another program."""
    if "prompts" not in program.arguments:
        return None
    text = with_vocabulary(config.model, config.dialogue.vocab_size).text
    params = program.arguments["parameters"]["text"]
    kernel = params["layers"]["mlp"]["up_proj"]["kernel"]
    head = next(leaf for leaf in jax.tree.leaves(params) if text.vocab_size in leaf.shape)
    is_int8 = config.rollout.kv_dtype == "int8"  # with a float32 factor a head
    decoder = Decoder(
        text.hidden_size,
        text.intermediate_size,
        text.num_hidden_layers,
        text.num_attention_heads,
        text.num_key_value_heads,
        text.vocab_size,
        kernel.dtype.itemsize,
        head.dtype.itemsize,
        1 + 4 / text.head_dim if is_int8 else jnp.dtype(config.model.dtype).itemsize,
    )
    return least_of(decoder, texts_of(config, program), chips)


def cost_of(
    report: Report, assumed: Assumed, units: Mapping[str, float], least: Least | None = None
) -> Cost:
    """The Cost of a program that was compiled, or refused for its size.

    Args:
        units: of work that one run of it does, see units_of.
        least: what that work needs; None: the arithmetic that the program asks for, evenly split.
    """
    asked = count_flops(report.trace, assumed.mean)
    chip = CHIPS.get(report.device_kind)
    # Without the loop, with the steps up to each phase: what a phase adds is the phase's.
    cases, names = [assumed.only()], list(PHASES)
    for end in range(1, len(names)):
        cases.append(assumed.only(*(step for name in names[1 : end + 1] for step in PHASES[name])))
    cases = cases if assumed.steps else [assumed]
    works = read_works(report.text, report.chips, cases)
    flops = [
        work.flops + count_flops(report.trace, case).chip_kernels
        for work, case in zip(works, cases, strict=True)
    ]
    work, line, ideal, phases = works[-1], None, None, {}
    if chip is not None:
        lines = [
            roofline(chip, number, each.hbm_bytes, each.ici_bytes)
            for number, each in zip(flops, works, strict=True)
        ]
        line = lines[-1]
        if assumed.steps:
            added = [lines[0], *(b.minus(a) for a, b in itertools.pairwise(lines))]
            phases = dict(zip(names, added, strict=True))
        even = asked.total / report.chips / chip.flops
        ideal = least.seconds(chip, report.chips) if least else even
    buffers = largest_buffers(report.assignment, report.text)
    cost = Cost(report, asked.total, flops[-1], work, line, phases, ideal, {}, buffers)
    if cost.seconds is None:
        return cost
    rates = {unit: number / cost.seconds for unit, number in units.items()}
    return dataclasses.replace(cost, rates=rates)


def to_dict(spec: str, config: ConfigDict, mesh: Mesh, costs: Mapping[str, Cost]) -> dict:
    """The plan as plain values for JSON; all sizes in bytes a chip, times in seconds."""
    first = next(iter(costs.values())).report
    return {
        "config": spec,
        "topology": config.device.topology,
        "slices": config.device.slices,
        "device_kind": first.device_kind,
        "estimated": first.estimated,
        "chips": first.chips,
        "mesh": dict(mesh.shape),
        "hbm_bytes": first.hbm_bytes,
        "fits": all(cost.report.fits for cost in costs.values()),
        "assumed": {
            "looks_per_rollout": TOOL_CALLS,
            "tokens_per_rollout": tokens_written(config),
        },
        "programs": {name: _plain(cost) for name, cost in costs.items()},
    }


def _plain(cost: Cost) -> dict:
    report, line, work = cost.report, cost.roofline, cost.work
    fields = [field.name for field in dataclasses.fields(report) if field.repr]
    return {
        **{name: getattr(report, name) for name in fields},
        "flops": cost.flops,
        "flops_per_chip": cost.chip_flops,
        "hbm_bytes_moved": work.hbm_bytes,
        "ici_bytes_sent": work.ici_bytes,
        "dcn_bytes_sent": work.dcn_bytes,
        "collectives": {
            kind: dataclasses.asdict(moved) for kind, moved in work.collectives.items()
        },
        "roofline": line
        and {
            "seconds": cost.seconds,
            "binds": cost.binds,
            **{side: getattr(line, side) for side in SIDES},
        },
        "phases": {
            name: {"seconds": part.seconds, **{side: getattr(part, side) for side in SIDES}}
            for name, part in cost.phases.items()
        },
        "ideal_seconds": cost.ideal,
        "rates_per_second": cost.rates,
        "largest_buffers": [buffer._asdict() for buffer in cost.buffers],
    }
