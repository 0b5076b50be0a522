"""Leaving early: a signal ends the run after the step under way, with a checkpoint of it.

    first SIGTERM (a scheduler's notice) or SIGINT (Ctrl-C)
        while a stage trains    the step is finished and saved, then status EXIT_STOPPED
        at any other moment     nothing is lost by leaving: status EXIT_STOPPED at once
    second one                  status 128 + signal at once, as if killed

What is on the disk is whole at any moment, so that leaving in any way loses a few steps at most.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import Any, Self

import jax

from medscope_jax.distributed.multihost import Consensus
from medscope_jax.errors import EXIT_STOPPED

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PATIENCE = 10.0  # seconds that leaving may take where nothing is being saved


class Stopped(BaseException):
    """Ends the run as asked for. No handler of ordinary errors sees it; its text is for the user.

    Raised by `run_stage` once its step is saved, and wherever the main thread is if no stage
    trains.
    """


class StopSignals(contextlib.AbstractContextManager):
    """Listens to the signals inside its context. Outside of it, it is never asked to stop.

    A thread notices a signal the moment it comes; Python's own handlers would wait until the main
    thread returns from a compilation, or from a step of many seconds.
    """

    def __init__(self):
        """Leaves the signals alone until the context is entered."""
        self._asked = self._held = False
        self._consensus = Consensus()
        self._previous: dict[int, Any] = {}  # handlers, as signal.signal gives them
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Takes over the signals; only the main thread can, elsewhere they stay as they are."""
        if threading.current_thread() is not threading.main_thread():
            return self
        self._heard, self._wake = socket.socketpair()
        for end in (self._heard, self._wake):
            end.setblocking(False)
        self._old_wake = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                self._previous[number] = signal.signal(number, self._on_signal)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Gives the signals back."""
        if self._thread is None:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        signal.set_wakeup_fd(self._old_wake)
        self._wake.send(b"\0")  # no signal's number: ends the thread
        self._thread.join()
        self._heard.close()
        self._wake.close()

    def hold(self) -> None:
        """From here on there is something to save: a signal waits to be asked about."""
        self._held = True

    def agreed(self) -> bool:
        """Whether to save and leave after this step; the same on all processes, who call together.

        Several processes learn of a signal to one of them a step later, without waiting for it.
        """
        return self._consensus(self._asked)

    def release(self) -> None:
        """All is saved; raises Stopped if a signal is waiting."""
        self._held = False
        if self._asked:
            raise Stopped("")

    def _on_signal(self, number: int, frame: object) -> None:
        """Runs in the main thread, as soon as it runs Python."""
        self._asked = True
        if self._held:
            return
        if jax.distributed.is_initialized():
            os._exit(EXIT_STOPPED)  # the others can't agree on leaving here: they find it gone
        raise Stopped("")

    def _watch(self) -> None:
        """The thread: says what happens, and sees to it that it does."""
        seen, idle_since = 0, time.monotonic()
        while True:
            ready, _, _ = select.select([self._heard], [], [], 0.5 if seen else None)
            for number in self._heard.recv(64) if ready else b"":
                if number == 0:
                    return
                if number not in SIGNALS:
                    continue
                seen += 1
                if seen > 1:
                    os._exit(128 + number)
                self._asked = True
                self._say(number)
            if self._held or not seen:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > _PATIENCE:
                os._exit(EXIT_STOPPED)  # what is on the disk is whole at any moment

    def _say(self, number: int) -> None:
        what = "leaving after the step under way, which is saved" if self._held else "leaving"
        line = f"{signal.Signals(number).name}: {what}; run the same command again to go on"
        with contextlib.suppress(OSError, ValueError):
            print(f"\n{line}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)
