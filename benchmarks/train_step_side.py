"""One side of benchmarks/train_step.py: python -m benchmarks.train_step_side FOLDER SIDE JOBS

Does the jobs of a JSON list one after the other, smallest first, and writes what it finds of each
to FOLDER/SIDE-JOB.json, and what was written to FOLDER/SIDE-JOB.npz. "ours" comes first: the other
sides' policy step reads its rows.
"""

import dataclasses
import functools
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peers as peers_lib
from benchmarks.peers_device import encode_all, make_device
from benchmarks.peers_video import crop_whole, crop_window
from benchmarks.rollouts import ours, theirs
from benchmarks.rollouts_report import TimedRollout
from benchmarks.train_step_job import (
    GROUP,
    Job,
    World,
    make_world,
    random_bank,
    read_recordings,
    recorded_bank,
)
from medscope_jax.bank import HostBank, flat_index, flat_tokens
from medscope_jax.dialogue import Episode
from medscope_jax.distributed import on_mesh, use_huge_pages
from medscope_jax.rollout import prompt_width
from medscope_jax.training.from_config import rollout_config
from medscope_jax.training.ga_grpo import most_generated
from medscope_jax.training.make_steps import make_ga_grpo_step
from medscope_jax.training.packing import measure_packing
from medscope_jax.training.train_state import init_state, optimizer_of, shardings_of
from medscope_jax.video import preview_indices

SIDES = ("ours", "peers", "peers_keep", "transformers", "transformers_keep")
_FIELDS = ("tokens", "index", "role", "logprobs")


