"""How an entry point leaves: one line on a terminal, whatever the terminal and the error are."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medscope_jax.errors import path_fault

ROOT = Path(__file__).resolve().parent.parent


def run(body, after="", **variables):
    """An entry point of this body in a process of its own: (status, stdout, stderr)."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    code = (
        "import errno, os, sys\nfrom medscope_jax.errors import UserError, run_main\n"
        f"def main(arguments):\n{lines}run_main(main)\n"
    )
    command = ["bash", "-c", f'"$0" -c "$1" {after}', sys.executable, code]
    ran = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, timeout=60
    )
    return ran.returncode, ran.stdout.decode(), ran.stderr.decode()


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}])
def test_a_terminal_without_the_characters(variables):
    """Their numbers stand for them: no traceback, and the status is the error's."""
    variables |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    body = "print('Gr\\xf6\\xdfe \\u2264 3 \\udce9')\nraise UserError('Gr\\xf6\\xdfe \\udce9')"
    status, output, error = run(body, **variables)
    assert status == 2
    assert output == "Gr\\xf6\\xdfe \\u2264 3 \\udce9\n"
    assert error == "error: Gr\\xf6\\xdfe <byte E9>\n"


def test_a_table_for_a_reader_who_leaves():
    table = (
        "from rich.console import Console\nfrom rich.table import Table\n"
        "table = Table('a')\n[table.add_row('x' * 50) for _ in range(3000)]\n"
        "Console().print(table)"
    )
    for body in ("for i in range(99999):\n    print(i)", table, "print('x' * 9)"):
        status, output, error = run(body, after='| (exec 0<&-; sleep 0.2); exit "${PIPESTATUS[0]}"')
        assert (status, error) == (141, ""), error


def test_a_full_disk_behind_the_output():
    for body in ("print('x')", "print('x', flush=True)", "print('x' * 99999)"):
        status, _, error = run(body, after="> /dev/full")
        assert status == 2 and error.startswith("error: disk full") and error.count("\n") == 1
    assert run("raise UserError('mine')", after="2> /dev/full")[0] == 2
    assert run("print('x')", after=">&- 2>&-")[0] == 0


def test_a_mistake_is_one_line_whatever_is_in_it():
    """A name's line breaks and escape sequences are seen, not obeyed."""
    body = "raise UserError('no video \\x1b[2J\\nerror: none\\r\\u202e4pm.exe')"
    status, _, error = run(body)
    assert status == 2
    assert error == "error: no video <U+001B>[2J<U+000A>error: none<U+000D><U+202E>4pm.exe\n"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "check the permissions"),
        (errno.EROFS, "a disk that can be written"),
        (errno.ENOTDIR, "a part of this path is a file"),
        (errno.ENAMETOOLONG, "a shorter path"),
        (errno.EIO, "has a fault"),
        (errno.ELOOP, "lead in a circle"),
        (errno.ENXIO, "is a socket"),
    ],
)
def test_faults_of_a_path(number, remedy):
    """Raised as such, by a name in bytes, on a rename, and in a storage library's words."""
    text = os.strerror(number)
    for error in (
        OSError(number, text, "/data/x"),
        OSError(number, text, b"/data/x"),
        OSError(number, text, "/data/.tmp", None, "/data/x"),
        ValueError(f"Error opening local file '/data/x' [OS error {number}: {text}]"),
    ):
        line = path_fault(error)
        assert "/data/x" in line and text in line and remedy in line


def test_defects_keep_their_traceback():
    for error in (FileNotFoundError(errno.ENOENT, "none", "x"), KeyError("x"), BrokenPipeError()):
        assert path_fault(error) is None
    while_handling = "try:\n    open('/proc/1/none/x')\nexcept OSError:\n    {}['defect']"
    for body in (while_handling, "raise BrokenPipeError()", "open('/none/x')"):
        status, _, error = run(body)
        assert status == 1 and error.startswith("Traceback"), error


LATE = """
import asyncio, logging, threading
async def fail():
    raise OSError(errno.ENOSPC, "No space left on device", "/data/run/x")
loop = asyncio.new_event_loop()
logger = logging.getLogger("absl")
logger.error("[process=0] _SignalingThread.run() raised an exception: No space left on device")
logger.error("news of %s", "a\x1b[2J")
loop.close()
try:
    loop.call_soon_threadsafe(print)
except RuntimeError as error:
    sys.unraisablehook(type("Args", (), {"exc_value": error, "exc_type": RuntimeError,
        "exc_traceback": None, "err_msg": None, "object": None}))
asyncio.run(fail())
"""


def test_threads_of_storage_do_not_tell_it_again():
    """What Orbax logs of an error that it raises, and TensorStore's late reports, stay unsaid."""
    status, _, error = run(LATE.strip())
    assert status == 2
    told = "error: disk full while writing /data/run/x; free some space and run again"
    assert error == f"news of a<U+001B>[2J\n{told}\n"


def test_what_a_path_of_the_user_says():
    status, _, error = run("open('/' + 'x' * 300)")
    assert status == 2 and error.count("\n") == 1 and "File name too long" in error
    status, _, error = run("open('/etc/passwd/x')")
    assert (status, error.count("\n")) == (2, 1) and error.startswith("error: /etc/passwd/x: Not a")
