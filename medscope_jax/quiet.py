"""What storage libraries' threads print of an error that is also raised to whoever asked for it.

On a full or read-only disk Orbax logs a traceback in every thread that wrote, and TensorStore's
threads print one for each array that reports to an event loop which the first error has closed:
hundreds of lines around, and after, the one that says what happened.
"""

import logging
import sys
from typing import Any

from medscope_jax.visible import visible

_RAISED = ("_SignalingThread.run() raised an exception", "Metadata file does not exist")


def quiet_storage() -> None:
    """From now on, errors of storage threads are shown where they are raised alone."""
    logging.getLogger("absl").addFilter(_is_not_raised)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _show


def _is_not_raised(record: logging.LogRecord) -> bool:
    """Log filter: what Orbax also raises is left out; names in the rest are made harmless."""
    record.msg, record.args = visible(record.getMessage(), keep="\n\t"), ()
    return not any(words in record.msg for words in _RAISED)


def _show(unraisable: Any) -> None:
    """sys.unraisablehook, less the reports that come after the loop's end."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
