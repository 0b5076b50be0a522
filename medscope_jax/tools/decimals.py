"""Decimal text to float32 on device, with integers only: float32(float64(text)), exactly.

A decimal number is a sum of digit * 10^power. The powers of ten stand in a table as fixed-point
binary numbers, in limbs of 16 bits, so the sum is one small product and its carries one short scan.
The table rounds down in its last limb only, and has enough limbs that a sum nearer to a rounding
boundary than that error IS the boundary: every boundary of float64 down to half of the smallest
float32 is a multiple of 2^-203, hence of 10^-203, and distinct multiples of 10^-203 lie 2^-675
apart, far more than the error of 2^-693. So rounding never has to guess.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_HIGH, _LOW = 38, -203  # powers of ten with a row; beyond: infinity, or "not exactly a boundary"
_LIMB_BITS, _FRACTION_LIMBS, _INTEGER_LIMBS = 16, 44, 9
_LIMBS = _FRACTION_LIMBS + _INTEGER_LIMBS
_FRACTION_BITS = _LIMB_BITS * _FRACTION_LIMBS
_MAX_EXPONENT = 10**8  # larger exponents mean the same: the text has fewer digits than this
_EXPONENT_DIGITS = 8

# The least decimal that float64 rounds to infinity: halfway from its largest number to 2^1024.
_FLOAT64_OVERFLOW = np.array([int(c) for c in str(2**1024 - 2**970)], np.int32)
_OVERFLOW_POWER = len(_FLOAT64_OVERFLOW) - 1


def _powers_of_ten() -> np.ndarray:
    """[powers, limbs] uint32, rows from 10^_HIGH down to 10^_LOW, limbs from low to high."""
    rows = []
    for power in range(_HIGH, _LOW - 1, -1):
        fixed = (10 ** max(power, 0) << _FRACTION_BITS) // 10 ** max(-power, 0)
        rows.append([(fixed >> (_LIMB_BITS * limb)) & 0xFFFF for limb in range(_LIMBS)])
    return np.array(rows, np.uint32)


_TABLE = _powers_of_ten()

_Digits = Callable[[jax.Array], jax.Array]


class Decimals(NamedTuple):
    """Numbers read at given places of a text; arrays [B, K]."""

    is_finite: jax.Array  # bool: a JSON number stands there, and float64 holds it
    is_negative: jax.Array  # bool: below zero, also after rounding to float32
    bits: jax.Array  # int32 bit pattern of |float32|; ordered as the numbers are


def read_decimals(text: jax.Array, place: jax.Array) -> Decimals:
    """Read the JSON values that begin at `place` [B, K] of the byte rows `text` [B, M] int32.

    The text must be valid JSON there and end with a byte that is part of no number. A place below
    0, or a value that is no number, gives is_finite False.
    """
    spans = _spans(text, place)
    digits = _digit_reader(text, spans)
    nonzero = spans.nonzero
    bits = _round(*_fixed_point(spans, digits))
    # The leading digit's power decides what the table has no rows for.
    lead = spans.units + spans.integer_digits - 1 - spans.first_nonzero
    bits = jnp.where(nonzero, jnp.where(lead > _HIGH, 0x7F800000, bits), 0)
    offset = jnp.arange(len(_FLOAT64_OVERFLOW), dtype=jnp.int32)
    leading = digits(spans.first_nonzero[..., None] + offset)
    difference = leading - jnp.asarray(_FLOAT64_OVERFLOW)
    decisive = jnp.argmax(difference != 0, axis=-1, keepdims=True)
    reaches = jnp.take_along_axis(difference, decisive, axis=-1)[..., 0] >= 0
    overflow = nonzero & ((lead > _OVERFLOW_POWER) | ((lead == _OVERFLOW_POWER) & reaches))
    return Decimals(spans.is_number & ~overflow, spans.minus & (bits > 0), bits)


class _Spans(NamedTuple):
    is_number: jax.Array  # bool: a number stands there
    minus: jax.Array  # bool
    begin: jax.Array  # place of the first digit
    integer_digits: jax.Array
    total_digits: jax.Array  # before and after the point
    units: jax.Array  # power of ten of the last digit before the point: the exponent
    nonzero: jax.Array  # bool: any digit but 0
    first_nonzero: jax.Array  # digit index
    last_nonzero: jax.Array


def _take(text: jax.Array, place: jax.Array) -> jax.Array:
    """Bytes of the rows of `text` [B, M] at `place` [B, ...], which is clipped into the row."""
    flat = jnp.clip(place, 0, text.shape[1] - 1).reshape(text.shape[0], -1)
    return jnp.take_along_axis(text, flat, axis=1).reshape(place.shape)


def _spans(text: jax.Array, place: jax.Array) -> _Spans:
    position = jnp.arange(text.shape[1], dtype=jnp.int32)
    rows = text[:, None, :]
    is_digit = (rows >= ord("0")) & (rows <= ord("9"))

    def first(condition, begin):
        found = condition & (position >= begin[..., None])
        return jnp.min(jnp.where(found, position, text.shape[1]), axis=-1)

    minus = (place >= 0) & (_take(text, place) == ord("-"))
    begin = place + minus
    integer_end = first(~is_digit, begin)
    point = (_take(text, integer_end) == ord(".")).astype(jnp.int32)
    end = jnp.where(point > 0, first(~is_digit, integer_end + 1), integer_end)
    letter = _take(text, end)
    sign = _take(text, end + 1)
    signed = (sign == ord("+")) | (sign == ord("-"))
    power_begin = end + 1 + signed
    power_end = first(~is_digit, power_begin)
    power_first = first(rows != ord("0"), power_begin)
    size = power_end - power_first
    power = jnp.zeros_like(place)
    for i in range(_EXPONENT_DIGITS):
        digit = _take(text, power_first + i) - ord("0")
        power = jnp.where(i < size, 10 * power + digit, power)
    power = jnp.where(size > _EXPONENT_DIGITS, _MAX_EXPONENT, power)
    power = jnp.where((letter == ord("e")) | (letter == ord("E")), power, 0)

    # Digit indices skip the point.
    inside = (position >= begin[..., None]) & (position < end[..., None])
    inside &= is_digit & (rows != ord("0"))
    index = position - begin[..., None] - (position > integer_end[..., None])
    first_nonzero = jnp.min(jnp.where(inside, index, text.shape[1]), axis=-1)
    last_nonzero = jnp.max(jnp.where(inside, index, -1), axis=-1)
    return _Spans(
        is_number=(place >= 0) & (integer_end > begin),
        minus=minus,
        begin=begin,
        integer_digits=integer_end - begin,
        total_digits=end - begin - point,
        units=jnp.where(sign == ord("-"), -power, power),
        nonzero=last_nonzero >= 0,
        first_nonzero=first_nonzero,
        last_nonzero=last_nonzero,
    )


def _digit_reader(text: jax.Array, spans: _Spans) -> _Digits:
    """digits(index [B, K, I]) -> the digits with these indices, 0 outside the number."""

    def digits(index):
        begin, integers, total = (
            a[..., None] for a in (spans.begin, spans.integer_digits, spans.total_digits)
        )
        digit = _take(text, begin + index + (index >= integers)) - ord("0")
        return jnp.where((index >= 0) & (index < total), digit, 0)

    return digits


def _fixed_point(spans: _Spans, digits: _Digits) -> tuple[jax.Array, jax.Array]:
    """(limbs [B, K, limbs], sticky [B, K]): the number as the table's sum, and whether nonzero
    digits below the table's last power are missing from it."""
    power = jnp.arange(_HIGH, _LOW - 1, -1, dtype=jnp.int32)
    top = (spans.units + spans.integer_digits - 1)[..., None]
    placed = digits(top - power).astype(jnp.uint32)
    # Below 242 rows * 9 * 2^16 < 2^28: uint32 holds the sums.
    sums = jnp.sum(placed[..., None] * jnp.asarray(_TABLE), axis=-2, dtype=jnp.uint32)
    # Half of the last limb makes up for the table's rounding: exact boundaries stay exact above it.
    sums = sums.at[..., 0].add(np.uint32(1 << (_LIMB_BITS - 2)))

    def carry(above, limb):
        limb = limb + above
        return limb >> _LIMB_BITS, limb & 0xFFFF

    zero = jnp.zeros(sums.shape[:-1], jnp.uint32)
    _, limbs = jax.lax.scan(carry, zero, jnp.moveaxis(sums, -1, 0))
    return jnp.moveaxis(limbs, 0, -1), top[..., 0] - spans.last_nonzero < _LOW


