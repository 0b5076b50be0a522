"""Rolling out what is not predicted yet, batch by batch, each on the disk before the next."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medscope_jax.bank import HostBank
from medscope_jax.errors import UserError
from medscope_jax.evaluation.predictions import (
    HEADER,
    PREDICTION,
    PredictionHeader,
    judged_fields,
    key_of,
    record_fields,
    trajectory_fields,
)
from medscope_jax.evaluation.sealed_lines import SealedFile
from medscope_jax.locks import alone
from medscope_jax.manifest import seal
from medscope_jax.rl import JudgeError, Verdict, as_evidence, judge_note, make_telling_judge
from medscope_jax.rollout import VideoQuestion
from medscope_jax.tools import Tool
from medscope_jax.tools.windows import select_frames_host
from medscope_jax.training.checkpoint_arrays import describe, named
from medscope_jax.training.metrics_log import Progress
from medscope_jax.training.run import (
    Run,
    VideoSplit,
    make_split_bank,
    model_key,
    rollout_engine,
    suite_of,
    video_questions,
)
from medscope_jax.training.split_bank import split_bank
from medscope_jax.video import preview_indices
from medscope_jax.visible import shown


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model under evaluation.

    Attributes:
      name: in the table.
      run: its Run, with the suite.
      params: its parameters, on the run's mesh.
      mode: of MODES.
    """

    name: str
    run: Run
    params: dict
    mode: str


class Predictions:
    """A file of predictions that is being made."""

    def __init__(self, file: SealedFile, header: PredictionHeader, judge: Mapping[str, Any]):
        """Reads what is there.

        Args:
          judge: the section of a config.

        Raises:
          UserError: it is of another evaluation, or its first line is damaged.
        """
        self._file, self._section, self._judge = file, judge, make_telling_judge(judge)
        self._weights: dict[str, int] = {}
        self._done: set[tuple] = set()
        reading = file.read(HEADER, PREDICTION)
        for number, values in reading:
            if number == 1:
                header.check(values, file.path)
            else:
                self._weights.setdefault(values["model"], values["weights"])
                self._done.add(key_of(values))
        if 1 in reading.faults.damaged:
            raise UserError(f"{file.path} is no file of predictions, or damaged: move it away")
        file.cut(reading)
        if told := reading.faults.told():
            print(f"{shown(file.path)}: {told}; what is missing is predicted again")
        if not reading.end:
            file.append([header.line()])

    def check_weights(self, model: str, weights: int) -> None:
        """UserError where the file has predictions of another model of this name."""
        if self._weights.setdefault(model, weights) != weights:
            raise UserError(
                f"{self._file.path} holds predictions of other weights called {model}: name "
                "another --out"
            )

    def has(self, key: tuple) -> bool:
        """Whether a prediction (see key_of) is there."""
        return key in self._done

    def add(self, records: Sequence[Mapping], lines: Sequence[dict[str, Any]]) -> None:
        """Judges predictions of these records, and keeps those that are not there yet.

        Raises:
          JudgeError: the judge gave too few scores; the predictions are kept without one.
        """
        new = [i for i, line in enumerate(lines) if key_of(line) not in self._done]
        lines, records = [lines[i] for i in new], [records[i] for i in new]
        said, failed = [Verdict(math.nan)] * len(lines), None
        try:
            said = self._judge(records, [line["answer"] for line in lines])
        except JudgeError as error:
            failed = error
        note = judge_note(self._section)
        self._file.append(
            {**line, **judged_fields(note, verdict)}
            for line, verdict in zip(lines, said, strict=True)
        )
        self._done.update(map(key_of, lines))
        if failed is not None:
            raise JudgeError(
                f"{failed} (the predictions are kept; --rescore with --judge.url judges them)"
            ) from failed


@contextlib.contextmanager
def open_predictions(
    path: Path, header: PredictionHeader, judge: Mapping[str, Any]
) -> Iterator[Predictions]:
    """The predictions of a file, old or new, for this evaluation alone."""
    busy = f"{path} is in use by another evaluation{{by}}: wait for it, or name another --out"
    with alone(path.with_name(f".{path.name}.lock"), busy), SealedFile(path) as file:
        yield Predictions(file, header, judge)


def decodings(run: Run, records: Sequence[Mapping]) -> list[tuple[str, int, list[int]]]:
    """(name, rollouts a question, numbers of the records that are asked) of each decoding.

    Sampling several times costs as many rollouts: it is done where the answer is an interval, and
    not at all of imported weights.
    """
    intervals = [n for n, record in enumerate(records) if record["task"] == "grounding"]
    found = [
        ("greedy", 1, list(range(len(records)))),
        ("sampled", run.config.evaluation.samples, intervals),
    ]
    return [(name, group, asked) for name, group, asked in found if group and asked]


def header_of(run: Run, split: str, records: Sequence[Mapping]) -> PredictionHeader:
    """The PredictionHeader of predictions of a run's models, or of imported weights."""
    rollout = {key: run.config.rollout[key] for key in ("temperature", "top_p", "turn_tokens")}
    settings = {"layout": dataclasses.asdict(run.layout), "dtype": str(run.model.dtype), **rollout}
    return PredictionHeader(
        split=split,
        suite=suite_of(run).fingerprint("eval"),
        seed=int(run.config.seed),
        frame_window=float(run.config.reward.frame_window),
        expected={name: group * len(asked) for name, group, asked in decodings(run, records)},
        settings=json.loads(json.dumps(settings)),
    )


