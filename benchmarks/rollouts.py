"""Rollouts a second, ours and the peers' way: python -m benchmarks.rollouts --workdir DIR

The same questions on the same weights, greedily, so that all must write the same tokens:

  ours   one compiled program over a frame bank that was made once (rollout.RolloutEngine)
  peers  the host parses each call, decodes and encodes the window, tokenizes and prefills the whole
         conversation again, and steps a compiled decoder token by token (benchmarks/peers.py)
  transformers  with --transformers: the peers' way around transformers' generate in PyTorch
         (benchmarks/transformers_loop.py); benchmarks/train_step.py has other sizes

The peers' way comes in two forms, see there: "peers" decodes and encodes at every turn what a row
has been shown; "peers_keep" keeps what was encoded, which is the best that it can be. Compilation
is timed apart (each runs once before), and so is what is done once a video: ours encodes every
frame for the bank, the keeping forms those of the preview. Prints a table; --json FILE keeps all
numbers. Run it on an otherwise idle machine: processor seconds are beside the seconds, for where
there is none.
"""

import concurrent.futures
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from benchmarks import peers as peers_lib
from benchmarks.peers_device import encode_all, make_device
from benchmarks.peers_video import Recording, crop_whole, crop_window
from benchmarks.rollouts_report import TimedRollout, agreement, print_report, ratios, summary
from benchmarks.trained import machine, open_trained, trained_params
from medscope_jax.bank import HostBank, make_bank
from medscope_jax.config import ConfigError, parse_arguments, run_main
from medscope_jax.dialogue import Role, stamp_ids
from medscope_jax.distributed import use_huge_pages
from medscope_jax.errors import UserError
from medscope_jax.metrics import write_results
from medscope_jax.rollout import FinishedRollouts, VideoQuestion
from medscope_jax.training.from_config import rollout_config
from medscope_jax.training.run import Run, load_records, rollout_engine
from medscope_jax.video import Video, preview_indices, read_video

_BANK_FRAMES = 128  # frames of one call of the vision tower; as the peers'


def ours(
    run: Run,
    params: dict,
    records: Sequence[dict],
    places: Sequence[int],
    videos: Sequence,
    bank: HostBank,
    group: int,
    keep: Callable[[FinishedRollouts], None] = lambda done: None,
) -> Callable[[], TimedRollout]:
    """The compiled rollout of each question, `group` times, from question texts to trajectories.

    keep: is given the rollouts each time.
    """
    engine = rollout_engine(run, group, greedy=True)
    questions = [
        VideoQuestion(record, place, videos[place].times, number)
        for number, (record, place) in enumerate(zip(records, places, strict=True))
    ]
    width = engine.prompt_width(questions)
    key = jax.random.key(0)  # greedy: not used

    def once() -> TimedRollout:
        clock, cpu = peers_lib.Stopwatch(), time.process_time()
        with clock("text"):
            batch = jax.block_until_ready(engine.prepare(bank, questions, key, width=width))
        with clock("program"):
            running = jax.block_until_ready(engine.start(params, batch))
        with clock("text"):
            done = engine.wait(running)
        host = done.episode
        filled = np.sum(host.role != Role.PADDING, axis=1)
        rows = [row[:n].tolist() for row, n in zip(host.tokens, filled, strict=True)]
        generated = int(np.sum(host.role == Role.GENERATED))
        used = time.process_time() - cpu
        keep(done)
        return TimedRollout(
            rows, generated, dict(clock.seconds), used, int(done.work["decode_steps"])
        )

    return once


def theirs(
    peers: peers_lib.Peers,
    records: Sequence[dict],
    places: Sequence[int],
    recordings: Sequence[Recording],
    previews: Sequence[Sequence[np.ndarray]],
    group: int,
) -> Callable[[], tuple[TimedRollout, list[peers_lib.Conversation]]]:
    """The same rollouts the peers' way."""

    def once():
        clock, cpu = peers_lib.Stopwatch(), time.process_time()
        with clock("text"):
            rows = [
                peers_lib.begin(peers, record["question"], recordings[place], previews[place])
                for record, place in zip(records, places, strict=True)
                for _ in range(group)
            ]
        steps = peers_lib.roll_out(peers, rows, clock)
        generated = sum(row.sampled for row in rows)
        parts = {part: clock.seconds[part] for part in peers_lib.PARTS}
        used = time.process_time() - cpu
        return TimedRollout([row.ids for row in rows], generated, parts, used, steps), rows

    return once


