"""A program that runs builds, each in a process of its own, and kills them at chosen moments.

It takes a job a line, JSON: [moment, folder, task, arguments]; a process of its own runs the task
of this file and is killed before it changes something in the folder for the moment-th time. It
answers with a line: whether the process was killed. Itself it only imports, once: what it forks
has no threads that a fork would lose.
"""

import json
import os
import signal
import sys
import traceback

from medscope_jax.phantom.suite_config import suite_config
from tests.tfds_builders import clinvideo_cases as cases
from tfds_builders.prepare import prepare_suite

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


def build(manual: str, data: str, overwrite: bool) -> None:
    """One part of a built suite."""
    cases.build_all(cases.Path(manual), data, config="rl", quiet=True, overwrite=overwrite)


def prepare(workdir: str, config: dict) -> None:
    """A phantom suite."""
    prepare_suite(workdir, suite_config(config), progress=False, processes=1)


def _run(moment: int, folder: str, task: str, arguments: list) -> None:
    count = 0

    def hook(event: str, given: tuple) -> None:
        nonlocal count
        writes = event == "open" and (given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in _CHANGES:
            # Within rmtree paths are those of an open folder.
            inside = folder in os.fsdecode(str(given[0])) or isinstance(given[-1], int)
            count += inside and not str(given[0]).startswith("/dev")
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    globals()[task](*arguments)


def main() -> None:
    """Runs the jobs of stdin."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            try:
                _run(*json.loads(line))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL), status
        print(int(status != 0), flush=True)


if __name__ == "__main__":
    main()
