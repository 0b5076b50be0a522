"""Errors that a user can act on: one line saying what is wrong and what to do."""

import difflib
import errno
import sys
from collections.abc import Callable, Iterable

# Exit statuses of every entry point: 0 success, 2 a mistake or limit to act on, 3 training that
# stopped because its numbers were no longer finite, 75 training that was asked to stop and goes on
# when it is started again (sysexits' "temporary failure": no signal's status, so that a scheduler
# can tell such a run from one that was killed or refused), 130 Ctrl-C.
EXIT_USER_ERROR = 2
EXIT_NOT_FINITE = 3
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class UserError(ValueError):
    """A mistake or limit outside the program; its one-line message is all the user needs."""

    status = EXIT_USER_ERROR  # that the program leaves with


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


def run_main(main: Callable[[list[str]], int | None]) -> None:
    """Runs an entry point on the command line's arguments and leaves with its exit status.

    A `UserError` becomes one line on stderr and its status, a full disk one line and status 2,
    Ctrl-C status 130; any other exception is a defect of the program and keeps its traceback.
    """
    try:
        status = main(sys.argv[1:]) or 0
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        status = error.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = EXIT_INTERRUPTED
    except Exception as error:
        if not is_disk_full(error):
            raise
        target = getattr(error, "filename", None)
        what = f"writing {target}" if target else one_line(error)
        print(f"error: disk full while {what}; free some space and run again", file=sys.stderr)
        status = EXIT_USER_ERROR
    sys.exit(status)


def one_line(error: BaseException) -> str:
    """The error's text on one line; its class name if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
