"""Work spread over processes of this machine: an ordered map that holds few jobs at a time."""

import collections
import concurrent.futures
import concurrent.futures.process
import contextlib
import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator

import cv2

from medscope_jax.errors import UserError

# An ordered map: (function, jobs) -> an iterator of results, in the order of the jobs.
Spread = Callable[[Callable, Iterable], Iterator]

# Jobs in flight a process: enough that none waits for the one that gives out jobs.
_QUEUE = 2


def available_processes() -> int:
    """How many processes this one may spread work over: 1 where it may start none."""
    if multiprocessing.current_process().daemon:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def workers(processes: int, here: bool = True) -> Iterator[Spread]:
    """An ordered map over fresh processes; with `here` a plain map for one process.

    Jobs are taken, and results kept, a few at a time: neither jobs nor results pile up. Functions
    and jobs must be picklable.

    Raises:
      UserError: a process died of a job (no memory, or a decoder's crash).
    """
    if processes <= 1 and here:
        yield map
        return
    # Fresh processes: forking one that has started JAX's threads can deadlock.
    with concurrent.futures.ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _start_worker
    ) as executor:
        try:
            yield functools.partial(_ordered, executor, _QUEUE * processes)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a worker process died: out of memory, or a decoder crashed on a damaged recording"
            ) from error
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _ordered(
    executor: concurrent.futures.Executor, limit: int, function: Callable, jobs: Iterable
) -> Iterator:
    """Results in the order of the jobs, at most `limit` jobs in flight."""
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    for job in jobs:
        if len(waiting) == limit:
            yield waiting.popleft().result()
        waiting.append(executor.submit(function, job))
    while waiting:
        yield waiting.popleft().result()


def _start_worker() -> None:
    """One thread a process; ends with the parent, even if that is killed."""
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one

    def follow():
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
