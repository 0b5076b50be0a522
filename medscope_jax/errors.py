"""Errors that a user can act on: one line saying what is wrong and what to do."""

import contextlib
import difflib
import errno
import io
import os
import re
import select
import sys
from collections.abc import Callable, Iterable

from medscope_jax.quiet import quiet_storage
from medscope_jax.visible import shown

# Exit statuses of every entry point: 0 success, 2 a mistake or limit to act on, 3 training that
# stopped because its numbers were no longer finite, 75 training that was asked to stop and goes on
# when it is started again (sysexits' "temporary failure": no signal's status, so that a scheduler
# can tell such a run from one that was killed or refused), 130 Ctrl-C, 141 nobody reads the output
# any more (as a shell shows the signal that ends other tools then).
EXIT_USER_ERROR = 2
EXIT_NOT_FINITE = 3
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130
EXIT_NOT_READ = 141

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
# What a machine may say of a path that is not the program's fault, and what helps. A file that is
# not there is not among them: whoever opens one knows better what should have been there.
_REMEDIES = {
    errno.EACCES: "check the permissions of it and of the folders above it, or name another",
    errno.EPERM: "check the permissions of it and of the folders above it, or name another",
    errno.EROFS: "name one on a disk that can be written",
    errno.ENOTDIR: "a part of this path is a file and no folder; name another",
    errno.EISDIR: "name a file",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "its links lead in a circle; name what they should lead to",
    errno.EIO: "its disk or connection has a fault; check it or use a copy elsewhere",
    errno.ESTALE: "its network folder was mounted anew; run again",
    errno.EFBIG: "files may not grow so large here; raise the limit (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENXIO: "it is a socket, or a device that is not there; move it away, or name another",
    errno.ENFILE: "other programs hold too many open files; run again later",
}


class UserError(ValueError):
    """A mistake or limit outside the program; its one-line message is all the user needs."""

    status = EXIT_USER_ERROR  # that the program leaves with


class ConfigError(UserError):
    """A config file, key or value that can't be used; names it and the closest known one."""


class NotFiniteError(UserError):
    """Training stopped: loss or gradient was not finite, several steps in a row."""

    status = EXIT_NOT_FINITE


def is_disk_full(error: BaseException | None) -> bool:
    """Whether `error`, or anything it was raised from, says that the disk or quota is full.

    Storage libraries rewrap the operating system's error as text, so the text is looked at too.
    """
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _FULL_DISK:
            return True
        text = str(error)
        if "No space left on device" in text or "Disk quota exceeded" in text:
            return True
        error = error.__cause__ or error.__context__
    return False


def closest(name: str, known: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` with the known name most like `name`, or "" if none is."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def path_fault(error: BaseException) -> str | None:
    """What a path's own fault (no permission, read-only, a name too long ...) says, on one line.

    Storage libraries rewrap the operating system's error as text, so the text is looked at too.
    None for a full disk, see is_disk_full, and for any other error.
    """
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno in _REMEDIES:
        path = cause.filename2 or cause.filename
        path = os.fsdecode(path) if isinstance(path, bytes) else path
        what = cause.strerror if path is None else f"{path}: {cause.strerror}"
        return f"{what}; {_REMEDIES[cause.errno]}"
    text = one_line(error)
    for number, remedy in _REMEDIES.items():
        reason = os.strerror(number)
        if not isinstance(error, OSError) and reason in text:
            path = _path_in(text)
            return f"{path}: {reason}; {remedy}" if path else f"{text}; {remedy}"
    return None


def _path_in(text: str) -> str:
    """The first absolute path in quotes: a storage library's words name what could not be used."""
    found = re.search(r"[\"'](/[^\"']*)[\"']", text)
    return found[1] if found else ""


def run_main(main: Callable[[list[str]], int | None]) -> None:
    """Runs an entry point on the command line's arguments and leaves with its exit status.

    A `UserError` becomes one line on stderr and its status, a full disk or a path that can't be
    used one line and status 2, Ctrl-C status 130; any other exception is a defect of the program
    and keeps its traceback. A terminal or pipe that can't show a character gets its number.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not none at all, nor one of another kind
            stream.reconfigure(errors="backslashreplace")
    quiet_storage()
    status: int | str | None
    try:
        status = main(sys.argv[1:]) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
    except SystemExit as stop:
        # rich leaves so where it finds that nobody reads its table.
        status = EXIT_NOT_READ if isinstance(stop.__context__, BrokenPipeError) else stop.code
    except KeyboardInterrupt:
        _say("interrupted")
        status = EXIT_INTERRUPTED
    except Exception as error:
        status = _status(error)
    _drop_unwritten()
    sys.exit(status)


def _status(error: Exception) -> int:
    """Says what an error means, in one line, and gives its exit status; raises what is a defect."""
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        return EXIT_NOT_READ
    if isinstance(error, UserError):
        _say(f"error: {error}" if str(error).strip() else f"error: {type(error).__name__}")
        return error.status
    if is_disk_full(error):
        target = getattr(error, "filename", None) or _path_in(one_line(error))
        words = "" if isinstance(error, OSError) else f": {one_line(error)}"
        what = f" while writing {target}" if target else words
        _say(f"error: disk full{what}; free some space and run again")
    elif fault := path_fault(error):
        _say(f"error: {fault}")
    else:
        raise error
    return EXIT_USER_ERROR


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        print(shown(line), file=sys.stderr, flush=True)


def _nobody_reads() -> bool:
    """Whether the program that read our output has gone; other pipes may break, too."""
    for descriptor in (1, 2):
        poll = select.poll()
        poll.register(descriptor, 0)
        if any(events & select.POLLERR for _, events in poll.poll(0)):
            return True
    return False


def _drop_unwritten() -> None:
    """Lets go of what an output did not take: Python would try once more, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)


def one_line(error: BaseException) -> str:
    """The error's text on one line; its class name if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
