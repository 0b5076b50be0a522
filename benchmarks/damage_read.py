"""One damaged recording read in a process of its own, and what came of it."""

import contextlib
import multiprocessing
import os
import re
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection
from pathlib import Path

import numpy as np

from benchmarks.damage_files import RATE, Good, damaged
from medscope_jax.video import Video, VideoError, read_video
from tests.video.corpus_pictures import number_of

MEMORY = 1 << 30  # bytes that reading a small file may take
_HARD_LIMIT = 6 << 30  # bytes of address space: beyond it the process is stopped
_TICKS = 1e6  # a second: every picture is nearest to one, also where damage moved them together
# What came of a file. The first three are right.
WHOLE, NOTED, REFUSED = "whole", "noted", "refused"
# All pictures came, in order, evenly, at another rate, or some at other times: no note. A header
# that says another rate is a good header of another recording.
RATED, MOVED = "other rate", "moved"
# Fewer pictures, or more (some of them twice), and no note.
LOST, MORE, CRASHED, HUNG, LARGE = "lost", "more", "crashed", "hung", "over memory"
# An undamaged recording that was not read whole, without a word.
SPOILT = "spoilt"
OUTCOMES = (WHOLE, NOTED, REFUSED, RATED, MOVED, LOST, MORE, HUNG, CRASHED, LARGE, SPOILT)
FAILURES = (MOVED, LOST, MORE, HUNG, CRASHED, LARGE, SPOILT)
# Notes that say nothing of a loss.
_BY_THE_WAY = (
    r"(?i)interlaced|letterbox|thinned|too little to see|burned into|of several with pictures|"
    r"given frame rate|after the sound"
)


def judge_undamaged(path: Path, count: int) -> tuple[str, str]:
    """As judge, of a recording that nothing happened to: only WHOLE is right."""
    outcome, details = judge(path, count)
    return (WHOLE if outcome == WHOLE else SPOILT), f"{outcome}: {details}"


def judge(path: Path, count: int) -> tuple[str, str]:
    """Reads a recording that held `count` pictures before it was damaged; outcome and details."""
    try:
        video = _read(path)
    except VideoError as error:
        if "\n" in str(error):
            return CRASHED, f"a message of several lines: {error}"
        with contextlib.suppress(VideoError):
            video = _read(path, partial=True)
            if not _told(video) and len(video.times) != count:
                return LOST, f"partial: {len(video.times)} of {count} pictures, no note"
        return REFUSED, error.reason
    if _told(video):
        return NOTED, " | ".join(video.notes)
    if video.native_frames > count:
        return MORE, f"{video.native_frames} pictures, not {count}"
    if video.native_frames < count or len(video.times) < count:
        return LOST, f"{video.native_frames} of {count} pictures"
    off = np.abs(video.times - np.arange(count) / RATE).max()
    if off <= 0.5 / RATE + 1e-6:
        return WHOLE, ""
    steps = np.diff(video.times)
    if count > 1 and steps.max() - steps.min() <= 2.1e-3 + 0.02 * steps.mean():
        return RATED, f"{1 / steps.mean():.3f} pictures a second, not {RATE}"
    shown = [number_of(frame) for frame in video.frames]
    return MOVED, f"a picture is {off:.3f} s off its time (they show {shown})"


def _read(path: Path, partial: bool = False) -> Video:
    return read_video(path, _TICKS, (64, 160), partial=partial)


def _told(video: Video) -> bool:
    return any(not re.search(_BY_THE_WAY, note) for note in video.notes)


def _peak() -> int:
    """Most bytes that this process has held since _forget_peak."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _serve(pipe: connection.Connection, goods: dict[str, list[Good]], folder: Path) -> None:
    """Reads one file after another: (container, damage, seed) in, (outcome, details) out."""
    resource.setrlimit(resource.RLIMIT_AS, (_HARD_LIMIT, _HARD_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    while True:
        container, damage, seed = pipe.recv()
        good, data = damaged(goods[container], damage, seed)
        path = folder / f"{os.getpid()}.{good.ending}"
        path.write_bytes(data)
        _forget_peak()
        before = _peak()
        try:
            outcome = (judge if damage != "none" else judge_undamaged)(path, good.count)
        except MemoryError:
            outcome = LARGE, "no memory left"
        except BaseException as error:
            outcome = CRASHED, f"{type(error).__name__}: {error}"
        taken = _peak() - before
        if taken > MEMORY:
            outcome = LARGE, f"{taken / 2**20:,.0f} MiB"
        pipe.send(outcome)


class _Worker:
    """A process that reads, and is replaced where it hangs or dies."""

    def __init__(self, goods: dict[str, list[Good]], folder: Path):
        self._arguments = goods, folder
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.task, self.since = None, 0.0

    def give(self, task: tuple[str, str, int]) -> None:
        self.task, self.since = task, time.monotonic()
        self.pipe.send(task)

    def take(self) -> tuple[str, str]:
        """What came of the task; a dead process is a crash."""
        self.task = None
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            self._start()
            return CRASHED, f"the process died ({code})"

    def stop(self) -> None:
        self._process.kill()
        self._process.join()

    def hung(self) -> tuple[str, str]:
        seconds = time.monotonic() - self.since
        self.stop()
        self._start()
        return HUNG, f"stopped after {seconds:.0f} s"


def read_all(
    tasks: Iterable[tuple[str, str, int]],
    goods: dict[str, list[Good]],
    folder: Path,
    processes: int,
    limit: float,
    done: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[tuple[str, str, int], str, str]]:
    """Reads damaged recordings in several processes; (task, outcome, details) as they come.

    tasks: (container, damage, seed). folder: for the files. limit: seconds that one may take.
    done: says that no further one is to begin.
    """
    tasks = iter(tasks)
    workers = [_Worker(goods, folder) for _ in range(processes)]
    try:
        while True:
            for worker in workers:
                if worker.task is None and not done():
                    task = next(tasks, None)
                    if task is not None:
                        worker.give(task)
            busy = [worker for worker in workers if worker.task is not None]
            if not busy:
                return
            ready = connection.wait([worker.pipe for worker in busy], timeout=0.2)
            for worker in busy:
                task = worker.task
                if worker.pipe in ready:
                    yield task, *worker.take()
                elif time.monotonic() - worker.since > limit:
                    yield task, *worker.hung()
    finally:
        for worker in workers:
            worker.stop()
