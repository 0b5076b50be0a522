"""How the host's memory is handed out."""

import os
import sys

_TUNABLE = "glibc.malloc.hugetlb=1"


def use_huge_pages() -> None:
    """Starts this program over with huge pages for large buffers, where Linux's glibc has them.

    XLA's CPU back end allocates a step's buffers anew each time. In pages of 4 KiB that cost
    150,000 page faults a training step of the CPU config, a quarter of its processor time; in huge
    pages 1,600. glibc reads the setting at start only. Does nothing where it is set already, or
    elsewhere.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or "glibc.malloc.hugetlb" in tunables:
        return
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{_TUNABLE}".lstrip(":")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
