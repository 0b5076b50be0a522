"""How much of the decode work is kept: python -m benchmarks.slots [--json FILE]

A decode step computes a token for every slot; one whose row is done, or waits for an observation,
computes it in vain. Here 64 questions with 8 rollouts each run through the compiled program with a
tiny model whose turns have lengths that were drawn beforehand: up to five calls, tokens a turn
log-normal (median 20, at most 160), so that a few rows are ten times as long as most. What is
reported is counts, the same on every machine: decode steps, and the share of their tokens that
belong to a rollout. Three ways to run them:

    lockstep            a slot for every rollout; all go on until the last one is done
    lockstep, batches   as many rollouts at a time as there are slots, the next ones after the last
    refilled            as many slots (rollout.slots); a row that is done makes room for the next

Towards the end no rollout is left to take a free slot: the more rollouts a slot works on, one after
the other, the less that is felt.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from medscope_jax.arguments import Parser
from medscope_jax.bank import FrameBank, stack_bank
from medscope_jax.dialogue import Layout, Tokenizer, protocol, train_tokenizer
from medscope_jax.distributed import check_device
from medscope_jax.errors import run_main
from medscope_jax.metrics import write_results
from medscope_jax.models import init_params, model_config
from medscope_jax.rollout import Prompts, RolloutConfig, find_special_tokens, rollout

QUESTIONS, GROUP = 64, 8
CALLS = (0.35, 0.33, 0.16, 0.09, 0.04, 0.03)  # share of rollouts with 0, 1, .. 5 calls
MEDIAN, SPREAD, SHORTEST, LONGEST = 20, 0.8, 4, 160  # tokens of a turn
_PROMPT = 8
_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "mrope_section": (4, 2, 2),
}
# (name, slots or None for one each, rows whose observations are prefilled together, in batches)
WAYS = (
    ("lockstep", None, 32, False),
    ("lockstep, batches", 16, 1, True),
    ("refilled", 64, 1, False),
    ("refilled", 32, 1, False),
    ("refilled", 16, 1, False),
)


def draw_turns(rollouts: int, seed: int) -> list[list[int]]:
    """Tokens of each turn of each rollout."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(rollouts):
        turns = 1 + rng.choice(len(CALLS), p=CALLS)
        lengths = rng.lognormal(np.log(MEDIAN), SPREAD, turns)
        result.append(np.clip(np.rint(lengths), SHORTEST, LONGEST).astype(int).tolist())
    return result


