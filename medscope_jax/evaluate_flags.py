"""The flags of `evaluate` beside a run's folder: what they are, and which go together."""

import argparse
import dataclasses
import re
from pathlib import Path
from typing import Any

from medscope_jax.config import ConfigError
from medscope_jax.errors import closest
from medscope_jax.evaluation.benchmark import BENCHMARKS
from medscope_jax.evaluation.predictions import MODES
from medscope_jax.files import check_local
from medscope_jax.paths import to_path
from medscope_jax.rl.chat_config import EndpointConfig

_ENDPOINT_TIMEOUT_S = 300.0  # of a turn: minutes of video, thought about
_OF_JUDGE = ("--judge.url", "--judge.model")
_OF_RESCORE = ("--out", "--rescore", "--against", "--benchmark", *_OF_JUDGE)
_MODELS = ("--workdir", "--checkpoint", "--endpoint")
# Flags of some kinds of models, with those kinds.
_GO_WITH = {
    "--mesh": ("--checkpoint",),
    "--modes": ("--checkpoint", "--endpoint"),
    "--endpoint.model": ("--endpoint",),
    "--endpoint.temperature": ("--endpoint",),
}
OUT_FLAGS: dict[str, dict[str, Any]] = {
    "--checkpoint": {"metavar": "CKPT", "help": "or a folder of imported weights, with --out"},
    "--data_dir": {
        "metavar": "DATA",
        "help": "with --out: a data folder, or a run's folder whose suite is taken",
    },
    "--endpoint": {
        "metavar": "URL",
        "help": "or an OpenAI-compatible endpoint, such as http://localhost:8000/v1, with --out",
    },
    "--endpoint.model": {"metavar": "NAME", "help": "the model's name there"},
    "--endpoint.temperature": {
        "metavar": "T",
        "help": "of its words, 0 without; none: the server's own",
    },
    "--mesh": {
        "metavar": "AXES",
        "help": "with --checkpoint: how all devices share it, such as data=2,tensor=4; without, "
        "it takes one device",
    },
    "--modes": {
        "metavar": "MODES",
        "help": "with --checkpoint or --endpoint: tools, passive (none are offered), oracle (the "
        "evidence is shown), or several, with commas",
    },
    "--out": {"metavar": "OUT", "help": "folder in which predictions are kept"},
    "--rescore": {"action": "store_true", "help": "with --out: score what is there, no model"},
    "--against": {
        "metavar": "OUT",
        "help": "with --out: the folder of another evaluation of the same split, whose models are "
        "compared with these",
    },
    "--benchmark": {
        "metavar": "NAME",
        "choices": tuple(BENCHMARKS),
        "help": f"with --out: the figures of a published benchmark, too: {', '.join(BENCHMARKS)}",
    },
    "--limit": {"type": int, "metavar": "N", "help": "with --out: the first N questions alone"},
    "--shard": {"metavar": "I/N", "help": "with --out: part I of N of the questions, from 1/N"},
    "--judge.url": {
        "metavar": "URL",
        "help": "with --out: an endpoint that judges (docs/judges.md)",
    },
    "--judge.model": {"metavar": "NAME", "help": "the model's name there"},
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a command line asks for.

    Attributes:
      out: where predictions are kept; None where they are not. against: those of another
        evaluation, to compare with; or None. benchmark: of BENCHMARKS, or None.
      checkpoint, data_dir: folders, or None.
      endpoint: a model behind one, or None; temperature: of its words, None for the server's own.
      axes: of a mesh for the checkpoint, or None.
      modes: of MODES.
      limit, shard: see chosen_records.
      judge: url and model, of a config's judge section; {} if no endpoint is named.
    """

    out: Path | None
    against: Path | None
    benchmark: str | None
    checkpoint: Path | None
    data_dir: Path | None
    endpoint: EndpointConfig | None
    temperature: float | None
    axes: dict[str, int] | None
    modes: tuple[str, ...]
    limit: int | None
    shard: tuple[int, int]
    judge: dict[str, str]


def read_out_flags(flags: argparse.Namespace) -> Asked:
    """Checks the flags that go together.

    Raises:
      ConfigError: they do not, or one has no such value.
      UserError: --out is an address.
    """
    given = {
        name: getattr(flags, name.removeprefix("--"))
        for name in OUT_FLAGS
        if getattr(flags, name.removeprefix("--")) not in (None, False)
    }
    models = [name for name in _MODELS if getattr(flags, name[2:])]
    if flags.rescore and (models or given.keys() - set(_OF_RESCORE)):
        raise ConfigError(
            "--rescore takes --out, --against, --benchmark, --judge.url and --judge.model alone"
        )
    if not flags.rescore and len(models) != 1:
        raise ConfigError(
            "name one of --workdir, a training run, --checkpoint, imported weights, --endpoint, a "
            "model elsewhere; or --rescore, to score what --out holds"
        )
    if not flags.out and given:
        raise ConfigError(f"{', '.join(given)} needs --out, a folder for the predictions")
    if flags.distributed and given:
        raise ConfigError("--out takes one process: leave --distributed out, or --out")
    if models and models != ["--workdir"] and not flags.data_dir:
        raise ConfigError(f"{models[0]} needs --data_dir, whose videos and questions it is shown")
    for name, takes in _GO_WITH.items():
        if name in given and models and models[0] not in takes:
            raise ConfigError(f"{name} goes with {' or '.join(takes)}, not with {models[0]}")
    if flags.endpoint and "--endpoint.model" not in given:
        raise ConfigError("--endpoint needs --endpoint.model, the model's name there")
    if len(given.keys() & set(_OF_JUDGE)) == 1:
        raise ConfigError("--judge.url and --judge.model go together")
    if flags.limit is not None and flags.limit < 1:
        raise ConfigError(f"--limit must be at least 1, got {flags.limit}")
    for name in ("--out", "--against"):
        if name in given:
            check_local(given[name], name)
    if "--against" in given and Path(flags.against).resolve() == Path(flags.out).resolve():
        raise ConfigError("--against and --out are one folder, whose models are compared anyway")
    judge = {name.removeprefix("--judge."): given[name] for name in _OF_JUDGE if name in given}
    return Asked(
        out=Path(flags.out) if flags.out else None,
        against=Path(flags.against) if flags.against else None,
        benchmark=flags.benchmark,
        checkpoint=to_path(flags.checkpoint) if flags.checkpoint else None,
        data_dir=to_path(flags.data_dir) if flags.data_dir else None,
        endpoint=_endpoint(flags.endpoint, given["--endpoint.model"]) if flags.endpoint else None,
        temperature=_temperature(given.get("--endpoint.temperature", "0")),
        axes=_axes(flags.mesh) if flags.mesh else None,
        modes=_modes(flags.modes or MODES[0]),
        limit=flags.limit,
        shard=_shard(flags.shard or "1/1"),
        judge=judge,
    )


def _endpoint(url: str, model: str) -> EndpointConfig:
    return EndpointConfig(url, model, timeout_s=_ENDPOINT_TIMEOUT_S, name="endpoint")


def _temperature(text: str) -> float | None:
    if text == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 2:  # not a number neither
        raise ConfigError(f"--endpoint.temperature is {text!r}; use a number from 0 to 2, or none")
    return value


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"--shard is {text!r}; use I/N, such as 1/4, with I from 1 to N")
    return int(found[1]), int(found[2])


def _axes(text: str) -> dict[str, int]:
    found = re.findall(r"([a-z]+)=(-1|\d{1,6})(?:,|$)", text)
    if ",".join(f"{name}={size}" for name, size in found) != text or len(dict(found)) < len(found):
        raise ConfigError(f"--mesh is {text!r}; use axes with sizes, such as data=2,tensor=4")
    return {name: int(size) for name, size in found}


def _modes(text: str) -> tuple[str, ...]:
    modes = text.split(",")
    for mode in modes:
        if mode not in MODES or modes.count(mode) > 1:
            raise ConfigError(
                f"unknown mode {mode!r}{closest(mode, MODES)}; --modes takes some of "
                f"{', '.join(MODES)}, each once, with commas between them"
            )
    return tuple(modes)
