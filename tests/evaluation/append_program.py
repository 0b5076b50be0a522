"""Adds ten lines to a file, and is killed while it writes: PATH BYTES, of which it may write BYTES.

What is there already is not added again.
"""

import os
import signal
import sys
from pathlib import Path

from medscope_jax.evaluation.sealed_lines import SealedFile

SCHEMA = {"number": int, "text": str}


def lines():
    """What an undisturbed run leaves; texts of others are in it."""
    return [{"number": n, "text": f"{n} \u202e\n\u00e9 " * n} for n in range(10)]


def main(path: Path, left: int) -> None:
    """Adds what is missing, two lines at a time."""
    write = os.write

    def killed(descriptor, data):
        nonlocal left
        written = write(descriptor, data[:left])
        left -= written
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    os.write = killed
    with SealedFile(path) as file:
        reading = file.read(SCHEMA, SCHEMA)
        done = len(list(reading))
        file.cut(reading)
        for first in range(done, 10, 2):
            file.append(lines()[first : first + 2])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