def measure(
    run: Run,
    params: dict,
    records: list[dict],
    group: int,
    repeats: int,
    transformers: bool = False,
) -> dict:
    """All numbers of one benchmark, as a dictionary for JSON; `transformers`: its loop too."""
    video = run.config.video
    size, threads = (video.height, video.width), machine()["cores"]
    names = list(dict.fromkeys(record["video"] for record in records))
    places = [names.index(record["video"]) for record in records]
    paths = [run.folder / "suite" / "videos" / f"{name}.mp4" for name in names]
    device = make_device(run.model, run.layout)

    # Once a video. The first pass compiles the encoder and warms the disk cache.
    read = functools.partial(read_video, fps=video.fps, size=size, max_frames=video.max_frames)
    for _ in range(2):
        begin = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            videos = list(pool.map(read, paths))
        decoded = time.perf_counter()
        bank = _bank(run, params, device, videos)
        banked = time.perf_counter()
        shown = [v.frames[preview_indices(len(v.times), run.layout.preview_frames)] for v in videos]
        encode_all(device, params, shown)
        previewed = time.perf_counter()
    recordings = [
        Recording(path, v.times, v.duration) for path, v in zip(paths, videos, strict=True)
    ]

    known = dict(zip(paths, videos, strict=True))
    wrong: list[str] = []
    forms, first = {"ours": ours(run, params, records, places, videos, bank, group)}, {}
    first["ours"] = _timed(forms["ours"])
    ways = {"peers": {"params": params, "device": device}}
    if transformers:
        ways["transformers"] = _transformers(run, params)
    for name in [name + form for name in ways for form in ("", "_keep")]:
        keep, way = name.endswith("_keep"), ways[name.removesuffix("_keep")]
        crop = functools.partial(crop_window if keep else crop_whole, fps=video.fps, size=size)
        peers = peers_lib.Peers(
            **way,
            layout=run.layout,
            config=rollout_config(run.config, 1, True),
            tokenizer=run.tokenizer,
            crop=_checked(crop, known, wrong),
            threads=threads,
            keep=keep,
        )
        known_before = [()] * len(shown)
        if keep:
            known_before = peers.encode(peers.device, peers.params, shown)
        first[name] = _timed(theirs(peers, records, places, recordings, known_before, group))
        peers = dataclasses.replace(peers, crop=crop)
        forms[name] = theirs(peers, records, places, recordings, known_before, group)
    # In turns, so that a busy moment of the machine hits all.
    found = [{name: form() for name, form in forms.items()} for _ in range(repeats)]
    outcomes = {
        name: [turn[name] if name == "ours" else turn[name][0] for turn in found] for name in forms
    }
    result = {
        "questions": len(records),
        "group": group,
        "rows": len(records) * group,
        "videos": len(names),
        "repeats": repeats,
        "tool_calls": sum(row.turns for row in found[-1]["peers"][1]),
        "frames_shown": sum(len(row.times) for row in found[-1]["peers"][1]),  # previews too
        "windows_decoded_differently": len(wrong),
        "once": {
            "decode_videos": decoded - begin,
            "ours_encode_bank": banked - decoded,
            "peers_keep_encode_previews": previewed - banked,
        },
    }
    for name, several in outcomes.items():
        result[name] = summary(several, first[name])
        if name != "ours":
            rows = found[-1][name][1]
            result[name] |= agreement(outcomes["ours"][-1], several[-1], rows)
    return result | ratios(result)


def _transformers(run: Run, params: dict) -> dict:
    """What stands in Peers for PyTorch; imported here, for nobody else needs it."""
    from benchmarks import transformers_loop

    return {
        "params": None,
        "device": transformers_loop.build_net(params, run.model, run.tokenizer),
        "encode": transformers_loop.encode_windows,
        "generate": transformers_loop.generate_turn,
    }


def _bank(run: Run, params: dict, device, videos: Sequence[Video]) -> HostBank:
    return make_bank(
        functools.partial(device.encode, {"vision": params["vision"]}),
        videos,
        functools.partial(stamp_ids, run.tokenizer, run.layout),
        batch_frames=_BANK_FRAMES,
        max_frames=run.config.video.max_frames,
    )


def _checked(crop: Callable, videos: dict, wrong: list[str]) -> Callable:
    """crop, noting the windows whose frames are not those that read_video gives."""

    def check(path, times):
        frames, video = crop(path, times), videos[path]
        if not np.array_equal(frames, video.frames[np.searchsorted(video.times, times - 1e-4)]):
            wrong.append(f"{path} at {times}")
        return frames

    return check


def _timed(function: Callable) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes."""
    flags = parse_arguments(
        __doc__,
        argv,
        {
            "--workdir": {"required": True, "metavar": "DIR", "help": "folder of a training run"},
            "--model": {"default": "", "metavar": "MODEL", "help": "rl or sft; default: the last"},
            "--split": {"default": "test", "metavar": "SPLIT", "help": "validation or test"},
            "--rows": {"type": int, "default": 64, "help": "concurrent rollouts (64)"},
            "--group": {"type": int, "default": 1, "help": "rollouts a question (1)"},
            "--repeats": {"type": int, "default": 3, "help": "timed runs of each (3)"},
            "--transformers": {"action": "store_true", "help": "transformers beside it"},
            "--json": {"metavar": "FILE", "help": "where to write all numbers"},
        },
    )
    if min(flags.rows, flags.group, flags.repeats) < 1 or flags.rows % flags.group:
        raise ConfigError(
            "--rows, --group and --repeats must be positive, rows a multiple of group"
        )
    run, workdir = open_trained(flags.workdir)
    place = machine()
    model, params = trained_params(run, workdir, flags.model)
    records = load_records(run, "eval", flags.split)
    count = flags.rows // flags.group
    if count > len(records):
        raise UserError(f"the {flags.split} split has {len(records)} questions, not {count}")
    records = [records[i] for i in preview_indices(len(records), count)]
    result = measure(run, params, records, flags.group, flags.repeats, flags.transformers)
    result = {"model": model, "split": flags.split, "machine": place} | result
    print_report(result)
    if flags.json:
        write_results(flags.json, result)
        print(f"written to {flags.json}")


if __name__ == "__main__":
    use_huge_pages()
    run_main(main)
