"""What the interpreter's tests share: comparing a batch of calls with the specification."""

import jax
import numpy as np
import pytest

from medscope_jax.tools import Call, CallStatus, Tool, byte_table, interpret, parse_call
from tests.xla_cases import NEWER_FUSIONS

BYTES = [bytes([i]) for i in range(256)]


def parse_call_bytes(data, duration):
    """`parse_call` of raw bytes: sampled tokens may spell any bytes; invalid UTF-8 is NOT_JSON."""
    try:
        return parse_call(data.decode("utf-8"), duration)
    except UnicodeDecodeError:
        return Call(Tool.NONE, 0.0, 0.0, CallStatus.NOT_JSON)


@pytest.fixture(scope="session")
def agree():
    """agree(calls, durations, rows, width, pieces, encode): assert that device equals host.

    Calls (bytes) are padded to [rows, width] tokens, so that every use compiles once. Returns the
    host's calls. Times are compared by their bits.
    """
    plain = byte_table(BYTES)
    # Loops of a great many steps: what makes fusions faster is worth its time to compile.
    on_device = jax.jit(interpret, compiler_options=NEWER_FUSIONS)

    def check(calls, durations, rows, width, table=plain, encode=list):
        host = [parse_call_bytes(c, d) for c, d in zip(calls, durations, strict=True)]
        for begin in range(0, len(calls), rows):
            chunk = slice(begin, begin + rows)
            # Padding is garbage on purpose: nothing beyond a row's length may matter.
            tokens = np.full((rows, width), ord("}"), np.int32)
            lengths, limits = np.zeros(rows, np.int32), np.ones(rows, np.float32)
            for row, call in enumerate(calls[chunk]):
                ids = encode(call)
                assert len(ids) <= width, f"{len(ids)} tokens do not fit the test's {width}"
                tokens[row, : len(ids)] = ids
                lengths[row], limits[row] = len(ids), durations[begin + row]
            device = jax.device_get(on_device(tokens, lengths, limits, table))
            for row, expected in enumerate(host[chunk]):
                found = [field[row] for field in device]
                text = calls[begin + row]
                assert (found[0], found[3]) == (expected.tool, expected.status), (
                    f"{text!r} of {durations[begin + row]} s: device {Tool(found[0])} "
                    f"{CallStatus(found[3]).name}, host {expected}"
                )
                times = np.float32([expected.start, expected.end])
                assert np.float32(found[1:3]).tobytes() == times.tobytes(), (text, found, expected)
        return host

    return check