def predict(
    subject: Subject,
    records: Sequence[Mapping],
    split: VideoSplit,
    chosen: range,
    predictions: Predictions,
) -> None:
    """Predicts what is missing of the chosen records.

    Batches are those of an evaluation that is not interrupted, so that what is predicted after a
    kill is what would have been predicted without.

    Args:
      records: of the whole split, whatever is chosen: a question's random key and the prompts'
        width are the same in every shard.
      chosen: numbers of records.
    """
    run, name = subject.run, subject.name
    weights = seal(describe(named(subject.params)))
    predictions.check_weights(name, weights)
    everything = _questions(subject, records, split)
    width = rollout_engine(run, 1, greedy=True).prompt_width(everything)
    shards = run.mesh.shape["data"] * run.mesh.shape["fsdp"]
    bank: tuple[HostBank, dict[int, int]] | None = None
    for decoding, group, asked in decodings(run, records):
        engine = rollout_engine(run, group, greedy=decoding == "greedy")
        size = -(-max(1, run.config.evaluation.rollouts // group) // shards) * shards
        questions = zip(asked, _questions(subject, [records[n] for n in asked], split), strict=True)
        picked = [(n, question) for n, question in questions if n in chosen]
        batches = [picked[first : first + size] for first in range(0, len(picked), size)]
        keys = [[(name, decoding, n, g) for n, _ in b for g in range(group)] for b in batches]
        due = [not all(map(predictions.has, own)) for own in keys]
        progress = Progress(len(due), f"{name}, {decoding}", len(due) - sum(due), "batches")
        for batch in (b for b, is_due in zip(batches, due, strict=True) if is_due):
            bank = bank or _bank(subject, records, split, chosen)
            placed = [q._replace(video=bank[1][q.video]) for _, q in batch]
            (found,) = engine.roll_out(
                subject.params,
                bank[0],
                placed,
                model_key(run.config, "evaluate"),
                width=width,
                batch_size=size,
                tools=subject.mode == "tools",
            )
            told = {"model": name, "weights": weights, "mode": subject.mode}
            lines = [
                {
                    **told,
                    **{"decoding": decoding, "number": n, "sample": sample},
                    **record_fields(question.record),
                    **trajectory_fields(trajectory, question.times),
                }
                for (n, question), group_found in zip(batch, found, strict=True)
                for sample, trajectory in enumerate(group_found)
            ]
            predictions.add([q.record for _, q in batch for _ in range(group)], lines)
            progress.update()
        progress.close()


def _questions(
    subject: Subject, records: Sequence[Mapping], split: VideoSplit
) -> list[VideoQuestion]:
    """video_questions, with what their prompts show in the subject's mode."""
    questions = video_questions(records, split)
    if subject.mode != "oracle":
        return questions
    layout = subject.run.layout
    return [
        q._replace(
            shown=oracle_frames(q.record, q.times, layout.preview_frames, layout.window_frames)
        )
        for q in questions
    ]


def oracle_frames(
    record: Mapping[str, Any], times: np.ndarray, preview: int, window: int
) -> np.ndarray:
    """The preview's frames, and those that a look at the true evidence shows, ascending.

    Args:
      times: [T] seconds, of the video's frames.
      preview, window: most frames of the preview, and of a look.
    """
    evidence = as_evidence(record["evidence"], record["evidence_time"])
    looks = (
        [(Tool.GET_FRAME, float(evidence), float(evidence))]
        if isinstance(evidence, float)
        else [(Tool.CROP_VIDEO, start, end) for start, end in evidence]
    )
    seen = [preview_indices(len(times), preview)]
    for look in looks:
        frames, count = select_frames_host(*look, times, len(times), window)
        seen.append(frames[:count])
    return np.unique(np.concatenate(seen))


def _bank(
    subject: Subject, records: Sequence[Mapping], split: VideoSplit, chosen: range
) -> tuple[HostBank, dict[int, int]]:
    """The bank of the videos that are asked about, and where in it each of the split's is.

    A bank that is stored is that of the whole split, in whose place another would be stored.
    """
    run = subject.run
    if run.config.video.get("stored_bank"):
        bank = split_bank(run, subject.params, split, f"evaluate {subject.name}")
        return bank, {row: row for row in range(len(split.videos))}
    rows = sorted({split.rows[records[n]["video"]] for n in chosen})
    videos = [split.videos[row] for row in rows]
    bank = make_split_bank(run, subject.params, VideoSplit(videos, {}))
    return bank, {row: place for place, row in enumerate(rows)}


def chosen_records(count: int, limit: int | None, shard: tuple[int, int]) -> range:
    """The numbers of the records that --limit and --shard i/n leave of `count`.

    Shards are neighbours, as records about one video are; together they are the first `limit`.
    """
    total = count if limit is None else min(limit, count)
    index, shards = shard
    return range(total * (index - 1) // shards, total * index // shards)