def make_counter(
    slots: int, group: int, prefill_rows: int, length: int
) -> Callable[[Sequence[Sequence[int]]], dict[str, int]]:
    """A function from the turns of rollouts (tokens of each) to what the program counts for them.

    Args:
        slots: 0 for one a rollout.
        group: rollouts a question.
        length: places of a row; every rollout has to fit.
    """
    layout = Layout(
        length=length,
        preview_frames=1,
        window_frames=1,
        grid=(1, 1),
        frame_format="{frame}{time:.1f}",
        max_tool_turns=len(CALLS) - 1,
    )
    tokenizer = train_tokenizer(["where is it? it is on the left"] * 5, 1024, 4)
    model = model_config({"text": {**_TEXT, "vocab_size": tokenizer.vocab_size}})
    params = init_params(model, jax.random.key(0))
    bank = jax.device_put(_bank(model.text.hidden_size))
    special_tokens = find_special_tokens(tokenizer, layout)
    config = RolloutConfig(group, length, 8, prefill_rows, 0.0, 1.0, slots)

    @jax.jit
    def run(prompts, script):
        def draw(scores, keys, position, temperature, top_p):
            row = jax.random.key_data(keys)[:, -1]
            return script[row, position], jnp.zeros(len(row))

        episode, counts = rollout(
            params, bank, prompts, special_tokens, model, layout, config, draw
        )
        return counts

    def count(turns: Sequence[Sequence[int]]) -> dict[str, int]:
        script = _script(turns, tokenizer, special_tokens, length)
        counts = jax.device_get(run(_prompts(len(turns) // group, group), script))
        if counts["decoded"] != sum(map(sum, turns)):
            raise ValueError(f"rows of {length} are too short for these rollouts")
        return {name: int(value) for name, value in counts.items()}

    return count


def _prompts(questions: int, group: int) -> Prompts:
    """Prompts that say nothing; a rollout's key is its number."""
    rows = jnp.arange(questions * group, dtype=jnp.uint32).reshape(questions, group)
    return Prompts(
        tokens=jnp.ones((questions, _PROMPT), jnp.int32),
        visual_index=jnp.full((questions, _PROMPT), -1),
        length=jnp.full((questions,), _PROMPT),
        video=jnp.zeros((questions,), jnp.int32),
        keys=jax.random.wrap_key_data(jnp.stack([jnp.zeros_like(rows), rows], axis=-1)),
        least=_PROMPT,
    )


def _script(
    turns: Sequence[Sequence[int]], tokenizer: Tokenizer, special_tokens, length: int
) -> jax.Array:
    """What stands at each place of each row [I, length]: words, and the tags that end turns.

    A call is empty, so that every observation is the same: the text of an error.
    """
    error = special_tokens.errors[1]
    observation = (
        len(special_tokens.opening)
        + int(np.sum(np.asarray(error) >= 0))
        + len(special_tokens.closing)
    )
    close, end = (tokenizer.tag(tag) for tag in (protocol.TOOL_CALL_END, protocol.IM_END))
    script = np.full((len(turns), length), tokenizer.encode("it")[0], np.int32)
    for row, lengths in zip(script, turns, strict=True):
        place = _PROMPT
        for number, tokens in enumerate(lengths, 1):
            row[min(place + tokens, length) - 1] = end if number == len(lengths) else close
            place += tokens + observation
    return jnp.asarray(script)


def _bank(width: int) -> FrameBank:
    """One video of one frame, which nobody looks at."""
    tokens = [np.zeros((1, 1, width), np.float32)]
    return stack_bank(tokens, [np.zeros(1)], [1.0], lambda times: [[2]]).padded()


def measure(seed: int) -> dict:
    """Counts and shares of WAYS on one draw of turns."""
    turns = draw_turns(QUESTIONS * GROUP, seed)
    tokens = [sum(row) for row in turns]
    rows = []
    for name, slots, prefill_rows, batches in WAYS:
        counter = make_counter(0 if batches else slots or 0, GROUP, prefill_rows, 1024)
        size = slots if batches else len(turns)
        counts = [counter(turns[i : i + size]) for i in range(0, len(turns), size)]
        total = {key: sum(part[key] for part in counts) for key in counts[0]}
        share = total["decoded"] / total["slot_steps"]
        way = {"way": name, "slots": slots or len(turns), "prefill_rows": prefill_rows}
        rows.append({**way, **total, "share": round(share, 4)})
    return {
        "seed": seed,
        "rollouts": len(turns),
        "tokens": {
            "mean": round(float(np.mean(tokens)), 1),
            "median": float(np.median(tokens)),
            "most": max(tokens),
        },
        "rows": rows,
    }


def print_report(result: dict) -> None:
    """A table of the counts."""
    table = Table("way", "slots", "decode steps", "looks", "share kept")
    for row in result["rows"]:
        counts = (row["slots"], row["decode_steps"], row["observation_prefills"])
        table.add_row(row["way"], *map(str, counts), f"{row['share']:.1%}")
    tokens = result["tokens"]
    Console().print(
        f"{result['rollouts']} rollouts of {tokens['mean']} tokens on average, "
        f"{tokens['median']:.0f} in the middle, {tokens['most']} at most"
    )
    Console().print(table)


def main(arguments: list[str]) -> None:
    """Counts and prints a table; --json FILE keeps the numbers."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the turns' lengths (0)")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    flags = parser.parse_args(arguments)
    check_device({"platform": "cpu", "kind": "", "count": 1})  # counts are the same anywhere
    result = measure(flags.seed)
    print_report(result)
    if flags.json:
        write_results(flags.json, result)


if __name__ == "__main__":
    run_main(main)
