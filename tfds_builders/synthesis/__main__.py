"""Writes records about recordings: by a model behind an endpoint, or for phantom procedures.

    python -m tfds_builders.synthesis --manual_dir DIR --url URL --model NAME --out FILE
    python -m tfds_builders.synthesis --phantom N --out FILE [--videos DIR]

The first works on every recording below DIR with any OpenAI-compatible endpoint; the key, if it
needs one, is in the environment (--key_variable, OPENAI_API_KEY by default). The second writes N
phantom procedures and needs neither model nor network; --videos also draws their recordings.

What comes out, in FILE's folder (one folder a run):
  FILE            one JSON object a line: video (its path below DIR), part, task, question, answer,
                  split, options, spans, turns, window: what the reader `plain` reads. Parts are
                  cap, qa, cot, vcot and rl; eval in place of rl where --split says so, and of
                  test recordings nothing else
  stages.json     requests, tokens, seconds and drops of every stage, with their reasons
  journal.jsonl   every answer of the model: a run that was killed goes on from here, and asks for
                  nothing that it holds

Frames, the key and the endpoint's address are in none of them; file names are in FILE alone.
"""

import argparse
import asyncio
import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from tqdm import tqdm

from medscope_jax.config import parse_arguments
from medscope_jax.errors import UserError, run_main
from medscope_jax.files import check_local, check_outputs, make_folder, write_text
from medscope_jax.phantom.procedure import SOURCES, SPLITS, make_procedure
from medscope_jax.rl.chat import open_client
from medscope_jax.rl.chat_config import EndpointConfig
from medscope_jax.visible import shown
from tfds_builders.synthesis.client import Client
from tfds_builders.synthesis.footage import find_videos, read_footage
from tfds_builders.synthesis.journal import open_journal
from tfds_builders.synthesis.phantom_writer import phantom_ask, phantom_footage
from tfds_builders.synthesis.pipeline import STAGES, FootageSource, Tally, run
from tfds_builders.synthesis.rows import row_line
from tfds_builders.synthesis.settings import SynthesisConfig
from tfds_builders.synthesis.synthesis_report import print_stages, stages_json

_WHERE = " Thresholds and sizes are explained in tfds_builders/synthesis/settings.py."
_FLAGS = {
    "--out": {"required": True, "metavar": "FILE", "help": "the rows to write, .jsonl"},
    "--manual_dir": {"metavar": "DIR", "help": "folder of recordings"},
    "--url": {"metavar": "URL", "help": "the endpoint, such as http://localhost:8000/v1"},
    "--model": {"metavar": "NAME", "help": "the model's name there"},
    "--key_variable": {"default": "OPENAI_API_KEY", "help": "environment variable with the key"},
    "--concurrency": {"type": int, "default": 8, "help": "requests in flight at once"},
    "--timeout_s": {"type": float, "default": 120.0, "help": "seconds an attempt may take"},
    "--attempts": {"type": int, "default": 5, "help": "attempts at a request"},
    "--backoff_s": {"type": float, "default": 1.0, "help": "first wait between them; it doubles"},
    "--longest_wait_s": {"type": float, "default": 600.0, "help": "longest Retry-After to obey"},
    "--failures": {"type": int, "default": 20, "help": "failed requests in a row that end the run"},
    "--split": {"choices": ("", *SPLITS), "help": "split of all recordings (phantom: train)"},
    "--phantom": {"type": int, "metavar": "N", "help": "work on N phantom procedures instead"},
    "--videos": {"metavar": "DIR", "help": "draw the phantom recordings there"},
    "--seed": {"type": int, "default": 0, "help": "of the phantom procedures and their teacher"},
    "--errors": {"type": float, "default": 0.1, "help": "share that the phantom teacher spoils"},
}


