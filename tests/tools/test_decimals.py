"""Decimal text to float32 on device equals float32(float(text)), bit for bit."""

import random
from decimal import Decimal, getcontext

import jax
import numpy as np
import pytest

from medscope_jax.tools.decimals import read_decimals
from tests.xla_cases import NEWER_FUSIONS

WIDTH = 900
_read = jax.jit(read_decimals, compiler_options=NEWER_FUSIONS)


def check(texts):
    rows = np.full((len(texts), WIDTH), ord(" "), np.int32)
    for row, text in enumerate(texts):
        rows[row, 1 : 1 + len(text)] = list(text.encode())
    place = np.tile(np.array([1, -1], np.int32), (len(texts), 1))
    found = jax.device_get(_read(rows, place))
    assert not found.is_finite[:, 1].any()
    with np.errstate(over="ignore"):
        values = np.array([float(t) for t in texts])
        expected = values.astype(np.float32)
    np.testing.assert_array_equal(found.is_finite[:, 0], np.isfinite(values))
    good = np.isfinite(values)
    bits = np.abs(expected).view(np.int32)
    wrong = [
        t for t, g, a, b in zip(texts, good, bits, found.bits[:, 0], strict=True) if g & (a != b)
    ]
    assert not wrong, wrong[:5]
    np.testing.assert_array_equal(found.is_negative[good, 0], expected[good] < 0)


def batches(texts, size=1024):
    for begin in range(0, len(texts), size):
        chunk = texts[begin : begin + size]
        check(chunk + ["0"] * (size - len(chunk)))


def plain(value: Decimal) -> str:
    return format(value, "f")


def near(value: Decimal) -> list[str]:
    """A boundary, and the least bit to both sides of it."""
    text = plain(value)
    point = "" if "." in text else "."
    above = text + point + "0" * 30 + "1"
    below = plain(value - Decimal(10) ** -(len((text + point).split(".")[1]) + 30))
    return [text, above, below]


@pytest.fixture(autouse=True)
def exact():
    getcontext().prec = 1200


def test_halfway_cases():
    rng = np.random.default_rng(0)
    bits = np.concatenate(
        [
            rng.integers(0, 0x7F7FFFFF, 120),
            rng.integers(0, 0x00800000, 40),  # denormals
            [0, 1, 2, 0x007FFFFE, 0x007FFFFF, 0x00800000, 0x7F7FFFFE, 0x4B800000, 0x3F7FFFFF],
        ]
    ).astype(np.int32)
    texts = []
    for value in bits.view(np.float32).astype(np.float64):
        upper = float(np.nextafter(np.float32(value), np.float32(np.inf)))
        upper = 2.0**128 if np.isinf(upper) else upper
        middle = (value + upper) / 2  # exact in float64
        texts += near(Decimal(middle))
        # Rounding twice: what float64 rounds onto the halfway point, and what it does not.
        for other in (np.nextafter(middle, 0), np.nextafter(middle, np.inf)):
            texts += near((Decimal(middle) + Decimal(float(other))) / 2)
    batches([t for t in texts if len(t) < WIDTH - 1 and not t.startswith("-")])


def test_float64_overflow_is_exact():
    limit = 2**1024 - 2**970
    texts = [str(limit + step) for step in (-1, 0, 1, -(10**200), 10**200)]
    texts += [f"{limit - 1}.{'9' * 400}", f"{limit}.0", f"0.{limit - 1}e309", f"0.{limit}e309"]
    texts += [
        f"0.000{limit}99e312",
        f"{limit - 1}999e-3",
        f"{limit}000e-3",
        "1.7976931348623157e308",
    ]
    texts += ["1e308", "1e309", "1.8e308", "17976931348623158e292", "17976931348623159e292"]
    texts += ["1e99999999999999999999", "1e-99999999999999999999", "0e99999999999999999999"]
    texts += ["0." + "0" * 400 + "1e400", "1" + "0" * 400 + "e-400", "1e00000000000000000002"]
    batches(texts, 32)


def test_random_forms():
    rng = random.Random(1)
    digits = "0123456789"

    def number():
        first = rng.choice(["0", rng.choice(digits[1:])])
        size = rng.choice([0, 1, 3, 10, 20, 60])
        text = first + (
            "" if first == "0" else "".join(rng.choices(digits, k=rng.randint(0, size)))
        )
        if rng.random() < 0.7:
            zeros = "0" * rng.choice([0, 0, 0, 2, 50])
            text += "." + zeros + "".join(rng.choices(digits, k=rng.randint(1, 1 + size)))
        if rng.random() < 0.5:
            power = rng.choice([2, 10, 45, 60, 330])
            text += rng.choice("eE") + rng.choice(["", "+", "-"]) + str(rng.randint(0, power))
        return rng.choice(["", "", "-"]) + text

    batches([number() for _ in range(8192)])


def test_random_floats():
    rng = np.random.default_rng(2)
    singles = rng.integers(0, 0x7F800000, 2000).astype(np.int32).view(np.float32)
    doubles = rng.integers(0, 0x7FF0 << 48, 1000, dtype=np.int64).view(np.float64)
    clock = np.round(rng.uniform(0, 4000, 2000), 3)
    texts = [repr(float(x)) for x in np.concatenate([singles.astype(np.float64), doubles, clock])]
    batches([t for t in texts if t != "inf"])


def test_what_is_no_number():
    texts = ["-Infinity", "Infinity", "NaN", '"1"', "true", "null", "[1]", "{"]
    rows = np.full((len(texts), 16), ord(" "), np.int32)
    for row, text in enumerate(texts):
        rows[row, : len(text)] = list(text.encode())
    assert not np.any(_read(rows, np.zeros((len(texts), 1), np.int32)).is_finite)