def do_job(folder: Path, side: str, job: Job, repeats: int, update: bool) -> dict:
    """Times rollouts and, with `update` and for ours and transformers_keep, the policy step."""
    world = make_world(folder, job)
    if side == "ours":
        outcomes, first, result = _ours(folder, world, job, repeats, update)
    else:
        outcomes, first, result = _others(folder, side, world, job, repeats, update)
    seconds = [outcome.seconds for outcome in outcomes]
    middle, last = statistics.median(seconds), outcomes[-1]
    rows = np.full((len(last.tokens), job.length), -1, np.int32)
    for row, tokens in zip(rows, last.tokens, strict=True):
        row[: len(tokens)] = tokens
    np.savez(folder / f"{side}-{job.name}.npz", rows=rows)
    return {
        "parameters": world.parameters,
        "seconds": middle,
        "seconds_range": [min(seconds), max(seconds)],
        "seconds_first_run": first,
        "rollouts_per_second": len(last.tokens) / middle,
        "tokens_per_second": last.generated / middle,
        "tokens": last.generated,
        "decoding_steps": last.steps,
        "parts": last.parts,
        **result,
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """The most memory that this process has had, jobs before this one included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def advantages_of(rollouts: int) -> np.ndarray:
    """[rollouts] float32, the same on every side: drawn, since what chatter says has no reward.

    Not relative to their group: its greedy rollouts are alike, and their gradients would cancel.
    """
    return np.random.default_rng(2).normal(size=rollouts).astype(np.float32)


def _timed(function: Callable) -> tuple[float, object]:
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result


def _ours(folder, world, job, repeats, update) -> tuple[list[TimedRollout], float, dict]:
    videos, bank = (
        random_bank(world, job.bank_seconds) if job.bank_seconds else _bank_of(world, folder)
    )
    run, kept = world.run, []

    def keep(done):
        kept[:] = [done]

    once = ours(run, world.params, world.records, world.places, videos, bank, job.group, keep)
    first, _ = _timed(once)
    outcomes = [once() for _ in range(repeats)]
    episode, work = jax.device_put(kept[0].episode), kept[0].work
    result = {"decoded_share": float(work["decoded"] / work["slot_steps"])}
    result["calls"] = int(jnp.sum(episode.calls.status >= 0))
    result["frames_shown"] = int(jnp.sum(episode.visual_index >= 0)) // run.layout.tokens_per_frame
    asked = bank.padded(np.array(world.places))
    part = jnp.asarray(flat_tokens(asked))
    video = np.arange(len(episode.tokens)) // job.group
    index = flat_index(video, episode.visual_index, len(part) // len(world.places))
    fields = (episode.tokens, index, episode.role, episode.logprobs)
    arrays = dict(zip(_FIELDS, map(np.asarray, fields), strict=True))
    np.savez(folder / f"episode-{job.name}.npz", bank=np.asarray(part), **arrays)
    if update:
        result |= _our_update(world, job, videos, episode, part, repeats)
    return outcomes, first, result


def _bank_of(world: World, folder: Path) -> tuple[list, HostBank]:
    videos, _ = read_recordings(world)
    return videos, recorded_bank(world, videos)


def _our_update(world: World, job: Job, videos, episode: Episode, bank, repeats: int) -> dict:
    """Seconds of the policy step of training/ga_grpo.py on these rows."""
    run, config = world.run, world.run.config
    role = np.asarray(episode.role)
    times = [videos[place].times for place in world.places]
    width = prompt_width(world.records, times, run.tokenizer, run.layout, tools=True)
    sizes = {"size": measure_packing(role, GROUP, width.most), "targets": most_generated(role)}
    step = on_mesh(run.mesh, make_ga_grpo_step(config, run.model, run.mesh, run.layout))
    state = init_state(
        jax.tree.map(jnp.copy, world.params),
        optimizer_of(config, "ga_grpo"),
        jax.random.key(0),
        train_vision=False,
    )
    state = jax.device_put(state, shardings_of(config, run.model, run.mesh, "ga_grpo"))
    advantages, found, seconds = jnp.asarray(advantages_of(job.rollouts)), {}, []
    for _ in range(1 + repeats):

        def once(state=state):
            return jax.block_until_ready(step(state, episode, advantages, bank, None, **sizes))

        spent, (state, metrics) = _timed(once)
        seconds.append(spent)
        found = found or {name: float(metrics[name]) for name in ("policy_loss", "gradient_norm")}
    return {
        "update_seconds": statistics.median(seconds[1:]),
        "update_seconds_first_run": seconds[0],
        "loss": found["policy_loss"],
        "gradient_norm": found["gradient_norm"],
    }


def _others(folder, side, world, job, repeats, update) -> tuple[list[TimedRollout], float, dict]:
    run, keep, torch_side = world.run, side.endswith("keep"), side.startswith("transformers")
    video = run.config.video
    videos, recordings = read_recordings(world)
    if torch_side:
        from benchmarks import transformers_loop

        device = transformers_loop.build_net(world.params, run.model, run.tokenizer)
        encode, generate = transformers_loop.encode_windows, transformers_loop.generate_turn
    else:
        device, encode, generate = make_device(run.model, run.layout), encode_all, None
    peers = peers_lib.Peers(
        params=None if torch_side else world.params,
        device=device,
        layout=run.layout,
        config=rollout_config(run.config, 1, True),
        tokenizer=run.tokenizer,
        crop=functools.partial(
            crop_window if keep else crop_whole, fps=video.fps, size=(video.height, video.width)
        ),
        threads=len(os.sched_getaffinity(0)),
        keep=keep,
        encode=encode,
        generate=generate,
    )
    shown = [v.frames[preview_indices(len(v.times), run.layout.preview_frames)] for v in videos]
    previews = encode(device, peers.params, shown) if keep else [()] * len(shown)
    once = theirs(peers, world.records, world.places, recordings, previews, GROUP)
    # PyTorch compiles nothing: a small run is enough to warm it.
    few = len(world.records) if not torch_side else 1
    warm = theirs(peers, world.records[:few], world.places[:few], recordings, previews, GROUP)
    first, _ = _timed(warm)
    found = [once() for _ in range(repeats)]
    result = {"calls": sum(row.turns for row in found[-1][1])}
    result["rows_retokenized_differently"] = sum(row.drifted for row in found[-1][1])
    if update and side == "transformers_keep":
        with np.load(folder / f"episode-{job.name}.npz") as arrays:
            episode = {name: arrays[name] for name in _FIELDS}
            bank = arrays["bank"]
        config = run.config
        step = transformers_loop.make_update(
            device, config.ga_grpo, config.loss, config.rl.micro_batch, run.layout.grid
        )
        advantages = advantages_of(job.rollouts)
        spent = [_timed(lambda: step(episode, advantages, bank)) for _ in range(1 + repeats)]
        result |= spent[0][1]  # of the first step, from the weights that ours has begun with
        result["update_seconds"] = statistics.median(seconds for seconds, _ in spent[1:])
    return [outcome for outcome, _ in found], first, result


def main(folder: Path, side: str, jobs: list[dict]) -> None:
    """Does the jobs, each {"job": fields of Job, "repeats": n, "update": bool}."""
    for item in jobs:
        job, before = Job(**item["job"]), peak_bytes()
        result = do_job(folder, side, job, item["repeats"], item["update"])
        result |= {"job": dataclasses.asdict(job), "bytes_before": before}
        (folder / f"{side}-{job.name}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    use_huge_pages()
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