def _round(limbs: jax.Array, sticky: jax.Array) -> jax.Array:
    """Round the fixed-point number to float64, then that to float32 bits; halves go to even."""
    bit = jnp.arange(_LIMBS * _LIMB_BITS, dtype=jnp.int32)
    shift = jnp.arange(_LIMB_BITS, dtype=jnp.uint32)
    bits = ((limbs[..., None] >> shift) & 1).astype(jnp.bool_)
    bits = bits.reshape(*limbs.shape[:-1], -1)
    # The last limb holds the correction only; a boundary has nothing below it.
    bits &= bit >= _LIMB_BITS

    highest = jnp.max(jnp.where(bits, bit, -1), axis=-1)
    denormal = _FRACTION_BITS - 149  # float32 has no bits below 2^-149
    low = jnp.maximum(highest - 23, denormal)  # last bit kept in float32
    low64 = highest - 52  # last bit kept in float64

    def at(index):
        picked = jnp.take_along_axis(bits, jnp.maximum(index, 0)[..., None], axis=-1)
        return picked[..., 0] & (index >= 0)

    def between(begin, end):
        return (bit >= begin[..., None]) & (bit < end[..., None])

    window = between(low, low + 24) & bits
    weight = jnp.left_shift(1, jnp.clip(bit - low[..., None], 0, 23))
    mantissa = jnp.sum(jnp.where(window, weight, 0), axis=-1, dtype=jnp.int32)
    below64 = jnp.any(between(jnp.zeros_like(low), low64 - 1) & bits, axis=-1) | sticky
    up64 = at(low64 - 1) & (below64 | at(low64))
    # What float64 keeps below float32's last bit: its first bit (half) and the others (rest).
    half = at(low - 1)
    rest = between(low64, low - 1)
    any_rest = jnp.any(rest & bits, axis=-1)
    all_rest = jnp.all(~rest | bits, axis=-1)
    odd = (mantissa & 1) > 0
    tie = jnp.where(half, ~any_rest & ~up64, all_rest & up64)
    up = jnp.where(tie, odd, half)
    biased = jnp.maximum(highest - (_FRACTION_BITS - 126), 0)  # exponent field less one
    # The leading 1 of a normal mantissa, and a carry out of it, add to the exponent field.
    result = (biased << 23) + mantissa + up
    return jnp.where(highest >= _FRACTION_BITS + 128, 0x7F800000, result)