def main(arguments: Sequence[str]) -> None:
    """Runs the synthesis as the command line says."""
    fields = dataclasses.fields(SynthesisConfig)
    values = {
        f"--{f.name}": {"action": "store_true"}
        if f.default is False
        else {"type": type(f.default), "default": f.default}
        for f in fields
    }
    flags = parse_arguments(__doc__.split("\n")[0] + _WHERE, arguments, {**_FLAGS, **values})
    config = SynthesisConfig(**{f.name: getattr(flags, f.name) for f in fields})
    check_local(flags.manual_dir or "", "--manual_dir")
    check_local(flags.videos or "", "--videos")
    out = pathlib.Path(flags.out)
    if out.is_dir() or out.name in ("stages.json", "journal.jsonl"):
        raise UserError(f"--out {out} must name the file of rows to write, such as rows.jsonl")
    check_outputs({"--out": out}, {})
    real = (flags.manual_dir, flags.url, flags.model)
    if flags.phantom is not None:
        if any(real):
            raise UserError("--phantom needs no --manual_dir, --url or --model: leave them out")
        if flags.phantom < 1 or not 0 <= flags.errors <= 1 or flags.seed < 0:
            raise UserError("--phantom must be 1 or more, --seed 0 or more, --errors from 0 to 1")
        work = phantom_rows
    elif all(real):
        work = model_rows
    else:
        raise UserError("give --manual_dir, --url and --model, or --phantom")
    make_folder(out.parent, private=True)

    tallies = {name: Tally() for name in STAGES}
    about = {"finished": False, "model": flags.model, "rows": 0, "damaged_journal_lines": 0}
    about["config"] = dataclasses.asdict(config)
    try:
        rows = work(flags, config, tallies, about)
        write_text(out, "".join(map(row_line, rows)), private=True)
        about |= {"finished": True, "rows": len(rows)}
    finally:
        write_text(out.parent / "stages.json", stages_json(tallies, about))
    print_stages(tallies, Console())
    print(shown(f"{len(rows)} rows in {out}"))
    if damaged := about["damaged_journal_lines"]:
        print(f"{damaged} damaged lines of the journal were skipped, and their answers asked for")
    if failed := sum(tally.failed for tally in tallies.values()):
        print(f"{failed} requests failed: run the same command again to ask for these alone")


def model_rows(
    flags: argparse.Namespace,
    config: SynthesisConfig,
    tallies: Mapping[str, Tally],
    about: dict[str, Any],
) -> list[dict]:
    """Rows about every recording below flags.manual_dir, written by the model at flags.url.

    Notes in `about` how many lines of the journal were damaged.
    """
    endpoint = EndpointConfig(
        flags.url,
        flags.model,
        key_variable=flags.key_variable,
        timeout_s=flags.timeout_s,
        attempts=flags.attempts,
        backoff_s=flags.backoff_s,
        workers=flags.concurrency,
        name="model",
        longest_wait_s=flags.longest_wait_s,
    )
    folder = pathlib.Path(flags.manual_dir)
    videos = find_videos(folder)

    async def work(journal) -> list[dict]:
        async with open_client(endpoint) as http:
            ask, sources = Client(http, endpoint, journal, config, flags.failures), []
            for path in videos:
                name = path.relative_to(folder).as_posix()
                load = functools.partial(
                    read_footage, path, name, config, flags.split or "", root=folder
                )
                sources.append(FootageSource(load, ask))
            with tqdm(total=len(sources), unit="video", disable=None) as bar:
                return await run(sources, config, tallies, bar.update)

    with open_journal(pathlib.Path(flags.out).parent / "journal.jsonl") as journal:
        about["damaged_journal_lines"] = len(journal.damaged)
        return asyncio.run(work(journal))


def phantom_rows(
    flags: argparse.Namespace,
    config: SynthesisConfig,
    tallies: Mapping[str, Tally],
    about: dict[str, Any],
) -> list[dict]:
    """Rows about flags.phantom procedures, written by the built-in teacher."""
    del about  # there is no journal
    split = flags.split or "train"
    # Laparoscopic ones are out of domain: they never occur in training.
    families = SOURCES if split == "test" else SOURCES[:2]
    procedures = [
        make_procedure(flags.seed, split, families[i % len(families)], i // len(families))
        for i in range(flags.phantom)
    ]
    if flags.videos:
        from medscope_jax.phantom.render import write_video

        folder = pathlib.Path(flags.videos)
        make_folder(folder)
        for procedure in tqdm(procedures, "drawing", unit="video", disable=None):
            write_video(procedure, folder / f"{procedure.id}.mp4")
    sources = [
        FootageSource(
            functools.partial(phantom_footage, procedure),
            phantom_ask(procedure, config, flags.seed, flags.errors),
        )
        for procedure in procedures
    ]
    return asyncio.run(run(sources, config, tallies))


if __name__ == "__main__":
    run_main(main)
